"""What KubeVirt's API looks like to authorization, as data: names over all versions, scopes, nested subresources.

Discovery cannot tell it (virt-api leaves subresources out and lists no verbs), and a role must be right on every version.
Sources in kubevirt/kubevirt: pkg/virt-operator/resource/generate/rbac/cluster.go (default roles),
pkg/virt-operator/resource/generate/components/crds.go (kinds and scopes), pkg/virt-api/api.go (subresources),
pkg/virt-api/rest/authorizer.go (how virt-api authorizes); in kubevirt/containerized-data-importer:
pkg/operator/resources/cluster/rbac.go. Roles compared from v0.12 to v1.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vmaccess.policy.rules import ANY, Rule, Rules, normalise

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_BASE: Final = "kubevirt.io:admin"
AGGREGATING: Final = (
    "kubevirt.io:admin",
    "kubevirt.io:edit",
    "kubevirt.io:view",
)  # into admin, edit and view, unless told not to
KUBEVIRT: Final = "kubevirt.io"
SUBRESOURCES: Final = "subresources.kubevirt.io"

READ: Final = ("get", "list", "watch")
VERBS: Final = (*READ, "create", "update", "patch", "delete", "deletecollection")

# Namespaced kinds. kubevirts is namespaced, and so is virtualmachineclones although its swagger says otherwise.
NAMESPACED: Final[Mapping[str, tuple[str, ...]]] = {
    KUBEVIRT: (
        "virtualmachines",
        "virtualmachineinstances",
        "virtualmachineinstancepresets",
        "virtualmachineinstancereplicasets",
        "virtualmachineinstancemigrations",
        "kubevirts",
    ),
    "snapshot.kubevirt.io": ("virtualmachinesnapshots", "virtualmachinesnapshotcontents", "virtualmachinerestores"),
    "export.kubevirt.io": ("virtualmachineexports",),
    "clone.kubevirt.io": ("virtualmachineclones",),
    "backup.kubevirt.io": ("virtualmachinebackups", "virtualmachinebackuptrackers"),
    "pool.kubevirt.io": ("virtualmachinepools",),
    "instancetype.kubevirt.io": ("virtualmachineinstancetypes", "virtualmachinepreferences"),
    "flavor.kubevirt.io": ("virtualmachineflavors", "virtualmachinepreferences"),  # v0.48 to v0.55, then instancetype.kubevirt.io
    "template.kubevirt.io": ("virtualmachinetemplates", "virtualmachinetemplaterequests"),
    "cdi.kubevirt.io": (
        "datavolumes",
        "dataimportcrons",
        "datasources",
        "volumeimportsources",
        "volumeuploadsources",
        "volumeclonesources",
    ),
    "upload.cdi.kubevirt.io": ("uploadtokenrequests",),
    "forklift.cdi.kubevirt.io": ("ovirtvolumepopulators", "openstackvolumepopulators"),
}

# Kinds and endpoints without a namespace: a rule about them does nothing in a RoleBinding. Namespaces are the exception (a
# RoleBinding reaches its own namespace object, deletion included), which is one more reason never to hand them out with a VM
# role.
CLUSTER_SCOPED: Final[Mapping[str, tuple[str, ...]]] = {
    "instancetype.kubevirt.io": ("virtualmachineclusterinstancetypes", "virtualmachineclusterpreferences"),
    "flavor.kubevirt.io": ("virtualmachineclusterflavors", "virtualmachineclusterpreferences"),
    "migrations.kubevirt.io": ("migrationpolicies",),
    "plugin.kubevirt.io": ("plugins",),
    SUBRESOURCES: ("version", "guestfs"),
    "cdi.kubevirt.io": ("cdis", "cdiconfigs", "storageprofiles", "objecttransfers"),
    "": ("namespaces", "nodes", "persistentvolumes"),
    "storage.k8s.io": ("storageclasses",),
}

# What access itself is made of. The operator has to work with it; a grant that gave it away could not be taken back.
ACCESS: Final[Mapping[str, tuple[str, ...]]] = {
    "rbac.authorization.k8s.io": ("*",),
    "vmaccess.dev": ("*",),
    "": ("serviceaccounts",),
}

# The verb of a subresource is its HTTP method: GET is get, PUT is update. A second verb is one that default roles before v0.59
# gave by mistake and that never let anyone pass; it is here so that a role written for such a base is understood.
_SUBRESOURCE_VERBS: Final[Mapping[str, tuple[str, ...]]] = {
    "virtualmachines/expand-spec": ("get",),
    "virtualmachines/objectgraph": ("get",),
    "virtualmachines/portforward": ("get",),
    "virtualmachines/start": ("update",),
    "virtualmachines/stop": ("update",),
    "virtualmachines/restart": ("update", "get"),
    "virtualmachines/migrate": ("update",),  # out of the default roles since v1.5
    "virtualmachines/addvolume": ("update",),
    "virtualmachines/removevolume": ("update",),
    "virtualmachines/addinterface": ("update",),  # v1.0 only
    "virtualmachines/removeinterface": ("update",),  # v1.0 only, in no default role
    "virtualmachines/memorydump": ("update",),
    "virtualmachines/removememorydump": ("update",),
    "virtualmachineinstances/objectgraph": ("get",),
    "virtualmachineinstances/guestosinfo": ("get",),
    "virtualmachineinstances/userlist": ("get",),
    "virtualmachineinstances/filesystemlist": ("get",),
    "virtualmachineinstances/console": ("get",),
    "virtualmachineinstances/vnc": ("get",),
    "virtualmachineinstances/vnc/screenshot": ("get",),
    "virtualmachineinstances/portforward": ("get", "update"),
    "virtualmachineinstances/usbredir": ("get",),
    "virtualmachineinstances/vsock": ("get",),
    "virtualmachineinstances/pause": ("update", "get"),
    "virtualmachineinstances/unpause": ("update", "get"),
    "virtualmachineinstances/softreboot": ("update",),
    "virtualmachineinstances/reset": ("update",),
    "virtualmachineinstances/freeze": ("update",),
    "virtualmachineinstances/unfreeze": ("update",),
    "virtualmachineinstances/addvolume": ("update", "get"),
    "virtualmachineinstances/removevolume": ("update", "get"),
    "virtualmachineinstances/backup": ("update",),
    "virtualmachineinstances/redefine-checkpoint": ("update",),
    "expand-vm-spec": ("update",),
}

# Nested subresources by their short spelling and verb. kube-apiserver authorizes the first segment alone (`sev`), virt-api the
# whole path (`sev/setupsession`) since v1.6.6, v1.7.4, v1.8.3 and v1.9.0; so both spellings are needed, and the short one is
# added where the nested one is granted. On an older virt-api, which reads the first segment too, the short spelling with a verb
# opens every nested form of that verb: `sev` with update both setupsession and injectlaunchsecret, `sev` with get both
# attestation reads, `vnc` the screenshot too. (kubevirt/kubevirt PR 17571; kubernetes/apiserver
# pkg/endpoints/request/requestinfo.go)
NESTED: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("virtualmachineinstances/sev", "get"): (
        "virtualmachineinstances/sev/fetchcertchain",
        "virtualmachineinstances/sev/querylaunchmeasurement",
    ),
    ("virtualmachineinstances/sev", "update"): (
        "virtualmachineinstances/sev/setupsession",
        "virtualmachineinstances/sev/injectlaunchsecret",
    ),
    ("virtualmachineinstances/evacuate", "update"): ("virtualmachineinstances/evacuate/cancel",),
    ("virtualmachines/evacuate", "update"): ("virtualmachines/evacuate/cancel",),
}
# Short spellings that open nothing but their nested forms. `vnc` is not one of them: it is the interactive screen.
ADDED_SHORT: Final = frozenset(short for short, _ in NESTED)

VOCABULARY: Final[Rules] = normalise(
    (
        *(Rule((group,), kinds, VERBS) for group, kinds in NAMESPACED.items()),
        *(
            Rule((group,), tuple(f"{kind}/status" for kind in kinds), ("get", "update", "patch"))
            for group, kinds in NAMESPACED.items()
        ),
        *(
            Rule((group,), kinds, VERBS)
            for group, kinds in CLUSTER_SCOPED.items()
            if group.endswith(KUBEVIRT) and group != SUBRESOURCES
        ),
        *(Rule((SUBRESOURCES,), (name,), verbs) for name, verbs in _SUBRESOURCE_VERBS.items()),
        *(Rule((SUBRESOURCES,), (short, *nested), (verb,)) for (short, verb), nested in NESTED.items()),
        Rule((SUBRESOURCES,), CLUSTER_SCOPED[SUBRESOURCES], ("get", "list")),
        Rule((KUBEVIRT,), ("virtualmachineinstancereplicasets/scale",), ("get", "update", "patch")),
        Rule(("pool.kubevirt.io",), ("virtualmachinepools/scale",), ("get", "update", "patch")),
        Rule(("template.kubevirt.io",), ("virtualmachinetemplaterequests/source",), ("create",)),
        Rule(
            ("subresources.template.kubevirt.io",),
            ("virtualmachinetemplates/process", "virtualmachinetemplates/create"),
            ("create",),
        ),
        Rule(("cdi.kubevirt.io",), ("datavolumes/source",), ("create",)),
    )
)
"""Every group, resource, subresource and verb of KubeVirt and CDI over all versions."""

# Below these kinds every request but create and deletecollection carries the name of a virtual machine (a VMI has its VM's), so
# that a rule can be restricted to some of them. A subresource call carries it in kube-apiserver and in virt-api alike.
NAMED_BY_MACHINE: Final = ("virtualmachines", "virtualmachineinstances")
NEEDS_NO_NAME: Final = ("create", "deletecollection")

# Creating or changing one of these reaches every Secret of the namespace: its volumes may mount any Secret, ConfigMap, claim or
# ServiceAccount token, and nobody asks whether the author may read them (VolumeSource in
# staging/src/kubevirt.io/api/core/v1/schema.go). A restore and a clone carry `spec.patches`, which KubeVirt's controllers apply
# to the machine that they make (types.go of api/snapshot and api/clone).
REACHES_SECRETS: Final[Rules] = (
    Rule(
        (KUBEVIRT,),
        ("virtualmachines", "virtualmachineinstances", "virtualmachineinstancereplicasets"),
        ("create", "update", "patch"),
    ),
    Rule(("pool.kubevirt.io",), ("virtualmachinepools",), ("create", "update", "patch")),
    Rule(("snapshot.kubevirt.io",), ("virtualmachinerestores",), ("create",)),
    Rule(("clone.kubevirt.io",), ("virtualmachineclones",), ("create",)),
)

# What people type for what RBAC calls something else (short names of the CRDs).
SHORT_NAMES: Final[Mapping[str, str]] = {
    "vm": "virtualmachines",
    "vms": "virtualmachines",
    "vmi": "virtualmachineinstances",
    "vmis": "virtualmachineinstances",
    "vmirs": "virtualmachineinstancereplicasets",
    "vmim": "virtualmachineinstancemigrations",
    "vmpool": "virtualmachinepools",
    "vmsnapshot": "virtualmachinesnapshots",
    "vmrestore": "virtualmachinerestores",
    "vmexport": "virtualmachineexports",
    "vmclone": "virtualmachineclones",
    "kv": "kubevirts",
    "dv": "datavolumes",
}

_CLUSTER_KINDS: Final = frozenset(kind for kinds in CLUSTER_SCOPED.values() for kind in kinds)


def is_cluster_scoped(group: str, resource: str) -> bool:
    """Whether a resource, or the resource of a subresource, has no namespace. With any group (`*`) the name alone decides."""
    kind = resource.partition("/")[0]
    return kind in _CLUSTER_KINDS if group == ANY else kind in CLUSTER_SCOPED.get(group, ())


def makes_access(group: str, resource: str) -> bool:
    """Whether a named group and resource are what access is made of; a wildcard is not, and is refused as an escalation."""
    kinds = ACCESS.get(group, ())
    return ANY in kinds or resource.partition("/")[0] in kinds


def short_spelling(resource: str) -> str | None:
    """`virtualmachineinstances/vnc` for `virtualmachineinstances/vnc/screenshot`; None for what is not nested."""
    parts = resource.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else None
