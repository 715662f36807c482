"""To which role a grant's RoleBindings point. A roleRef cannot be changed, so every target has a binding name of its own."""

from __future__ import annotations

from dataclasses import dataclass

from vmaccess.model.spec import Role
from vmaccess.policy.catalogue import PRESETS, preset_of
from vmaccess.policy.children import BindingContent, Child, GrantId, Kind, OwnerId, PresetId, Subjects
from vmaccess.policy.kubevirt import DEFAULT_BASE

CLUSTER = ":cluster"  # ends the names of bindings to a grant's own ClusterRole; presets begin with a capital


@dataclass(frozen=True, slots=True)
class Target:
    """A Role of the namespace or a ClusterRole, whose it is, and the name of the RoleBindings to it."""

    kind: Kind
    owner: OwnerId
    binding: str

    @property
    def role(self) -> str:
        """Name of the Role or ClusterRole."""
        return self.owner.child_name

    def content(self, subjects: Subjects) -> BindingContent:
        """What a RoleBinding to this target says."""
        return BindingContent(self.kind, self.role, subjects)

    def is_of(self, binding: Child) -> bool:
        """Whether a RoleBinding points here."""
        ref = binding.content
        return isinstance(ref, BindingContent) and (ref.role_kind, ref.role_name) == (self.kind, self.role)


def role_target(grant: GrantId) -> Target:
    """The Role in each namespace."""
    return Target(Kind.ROLE, grant, grant.child_name)


def cluster_target(grant: GrantId) -> Target:
    """The grant's own ClusterRole."""
    return Target(Kind.CLUSTER_ROLE, grant, f"{grant.child_name}{CLUSTER}")


def preset_target(grant: GrantId, preset: str) -> Target:
    """The ClusterRole that all grants of this preset share."""
    return Target(Kind.CLUSTER_ROLE, PresetId(preset), f"{grant.child_name}:{preset}")


def target_of(grant: GrantId, role: Role | None) -> Target:
    """What `spec.role` asks for. A bare preset of the default base is the same for every grant, so they share it."""
    if role is None or role.kind != "ClusterRole":
        return role_target(grant)
    if role.from_ in (None, DEFAULT_BASE) and not (role.keep or role.drop or role.include):
        return preset_target(grant, preset_of(role) or "View")
    return cluster_target(grant)


def target_named(grant: GrantId, binding: str) -> Target | None:
    """The one target that the grant can have or have had whose RoleBindings have this name."""
    if binding == grant.child_name:
        return role_target(grant)
    if binding == f"{grant.child_name}{CLUSTER}":
        return cluster_target(grant)
    preset = binding.removeprefix(f"{grant.child_name}:")
    return preset_target(grant, preset) if preset in PRESETS and preset != binding else None
