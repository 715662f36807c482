"""What a decision may ask for: one write at a time, or the word that nothing is left to do.

A step is decided anew from what is observed after the one before it, so that it makes no difference between which two
requests the process dies.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmaccess.policy.children import Child, Content, Kind, OwnerId
from vmaccess.policy.reasons import Reason


@dataclass(frozen=True, slots=True)
class Create:
    """POST a child; it fails where the name is taken, so a foreign object is never written.

    `instead` is what to take away where the API server refuses it for good: what it should have replaced gives more than is
    wanted.
    """

    kind: Kind
    namespace: str
    name: str
    content: Content
    instead: Delete | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """Change a child, guarded by its uid and resourceVersion. Finalizers are always cleared: none of ours has any.

    `content` None leaves everything but the metadata alone; `marks` None leaves labels and ownerReferences alone.
    `instead` is what to do where the API server refuses the patch for good: the next best way to take away what this one
    takes away. It is None where nothing is taken away.
    """

    child: Child
    content: Content | None
    marks: OwnerId | None
    instead: Patch | Delete | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a child, guarded by its uid; `unchanged` guards by resourceVersion too, where ownership is in doubt."""

    child: Child
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to write now: what is awaited will be seen by a watch. `holds` says that too wide a right stays meanwhile."""

    why: str
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing left to do."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing can be done, and a person or time must cure it."""

    reason: Reason
    message: str


Write = Create | Patch | Delete
Step = Write | Wait | Settled | Refused


def takes_away(step: Write) -> bool:
    """Whether the write takes something from somebody, so that its failure leaves a right standing."""
    return isinstance(step, Delete) or step.instead is not None
