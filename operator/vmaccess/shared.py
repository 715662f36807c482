"""The ClusterRoles that grants of a bare preset share: kept in step with the live base role, removed when nobody uses them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from vmaccess.cluster.executor import DESPERATE, MAX_STEPS, PATIENCE, Executor, WriteFailed
from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.world import World
from vmaccess.keys import Key, Part
from vmaccess.model.spec import Role, Spec
from vmaccess.policy.catalogue import PRESETS
from vmaccess.policy.children import BindingContent, Kind, PresetId
from vmaccess.policy.cluster_role import shared_role_step
from vmaccess.policy.decide import GRANTED
from vmaccess.policy.grant import Deletion
from vmaccess.policy.kubevirt import DEFAULT_BASE
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Outcome, State, failed
from vmaccess.policy.role import trim
from vmaccess.policy.steps import Refused, Write, takes_away
from vmaccess.policy.target import target_of
from vmaccess.policy.times import Phase
from vmaccess.timing import Timing

log = logging.getLogger(__name__)

NAMES = {PresetId(preset).child_name: preset for preset in PRESETS}


def shared_by(content: object) -> str | None:
    """The preset whose ClusterRole a RoleBinding points to."""
    return (
        NAMES.get(content.role_name) if isinstance(content, BindingContent) and content.role_kind == Kind.CLUSTER_ROLE else None
    )


class SharedRoles:
    """Works on the keys of presets. `wake` looks at a grant again: what became of its ClusterRole is its own state too."""

    def __init__(
        self, world: World, executor: Executor, queue: WorkQueue[Key], wake: Callable[[str], None], timing: Timing
    ) -> None:
        self._world, self._executor, self._queue, self._wake, self._timing = world, executor, queue, wake, timing
        self._outcomes: dict[str, Outcome] = {}

    def outcome(self, preset: str) -> Outcome | None:
        """What has come of the ClusterRole of a preset; None where nothing is known yet."""
        return self._outcomes.get(preset)

    def check(self, preset: str | None = None) -> None:
        """See to one preset, or to all that have a ClusterRole."""
        present = [known for name, known in NAMES.items() if self._world.cluster_role(name) is not None]
        for each in present if preset is None else (preset,):
            self._queue.add(Key(Part.PRESET, each), urgent=True)

    def users(self, preset: str) -> Iterator[str]:
        """Names of the grants that ask for this preset, those that give nothing at present included."""
        owner = PresetId(preset)
        for grant in self._world.grants:
            if grant.deletion is not Deletion.NONE or not isinstance(grant.spec, Spec):
                continue
            if target_of(grant.id, grant.spec.role).owner == owner:
                yield grant.id.name

    async def look_at(self, key: Key) -> None:
        """Bring the ClusterRole of one preset to where it should be."""
        owner = PresetId(key.grant)
        for tried in range(MAX_STEPS):
            base = self._world.base(DEFAULT_BASE)
            wanted = trim(base, Role.model_validate({"preset": owner.preset})).rules if base is not None else None
            observed = self._world.cluster_role(owner.child_name)
            used = self._used(owner) if observed is not None else self._wanted(owner)
            step = shared_role_step(owner, wanted, observed, used=used)
            if not isinstance(step, Write):
                self._note(owner, Outcome(State.FAILED, step.reason, step.message) if isinstance(step, Refused) else GRANTED)
                self._queue.forget(key)
                return
            try:
                desperate = self._queue.failures(key) >= DESPERATE
                await self._executor.write(step, owner, insist=tried >= PATIENCE, desperate=desperate)
            except WriteFailed as error:
                revoking = error.reason is Reason.API_ERROR and takes_away(step)
                reason = Reason.REVOCATION_FAILED if revoking else error.reason
                self._note(owner, failed(None, reason, error.message, final=error.final))
                raise
        self._queue.retry(key)

    def _wanted(self, owner: PresetId) -> bool:
        """Whether somebody is to be bound to it: not for a grant that gives nothing at present."""
        users = (self._world.grant(name) for name in self.users(owner.preset))
        return any(
            grant is not None and not grant.limits.suspend and self._timing.phase(grant) is Phase.DURING for grant in users
        )

    def _used(self, owner: PresetId) -> bool:
        if next(self.users(owner.preset), None) is not None:
            return True
        return any(shared_by(binding.content) == owner.preset for binding in self._world.children[Kind.ROLE_BINDING])

    def _note(self, owner: PresetId, outcome: Outcome) -> None:
        known = self._outcomes.get(owner.preset)
        self._outcomes[owner.preset] = outcome
        if known is None or not known.is_like(outcome):
            for name in self.users(owner.preset):
                self._wake(name)
