"""The spec of a VMAccessGrant: the one source of its schema, its validation and its reference page.

A rule that one object alone can break is stated here, as CEL for the CRD and as a check for the operator: admission may
be off or older, so the operator never relies on it, and a test holds the two to the same answers.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from vmaccess.model.moments import Time, read_time
from vmaccess.model.names import (
    DNS_SUBDOMAIN,
    IDENTITY_NAME,
    IN_WORDS,
    LABEL_KEY,
    ROLE_NAME,
    SERVER,
    LabelKey,
    LabelValue,
    NamespaceGlob,
    NamespaceName,
    RuleGroup,
    RuleResource,
    RuleVerb,
    ServiceAccountName,
    VirtualMachineName,
)
from vmaccess.model.schema import LIST_TYPE, Distinct, MapBy, Model, Rule, SetOf

RBAC_GROUP = "rbac.authorization.k8s.io"

ApiGroups = Annotated[tuple[RuleGroup, ...], Field(min_length=1, max_length=50), SetOf()]
Resources = Annotated[tuple[RuleResource, ...], Field(min_length=1, max_length=100), SetOf()]
Verbs = Annotated[tuple[RuleVerb, ...], Field(min_length=1, max_length=20), SetOf()]

DEFAULT_SERVICE_ACCOUNT = "every pod of a namespace runs as its ServiceAccount default unless told otherwise: name one of its own"
SYSTEM_SUBJECT = "names that begin with system: belong to Kubernetes itself: name a user or group of your own"
SERVICE_ACCOUNT_AS_USER = (
    "this is how a ServiceAccount logs in, not how it is named here: use kind ServiceAccount with its own name and namespace"
)


MIN_LIFETIME = 600  # seconds; the TokenRequest API takes no less, kubernetes pkg/apis/authentication/validation
MAX_LIFETIME = 365 * 24 * 3600
DEFAULT_LIFETIME = 3600
MAX_SECRET_NAME = 240  # with an ending it is still the name of a Secret


class Kubeconfig(Model):
    """A kubeconfig for a pipeline or a tool outside of the cluster, kept in a Secret."""

    # Beside it there are two of this name and an ending.
    validations = (
        Rule(
            cel="!self.secretName.endsWith('-token-a') && !self.secretName.endsWith('-token-b')",
            holds=lambda it: not it.secret_name.endswith(("-token-a", "-token-b")),
            message="names with the endings -token-a and -token-b are those of the Secrets beside it: choose another",
            field="secretName",
        ),
    )

    secret_name: Annotated[str, Field(pattern=DNS_SUBDOMAIN, min_length=1, max_length=MAX_SECRET_NAME)] = Field(
        description="Name of the Secret, in the namespace of the ServiceAccount. One that exists already is never touched. Its "
        "key `kubeconfig` holds the kubeconfig."
    )
    token_lifetime_seconds: Annotated[StrictInt, Field(ge=MIN_LIFETIME, le=MAX_LIFETIME)] | None = Field(
        None,
        description="For how long its token is valid, 3600 when absent; the API server may allow less. It is renewed when 80 % "
        "of that are over.",
    )
    server: Annotated[str, Field(pattern=SERVER, min_length=1, max_length=512)] | None = Field(
        None, description="Address of the API server for whoever uses it; the operator's setting when absent."
    )


class ServiceAccount(Model):
    """A ServiceAccount that the grant creates, owns and removes; one that exists already is never taken over."""

    validations = (
        Rule(
            cel="self.name != 'default'",
            holds=lambda it: it.name != "default",
            message=DEFAULT_SERVICE_ACCOUNT,
            field="name",
        ),
    )

    name: ServiceAccountName = Field(
        description="Name of the ServiceAccount. `default` is refused: every pod of its namespace may run as it."
    )
    namespace: NamespaceName = Field(description="Namespace in which it is created. It need not be a granted one.")
    automount_service_account_token: StrictBool | None = Field(
        None, description="Whether pods that run as this ServiceAccount get its token mounted. False when absent."
    )
    kubeconfig: Kubeconfig | None = Field(
        None,
        description="Has the operator keep a kubeconfig of this ServiceAccount in a Secret. It needs rights that it has not "
        "unless they are given for this namespace.",
    )


class Subject(Model):
    """An identity that exists already, in the shape of a subject of RBAC."""

    validations = (
        Rule(
            cel="self.kind != 'ServiceAccount' || has(self.__namespace__)",
            holds=lambda it: it.kind != "ServiceAccount" or it.namespace is not None,
            message="a subject of kind ServiceAccount needs its namespace: set namespace",
            field="namespace",
        ),
        Rule(
            cel="self.kind == 'ServiceAccount' || !has(self.__namespace__)",
            holds=lambda it: it.kind == "ServiceAccount" or it.namespace is None,
            message="only a subject of kind ServiceAccount has a namespace: remove namespace",
            field="namespace",
        ),
        Rule(
            cel="self.kind != 'ServiceAccount' || !has(self.apiGroup) || self.apiGroup == ''",
            holds=lambda it: it.kind != "ServiceAccount" or not it.api_group,
            message="a subject of kind ServiceAccount is in the core group: remove apiGroup",
            field="apiGroup",
        ),
        Rule(
            cel="self.kind == 'ServiceAccount' || !has(self.apiGroup) || self.apiGroup != ''",
            holds=lambda it: it.kind == "ServiceAccount" or it.api_group != "",
            message="a User or Group is in the group rbac.authorization.k8s.io: remove apiGroup",
            field="apiGroup",
        ),
        Rule(
            cel="self.kind != 'ServiceAccount' || self.name != 'default'",
            holds=lambda it: it.kind != "ServiceAccount" or it.name != "default",
            message=DEFAULT_SERVICE_ACCOUNT,
            field="name",
        ),
        Rule(
            cel=f"self.kind != 'ServiceAccount' || size(self.name) <= 253 && self.name.matches(r'{DNS_SUBDOMAIN}')",
            holds=lambda it: it.kind != "ServiceAccount" or (len(it.name) <= 253 and bool(re.fullmatch(DNS_SUBDOMAIN, it.name))),
            message=f"this is not the name of a ServiceAccount: use {IN_WORDS[DNS_SUBDOMAIN]}, at most 253 characters",
            field="name",
        ),
        Rule(
            cel="self.kind == 'ServiceAccount' || !self.name.startsWith('system:serviceaccount:')",
            holds=lambda it: it.kind == "ServiceAccount" or not it.name.startswith("system:serviceaccount:"),
            message=SERVICE_ACCOUNT_AS_USER,
            field="name",
        ),
        Rule(
            cel="self.kind == 'ServiceAccount' || !self.name.startsWith('system:')"
            " || self.name.startsWith('system:serviceaccount:')",
            holds=lambda it: (
                it.kind == "ServiceAccount" or not it.name.startswith("system:") or it.name.startswith("system:serviceaccount:")
            ),
            message=SYSTEM_SUBJECT,
            field="name",
        ),
    )

    kind: Literal["User", "Group", "ServiceAccount"] = Field(description="User, Group or ServiceAccount.")
    api_group: Literal["", "rbac.authorization.k8s.io"] | None = Field(
        None,
        description="API group of the kind; absent means the right one: rbac.authorization.k8s.io for User and Group, "
        "the core group for ServiceAccount.",
    )
    name: Annotated[str, Field(pattern=IDENTITY_NAME, min_length=1, max_length=512)] = Field(
        description="Name of the user, group or ServiceAccount, as the cluster's authentication spells it. "
        "Names that begin with `system:` are refused."
    )
    namespace: NamespaceName | None = Field(None, description="Namespace of a ServiceAccount; absent for User and Group.")

    def identity(self) -> tuple[str, str, str]:
        """What makes two subjects the same: a missing and an explicit apiGroup are one."""
        return self.kind, self.namespace or "", self.name


SubjectList = Annotated[
    tuple[Subject, ...],
    Field(max_length=100),
    Distinct(
        "a.kind == b.kind && a.name == b.name"
        " && (!has(a.__namespace__) || has(b.__namespace__) && a.__namespace__ == b.__namespace__)"
    ),
]


class Requirement(Model):
    """One expression of a label selector."""

    validations = (
        Rule(
            cel="!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0",
            holds=lambda it: it.operator not in ("In", "NotIn") or bool(it.values),
            message="the operators In and NotIn need at least one value: set values",
            field="values",
        ),
        Rule(
            cel="self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0",
            holds=lambda it: it.operator in ("In", "NotIn") or not it.values,
            message="the operators Exists and DoesNotExist take no values: remove values",
            field="values",
        ),
    )

    key: LabelKey = Field(description="Label key that the expression is about.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="In, NotIn, Exists or DoesNotExist.")
    values: Annotated[tuple[LabelValue, ...], Field(max_length=100), SetOf()] | None = Field(
        None, description="Values for In and NotIn (at least one); absent for Exists and DoesNotExist."
    )


# A structural schema has no word for the keys of a map.
LABEL_KEYS = Rule(
    cel=f"self.all(key, size(key) <= 317 && key.matches(r'{LABEL_KEY}'))",
    holds=lambda labels: all(len(key) <= 317 and re.fullmatch(LABEL_KEY, key) for key in labels),
    message=f"a key is not a label key: use {IN_WORDS[LABEL_KEY]}",
)


# The API server would drop a label whose value is null, and the selector would select more than was written. So null is
# let through to a rule that refuses it.
LABEL_VALUES = Rule(
    cel="self.all(key, type(self[key]) == string)",
    holds=lambda labels: None not in labels.values(),
    message='a label has no value: set it, "" for the empty one',
)
MatchLabels = Annotated[
    dict[str, Annotated[LabelValue, Field(json_schema_extra={"nullable": True})]],
    Field(min_length=1, max_length=100),
    LABEL_KEYS,
    LABEL_VALUES,
]


class LabelSelector(Model):
    """A Kubernetes label selector over namespaces. `{}` selects every namespace that is not protected."""

    match_labels: MatchLabels | None = Field(
        None, description="Labels that a namespace must carry, all of them; at least one, since none would select everything."
    )
    match_expressions: (
        Annotated[tuple[Requirement, ...], Field(min_length=1, max_length=100, json_schema_extra={LIST_TYPE: "atomic"})] | None
    ) = Field(None, description="Expressions that must all hold.")


class RuleEntry(Model):
    """An entry of keep or drop: nothing but sets of names."""

    def identity(self) -> tuple[frozenset[str] | None, ...]:
        """What makes two entries the same; in CEL, too, the order inside a set does not matter."""
        return tuple(None if names is None else frozenset(names) for _, names in self)


class KeepRule(RuleEntry):
    """Rights to keep of the base role, written like a rule of RBAC."""

    api_groups: ApiGroups | None = Field(None, description='API groups; absent means any, "" is the core group.')
    resources: Resources = Field(
        description="Resources and subresources, such as virtualmachines or virtualmachineinstances/vnc. "
        'Any resource is written "*".'
    )
    verbs: Verbs = Field(description='Verbs. Any verb is written "*".')


class DropRule(RuleEntry):
    """Rights to take out of the role. An absent field means any."""

    validations = (
        Rule(
            cel="has(self.apiGroups) || has(self.resources) || has(self.verbs)",
            holds=lambda it: it.api_groups is not None or it.resources is not None or it.verbs is not None,
            message="an empty entry would drop everything: name apiGroups, resources or verbs (is a field misspelt?)",
        ),
    )

    api_groups: ApiGroups | None = Field(None, description='API groups; absent means any, "" is the core group.')
    resources: Resources | None = Field(
        None, description="Resources and subresources; absent means any. A resource's subresources are named apart from it."
    )
    verbs: Verbs | None = Field(None, description="Verbs; absent means any.")


Preset = Literal["View", "Operate", "Edit", "Admin"]
AddOn = Literal[
    "Attestation",
    "Backup",
    "Clone",
    "Console",
    "EvacuateCancel",
    "EventView",
    "Export",
    "Freeze",
    "GuestInfo",
    "MemoryDump",
    "Migrate",
    "NetworkView",
    "ObjectGraph",
    "PortForward",
    "Power",
    "Screenshot",
    "Snapshots",
    "StorageView",
    "Templates",
    "USBRedirect",
    "VNC",
    "VolumeHotplug",
    "VSOCK",
]


class Role(Model):
    """What is granted: the live base role, trimmed."""

    validations = (
        Rule(
            cel="!has(self.virtualMachines) || !has(self.kind) || self.kind == 'Role'",
            holds=lambda it: it.virtual_machines is None or it.kind in (None, "Role"),
            message="virtual machines can be named only with kind Role: remove kind, or virtualMachines",
            field="virtualMachines",
        ),
        Rule(
            cel="!has(self.from) || !self.from.startsWith('vmaccess:')"
            " && !(self.from in ['vmaccess-operator', 'vmaccess-catalogue'])",
            holds=lambda it: (
                it.from_ is None
                or not (it.from_.startswith("vmaccess:") or it.from_ in ("vmaccess-operator", "vmaccess-catalogue"))
            ),
            message="this is a role of vmaccess itself: name a role of KubeVirt, or one of your own",
            field="from",
        ),
    )

    kind: Literal["Role", "ClusterRole"] | None = Field(
        None,
        description="Role (default): one Role in each granted namespace. ClusterRole: one ClusterRole that the RoleBindings of "
        "all granted namespaces share; it gives nothing outside of them.",
    )
    from_: Annotated[str, Field(pattern=ROLE_NAME, min_length=1, max_length=253)] | None = Field(
        None, alias="from", description="ClusterRole that is trimmed, read live and followed. kubevirt.io:admin when absent."
    )
    preset: Preset | None = Field(
        None,
        description="A named set of rights to keep of the base: View, Operate (power, console and VNC too), Edit (create, change "
        "and delete too) or Admin (all of it). View when neither preset nor keep is given.",
    )
    keep: Annotated[tuple[KeepRule, ...], Field(min_length=1, max_length=50), Distinct("a == b")] | None = Field(
        None, description="Rights to keep of the base; with a preset, in addition to it. Never more than the base has."
    )
    drop: Annotated[tuple[DropRule, ...], Field(min_length=1, max_length=50), Distinct("a == b")] | None = Field(
        None, description="Rights to take out; drop always wins over preset, keep and include."
    )
    include: Annotated[tuple[AddOn, ...], Field(min_length=1, max_length=30), SetOf()] | None = Field(
        None,
        description="Named add-ons on top of preset and keep. Migrate, StorageView, NetworkView, EventView, Templates and VSOCK "
        "give what a base need not have, VolumeHotplug also the reading of volumes; the others keep what the base has of them.",
    )
    virtual_machines: Annotated[tuple[VirtualMachineName, ...], Field(min_length=1, max_length=100), SetOf()] | None = Field(
        None,
        description="Narrows the role to the virtual machines of these names, in every granted namespace; they need not exist "
        "yet. What cannot be restricted to a name is left out. Only with kind Role.",
    )


def _have_secrets_of_their_own(accounts: tuple[ServiceAccount, ...]) -> bool:
    secrets = [(each.namespace, each.kubeconfig.secret_name) for each in accounts if each.kubeconfig is not None]
    return len(set(secrets)) == len(secrets)


def _begins_before_it_ends(not_before: str | None, expiration: str | None) -> bool:
    begin, end = (read_time(text) if text is not None else None for text in (not_before, expiration))
    return begin is None or end is None or begin < end


class Spec(Model):
    """Who gets what, where."""

    validations = (
        Rule(
            cel="has(self.serviceAccounts) && size(self.serviceAccounts) > 0 || has(self.subjects) && size(self.subjects) > 0",
            holds=lambda it: bool(it.service_accounts or it.subjects),
            message="nobody is named: add at least one entry to serviceAccounts or subjects, and mind the spelling",
        ),
        Rule(
            cel="has(self.namespaces) && size(self.namespaces) > 0 || has(self.namespaceSelector)",
            holds=lambda it: bool(it.namespaces) or it.namespace_selector is not None,
            message="no namespace is named: add at least one entry to namespaces, or a namespaceSelector, and mind the spelling",
        ),
        Rule(
            cel="!has(self.serviceAccounts) || self.serviceAccounts.all(a, !has(a.kubeconfig)"
            " || self.serviceAccounts.exists_one(b, has(b.kubeconfig)"
            " && b.__namespace__ == a.__namespace__ && b.kubeconfig.secretName == a.kubeconfig.secretName))",
            holds=lambda it: _have_secrets_of_their_own(it.service_accounts or ()),
            message="two kubeconfigs cannot share a Secret: give each a secretName of its own",
            field="serviceAccounts",
        ),
        Rule(
            cel="!has(self.notBeforeTime) || !has(self.expirationTime)"
            " || timestamp(self.notBeforeTime) < timestamp(self.expirationTime)",
            holds=lambda it: _begins_before_it_ends(it.not_before_time, it.expiration_time),
            message="access would end before it begins: set a time after notBeforeTime",
            field="expirationTime",
        ),
    )

    service_accounts: Annotated[tuple[ServiceAccount, ...], Field(max_length=100), MapBy(("namespace", "name"))] | None = Field(
        None, description="ServiceAccounts that are created for the grant, owned by it and removed with it."
    )
    subjects: SubjectList | None = Field(None, description="Existing users, groups and ServiceAccounts that get the access.")
    namespaces: Annotated[tuple[NamespaceName, ...], Field(max_length=5000), SetOf()] | None = Field(
        None, description="Namespaces in which access is granted. One that does not exist yet is granted when it appears."
    )
    namespace_selector: LabelSelector | None = Field(
        None,
        description="Selects further namespaces by label; a change of labels is followed at once. "
        "Protected namespaces are never selected.",
    )
    exclude_namespaces: Annotated[tuple[NamespaceGlob, ...], Field(max_length=500), SetOf()] | None = Field(
        None,
        description="Names and globs (* and ?) of namespaces in which nothing is granted. "
        "Wins over namespaces and namespaceSelector.",
    )
    role: Role | None = Field(None, description="What is granted. When absent: preset View of kubevirt.io:admin.")
    not_before_time: Time | None = Field(
        None,
        description="No access before this time, RFC 3339 such as 2027-01-31T08:00:00Z, by the API server's clock; the "
        "ServiceAccounts are made at once.",
    )
    expiration_time: Time | None = Field(
        None,
        description="All access ends at this time, RFC 3339 such as 2027-01-31T18:00:00Z, by the API server's clock. The grant "
        "and its ServiceAccounts stay; a later time gives the access back.",
    )
    suspend: StrictBool | None = Field(
        None, description="True takes all access away and keeps the grant and its ServiceAccounts; false or absent gives it back."
    )
