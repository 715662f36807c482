"""Writes that may bind somebody to the ClusterRole of a grant's own: it must not give more before they have been answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vmaccess.cluster.executor import WriteFailed
from vmaccess.keys import Key
from vmaccess.policy.children import BindingContent, GrantId, Kind
from vmaccess.policy.steps import Create, Delete, Write
from vmaccess.progress import Progress, loop_time

UNANSWERED = 60.0  # seconds for which a write that was not answered may still happen: kube-apiserver's --request-timeout


class OnTheirWay:
    """What each of those writes was decided for."""

    def __init__(self) -> None:
        self._sent: dict[Key, Progress] = {}
        self._unanswered: list[tuple[str, Progress, float]] = []  # and the loop's time until which each may still happen

    @contextmanager
    def sent(self, progress: Progress, key: Key, step: Write) -> Iterator[None]:
        """The write is decided on, and for the length of a `with` block on its way."""
        if not _binds_own_cluster_role(step, progress.grant.id):
            yield
            return
        self._sent[key] = progress
        try:
            yield
        except WriteFailed as error:
            if not error.answered:
                self._unanswered = [*self._may_still_happen(), (key.grant, progress, loop_time() + UNANSWERED)]
            raise
        finally:
            self._sent.pop(key, None)

    def is_stale(self, progress: Progress) -> bool:
        """Whether a write that was decided on for an earlier spec or base is on its way: it may bind who is to leave."""
        sent = ((key.grant, of) for key, of in self._sent.items())
        unanswered = ((name, of) for name, of, _ in self._may_still_happen())
        return any(name == progress.grant.id.name and of is not progress for name, of in (*sent, *unanswered))

    def _may_still_happen(self) -> list[tuple[str, Progress, float]]:
        now = loop_time()
        return [entry for entry in self._unanswered if entry[2] > now]


def _binds_own_cluster_role(step: Write, grant: GrantId) -> bool:
    """Whether a write may bind somebody to the ClusterRole of the grant's own."""
    if isinstance(step, Delete):
        return False
    content = step.content if isinstance(step, Create) else step.content or step.child.content
    return isinstance(content, BindingContent) and (content.role_kind, content.role_name) == (Kind.CLUSTER_ROLE, grant.child_name)
