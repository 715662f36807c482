"""The objects a grant owns: how they are named and marked, how they are read back, and whose an observed one is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import orjson

from vmaccess.model.names import DNS_SUBDOMAIN
from vmaccess.model.problems import MAX_GRANT_NAME
from vmaccess.model.spec import MAX_SECRET_NAME, RBAC_GROUP
from vmaccess.policy import rules as rbac
from vmaccess.policy.rules import Rules

Json = dict[str, Any]
T = TypeVar("T")

GROUP, VERSION, KIND, PLURAL = "vmaccess.dev", "v1alpha1", "VMAccessGrant", "vmaccessgrants"
API_VERSION = f"{GROUP}/{VERSION}"
MANAGED_BY_LABEL, MANAGED_BY = "app.kubernetes.io/managed-by", "vmaccess"
GRANT_LABEL, UID_LABEL, PRESET_LABEL = f"{GROUP}/grant", f"{GROUP}/grant-uid", f"{GROUP}/preset"
NAME_PREFIX = "vmaccess:"
MAX_KUBECONFIGS = 4096  # characters of the annotation that are read
KUBECONFIGS = (
    f"{GROUP}/kubeconfigs"  # annotation of a ServiceAccount: names of the Secrets that hold, or may hold, its kubeconfig
)
ROTATE = f"{GROUP}/rotate"  # annotation of a grant; on a Secret that a token is bound to, what it was when that was made
AGGREGATE_PREFIX = "rbac.authorization.k8s.io/aggregate-to-"


class Kind(StrEnum):
    """The kinds of children."""

    __hash__ = str.__hash__  # Enum's own is Python code, and every look into a mirror asks for it

    SERVICE_ACCOUNT = "ServiceAccount"
    ROLE = "Role"
    ROLE_BINDING = "RoleBinding"
    CLUSTER_ROLE = "ClusterRole"


class Whose(StrEnum):
    """What an observed object is to a grant."""

    OURS = "ours"
    EARLIER = "of an earlier grant of the same name"
    FOREIGN = "foreign"


class GrantId(NamedTuple):
    """A grant's name and uid: what its children are marked with."""

    name: str
    uid: str

    @property
    def child_name(self) -> str:
        """Name of its Roles, of the RoleBindings to them, and of its ClusterRole."""
        return NAME_PREFIX + self.name

    def labels(self) -> dict[str, str]:
        """The fixed label set. The grant's own labels are never copied: Argo CD would prune the copies."""
        return {MANAGED_BY_LABEL: MANAGED_BY, GRANT_LABEL: self.name, UID_LABEL: self.uid}

    def owner_references(self) -> list[Json]:
        """What lets the garbage collector revoke with the operator gone."""
        return [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": self.name,
                "uid": self.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]


class PresetId(NamedTuple):
    """What the ClusterRole of a bare preset is marked with. It is shared by grants, so no grant owns it."""

    preset: str

    @property
    def child_name(self) -> str:
        """Its name. Presets begin with a capital and names of grants cannot, so the two never meet."""
        return NAME_PREFIX + self.preset

    def labels(self) -> dict[str, str]:
        """The fixed label set."""
        return {MANAGED_BY_LABEL: MANAGED_BY, PRESET_LABEL: self.preset}

    def owner_references(self) -> list[Json]:
        """None: it outlives any one grant, and gives nothing to anybody by itself."""
        return []


OwnerId = GrantId | PresetId


class Owner(NamedTuple):
    """One ownerReference, as far as ownership is decided by it."""

    api_group: str
    kind: str
    name: str
    uid: str
    controller: bool
    blocks: bool

    @property
    def is_grant(self) -> bool:
        """Whether it points to a VMAccessGrant."""
        return self.api_group == GROUP and self.kind == KIND


class Subject(NamedTuple):
    """A subject of a RoleBinding, with the apiGroup that RBAC defaults filled in."""

    kind: str
    name: str
    namespace: str = ""
    api_group: str = ""

    def render(self) -> Json:
        """RBAC's JSON shape."""
        raw = {"kind": self.kind, "name": self.name}
        if self.namespace:
            raw["namespace"] = self.namespace
        if self.api_group:
            raw["apiGroup"] = self.api_group
        return raw


Subjects = tuple[Subject, ...]


def service_account_subject(namespace: str, name: str) -> Subject:
    """The subject that stands for a ServiceAccount."""
    return Subject("ServiceAccount", name, namespace)


@dataclass(frozen=True, slots=True)
class AccountContent:
    """What a ServiceAccount of ours says. `automount` is None where it is left to Kubernetes' default, true.

    `kubeconfigs` are the names of Secrets that hold its kubeconfig or may do so: written down before the first of them is made,
    so that none is ever forgotten.
    """

    automount: bool | None
    kubeconfigs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleContent:
    """The rules of a Role or ClusterRole.

    `urls` tells that there are nonResourceURLs beside them, `aggregated` that there is an aggregationRule, by which Kubernetes
    replaces the rules. Ours have neither.
    """

    rules: Rules
    urls: bool = False
    aggregated: bool = False

    def says(self, rules: Rules) -> bool:
        """Whether it gives these rules, and nothing beside them."""
        return self.rules == rules and not (self.urls or self.aggregated)


@dataclass(frozen=True, slots=True)
class BindingContent:
    """Whom a RoleBinding binds to what."""

    role_kind: str
    role_name: str
    subjects: Subjects


Content = AccountContent | RoleContent | BindingContent


@dataclass(frozen=True, slots=True)
class Child:
    """An observed ServiceAccount, Role, RoleBinding or ClusterRole, projected to what a decision needs.

    `version` and `created` do not take part in comparison: a write that changes nothing we look at is no change.
    `remembered` is the owner it had when its marks were last intact, carried over for as long as its own uid lives, so
    that stripping every mark from a child does not set it free. `aggregates` are the labels by which a ClusterRole widens
    Kubernetes' own roles.
    """

    kind: Kind
    namespace: str
    name: str
    uid: str
    version: int = field(compare=False)
    created: str = field(compare=False)
    deleting: bool
    finalizers: tuple[str, ...]
    label_managed_by: str
    label_grant: str
    label_uid: str
    owners: tuple[Owner, ...]
    content: Content
    label_preset: str = ""
    aggregates: tuple[str, ...] = ()
    remembered: OwnerId | None = None

    @property
    def marked_label(self) -> GrantId | None:
        """The grant that the labels name."""
        if self.label_managed_by == MANAGED_BY and self.label_uid:
            return GrantId(self.label_grant, self.label_uid)
        return None

    @property
    def marked_owner(self) -> GrantId | None:
        """The grant that the ownerReferences name."""
        for owner in self.owners:
            if owner.is_grant:
                return GrantId(owner.name, owner.uid)
        return None

    @property
    def marked_preset(self) -> PresetId | None:
        """The preset whose shared ClusterRole the labels say this is."""
        if self.kind is Kind.CLUSTER_ROLE and self.label_managed_by == MANAGED_BY and self.label_preset:
            return PresetId(self.label_preset)
        return None

    @property
    def remembered_grant(self) -> GrantId | None:
        """The grant that is remembered as its owner."""
        return self.remembered if isinstance(self.remembered, GrantId) else None

    @property
    def owner(self) -> GrantId | None:
        """The grant with which this child ends: its ownerReference's, or the one it had when somebody stripped every mark.

        Orphaning takes the ownerReference alone: a child that has its label still was left behind on purpose.
        """
        return self.marked_owner or (self.remembered_grant if self.marked_label is None else None)

    def end(self, revoked: Collection[str]) -> set[str]:
        """Uids of the grants with which this child ends.

        Of a grant whose end is not known well only the owner counts; of one that is known to be `revoked`, and not orphaned, its
        label too, and what we remember of it: whoever strips an ownerReference saves nothing.
        """
        ends = {self.owner.uid} if self.owner is not None else set()
        label = self.marked_label if self.kind is not Kind.SERVICE_ACCOUNT else None
        return ends | {mark.uid for mark in (label, self.remembered_grant) if mark is not None and mark.uid in revoked}

    def owned_by(self, revoked: Collection[str]) -> Child:
        """This child as it is to be judged where the grants with these uids are gone, and were not orphaned: whoever strips its
        ownerReference does not set it free.
        """
        if self.marked_owner is not None:
            return self
        for mark in (self.marked_label, self.remembered_grant):
            if mark is not None and mark.uid in revoked:
                return replace(self, owners=(*self.owners, Owner(GROUP, KIND, mark.name, mark.uid, controller=True, blocks=True)))
        return self

    def relates_to(self) -> frozenset[str]:
        """Names of the grants that this object may have to do with: by name, by label, by ownerReference, a binding by
        its roleRef as well: who binds our roles to others shares what we write into them.

        A ClusterRole by its name alone: marks, copied onto another, must never be its end.
        """
        if self.kind is Kind.CLUSTER_ROLE:
            return _related(self.name) if self.name.count(":") == 1 else frozenset()
        label, owner, remembered = (
            mark.name if mark is not None else "" for mark in (self.marked_label, self.marked_owner, self.remembered_grant)
        )
        if self.kind is Kind.SERVICE_ACCOUNT:
            return _related("", "", label, owner, remembered)
        return _related(
            self.name, self.content.role_name if isinstance(self.content, BindingContent) else "", label, owner, remembered
        )

    def whose(self, owner: OwnerId) -> Whose:
        """Whether the object is this grant's, or the shared ClusterRole of this preset.

        A Role, RoleBinding or ClusterRole is ours by its label or by its ownerReference. A ServiceAccount needs both, because
        whoever planted it may hold its token; one that we ourselves saw with both is known by its own uid.
        """
        if self.remembered == owner:
            return Whose.OURS
        if isinstance(owner, PresetId):
            return Whose.OURS if self.marked_preset == owner and self.marked_owner is None else Whose.FOREIGN
        if self.kind is not Kind.SERVICE_ACCOUNT and self.label_uid == owner.uid != "" and self.label_managed_by == MANAGED_BY:
            return Whose.OURS  # as said below, and what nearly all are
        marks = [mark for mark in (self.marked_label, self.marked_owner) if mark is not None]
        if self.kind is Kind.SERVICE_ACCOUNT:
            if len(marks) < 2 or marks[0].uid != marks[1].uid:
                return Whose.FOREIGN
            marks = marks[:1]
        if any(mark.uid == owner.uid for mark in marks):
            return Whose.OURS
        # The label of another uid alone is what --cascade=orphan leaves behind, or anybody's forgery: not ours to remove.
        if self.marked_owner is not None and self.marked_owner.name == owner.name:
            return Whose.EARLIER
        return Whose.FOREIGN

    def marks_intact(self, owner: OwnerId) -> bool:
        """Whether labels, ownerReferences and finalizers are as we write them; anything else is drift."""
        if self.finalizers or self.aggregates:
            return False
        if isinstance(owner, PresetId):
            return self.marked_preset == owner and not (self.owners or self.label_grant or self.label_uid)
        return (
            self.marked_label == owner
            and len(self.owners) == 1
            and self.owners[0] == Owner(GROUP, KIND, owner.name, owner.uid, controller=True, blocks=True)
        )


@lru_cache(maxsize=1024)
def _related(name: str, role: str = "", *marks: str) -> frozenset[str]:
    """Names of grants, by names that we give and by marks; anybody can write anything into a label or an ownerReference."""
    given = (each.removeprefix(NAME_PREFIX).split(":", 1)[0] for each in (name, role) if each.startswith(NAME_PREFIX))
    return frozenset(
        grant for grant in (*given, *marks) if len(grant) <= MAX_GRANT_NAME and re.fullmatch(DNS_SUBDOMAIN, grant) is not None
    )


@lru_cache(maxsize=1024)
def shared(value: T) -> T:
    """The first of equal values: a thousand Roles of one grant hold one tuple of rules."""
    return value


def project(kind: Kind, raw: Mapping[str, Any], known: Child | None) -> Child | None:
    """Read one object of the API, or None where it can have nothing to do with any grant.

    `known` is what the mirror held under the same key; its ownership is remembered while the uid stays the same.
    ServiceAccounts are all read, because any name may be listed by a grant, and ClusterRoles, because any may be trimmed.
    """
    meta = raw["metadata"]
    labels = meta.get("labels") or {}
    child = Child(
        kind=kind,
        namespace=sys.intern(meta.get("namespace", "")),
        name=sys.intern(meta["name"]),
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        created=sys.intern(meta.get("creationTimestamp") or ""),
        deleting="deletionTimestamp" in meta,
        finalizers=tuple(meta.get("finalizers") or ()),
        label_managed_by=shared(labels.get(MANAGED_BY_LABEL, "")),
        label_grant=shared(labels.get(GRANT_LABEL, "")),
        label_uid=shared(labels.get(UID_LABEL, "")),
        owners=_owners(_text(owners)) if (owners := meta.get("ownerReferences")) else (),
        content=_content(kind, _text([raw.get(field) for field in _FIELDS[kind]])),
        label_preset=labels.get(PRESET_LABEL, ""),
        aggregates=_aggregates(labels) if kind is Kind.CLUSTER_ROLE else (),
        remembered=_remembered(known, meta["uid"]),
    )
    managed = child.label_managed_by == MANAGED_BY or child.remembered is not None
    if kind is Kind.SERVICE_ACCOUNT and managed and (names := kubeconfig_names(meta)):
        return replace(child, content=AccountContent(raw.get("automountServiceAccountToken"), names))
    if kind in (Kind.SERVICE_ACCOUNT, Kind.CLUSTER_ROLE) or child.relates_to():
        return child
    return None


def kubeconfig_names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of Secrets in the annotation, in their order. Somebody may have written anything there, and as much as he likes."""
    text = (meta.get("annotations") or {}).get(KUBECONFIGS, "")
    if len(text) > MAX_KUBECONFIGS:
        return ()
    names = {name for name in text.split(",") if len(name) <= MAX_SECRET_NAME and re.fullmatch(DNS_SUBDOMAIN, name)}
    return tuple(sorted(names))


def _aggregates(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(label for label, value in labels.items() if label.startswith(AGGREGATE_PREFIX) and value == "true"))


def _remembered(known: Child | None, uid: str) -> OwnerId | None:
    if known is None or known.uid != uid:
        return None
    if known.remembered is not None:
        return known.remembered
    label, owner, preset = known.marked_label, known.marked_owner, known.marked_preset
    mark: OwnerId | None = label if label == owner else None
    if preset is not None and not known.owners and known.name == preset.child_name:
        mark = preset
    return shared(mark) if mark is not None else None


def _text(value: object) -> str:
    """As JSON. Decoded, since the bytes that orjson gives keep four kilobytes however few they are."""
    return orjson.dumps(value).decode()


@lru_cache(maxsize=1024)
def _owners(text: str) -> tuple[Owner, ...]:
    """Read ownerReferences. By their text, because those of a thousand children are the same, and to read it anew costs more."""
    return tuple(map(_owner, orjson.loads(text)))


@lru_cache(maxsize=1024)
def _content(kind: Kind, text: str) -> Content:
    """Read the fields of `_FIELDS`, by their text for the same reason."""
    return _CONTENT[kind](*orjson.loads(text))


def _owner(raw: Mapping[str, Any]) -> Owner:
    group, _, _ = raw.get("apiVersion", "").rpartition("/")
    return Owner(
        group,
        raw.get("kind", ""),
        raw.get("name", ""),
        raw.get("uid", ""),
        bool(raw.get("controller")),
        bool(raw.get("blockOwnerDeletion")),
    )


def _account(automount: bool | None) -> Content:  # noqa: FBT001 - a field of the API
    return AccountContent(automount)


def _role(raw: Iterable[Mapping[str, Any]] | None, aggregation: Json | None = None) -> Content:
    urls = any("nonResourceURLs" in rule for rule in raw or ())
    return RoleContent(shared(rbac.parse(raw)), urls=urls, aggregated=aggregation is not None)


def _binding(ref: Mapping[str, Any] | None, raw: Iterable[Mapping[str, Any]] | None) -> Content:
    ref = ref or {}
    subjects = tuple(
        Subject(
            kind=subject.get("kind", ""),
            name=subject.get("name", ""),
            namespace=subject.get("namespace", ""),
            api_group=subject.get("apiGroup") or ("" if subject.get("kind") == "ServiceAccount" else RBAC_GROUP),
        )
        for subject in raw or ()
    )
    return BindingContent(ref.get("kind", ""), ref.get("name", ""), subjects)


_FIELDS: Mapping[Kind, tuple[str, ...]] = {
    Kind.SERVICE_ACCOUNT: ("automountServiceAccountToken",),
    Kind.ROLE: ("rules",),
    Kind.ROLE_BINDING: ("roleRef", "subjects"),
    Kind.CLUSTER_ROLE: ("rules", "aggregationRule"),
}
_CONTENT: Mapping[Kind, Callable[..., Content]] = {
    Kind.SERVICE_ACCOUNT: _account,
    Kind.ROLE: _role,
    Kind.ROLE_BINDING: _binding,
    Kind.CLUSTER_ROLE: _role,
}


def body(kind: Kind, owner: OwnerId, namespace: str, name: str, content: Content) -> Json:
    """The whole object as it is created; `namespace` is empty for a ClusterRole."""
    return {
        "apiVersion": "v1" if kind is Kind.SERVICE_ACCOUNT else f"{RBAC_GROUP}/v1",
        "kind": str(kind),
        "metadata": {
            "name": name,
            **({"namespace": namespace} if namespace else {}),
            "labels": owner.labels(),
            "ownerReferences": owner.owner_references(),
            **({"annotations": notes} if any((notes := noted(content)).values()) else {}),
        },
        **fields(content),
    }


def noted(content: Content) -> dict[str, str | None]:
    """The part of a content that stands in annotations; None removes one."""
    if not isinstance(content, AccountContent):
        return {}
    return {KUBECONFIGS: ",".join(content.kubeconfigs) or None}


def fields(content: Content) -> Json:
    """The part of the object beside its metadata."""
    match content:
        case AccountContent(automount=automount):
            return {"automountServiceAccountToken": automount}
        case RoleContent(rules=rules):
            return {"rules": rbac.render(rules)}
        case BindingContent(role_kind, role_name, subjects):
            return {
                "roleRef": {"apiGroup": RBAC_GROUP, "kind": role_kind, "name": role_name},
                "subjects": [subject.render() for subject in subjects],
            }
