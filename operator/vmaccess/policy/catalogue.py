"""What an admin can ask for by name: presets and add-ons, as data over KubeVirt's vocabulary.

A preset never gives what the base role lacks: it says what to keep of it. Of an add-on the same holds for `keeps`; `adds` is
what no default role has and people need all the same, which the operator therefore holds by itself (ClusterRole
vmaccess-catalogue).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vmaccess.policy.kubevirt import KUBEVIRT, NAMESPACED, READ, SUBRESOURCES, VERBS
from vmaccess.policy.rules import ANY, Rule, Rules, normalise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmaccess.model.spec import AddOn, Preset, Role

VM, VMI = "virtualmachines", "virtualmachineinstances"
WRITE: Final = tuple(verb for verb in VERBS if verb not in READ and verb != "deletecollection")


@dataclass(frozen=True, slots=True)
class Named:
    """What a preset or an add-on stands for: in a sentence, and in rights to keep of the base and rights to add to it."""

    sentence: str
    keeps: Rules = ()
    adds: Rules = ()


def _subresources(verb: str, *names: str) -> Rule:
    return Rule((SUBRESOURCES,), names, (verb,))


# Logged-in users and mounts are the guest's own business, objectgraph names Secrets, and sev reads belong to attestation.
_VIEW: Final[Rules] = (
    Rule(
        (KUBEVIRT,),
        (VM, VMI, "virtualmachineinstancereplicasets", "virtualmachineinstancepresets", "virtualmachineinstancemigrations"),
        READ,
    ),
    *(
        Rule((group,), NAMESPACED[group], READ)
        for group in (
            "snapshot.kubevirt.io",
            "clone.kubevirt.io",
            "export.kubevirt.io",
            "pool.kubevirt.io",
            "instancetype.kubevirt.io",
        )
    ),
    _subresources("get", f"{VM}/expand-spec", f"{VMI}/guestosinfo"),
    _subresources("update", "expand-vm-spec"),  # a dry merge of a posted VM: `update` is its HTTP method only
)
_POWER: Final[Rules] = (
    _subresources("update", f"{VM}/start", f"{VM}/stop", f"{VM}/restart"),
    _subresources("update", f"{VMI}/pause", f"{VMI}/unpause", f"{VMI}/softreboot", f"{VMI}/reset"),
)
_CONSOLE: Final = _subresources("get", f"{VMI}/console")
_VNC: Final = _subresources("get", f"{VMI}/vnc")
_PORT_FORWARD: Final = _subresources("get", f"{VM}/portforward", f"{VMI}/portforward")
_HOTPLUG: Final = _subresources("update", f"{VM}/addvolume", f"{VM}/removevolume", f"{VMI}/addvolume", f"{VMI}/removevolume")
_OPERATE: Final[Rules] = (*_VIEW, *_POWER, _CONSOLE, _VNC)

PRESETS: Final[Mapping[Preset, Named]] = {
    "View": Named("See what virtual machines there are, how they are set up and how they are doing.", _VIEW),
    "Operate": Named("View, and power, the serial console and the screen (VNC): run machines that others made.", _OPERATE),
    "Edit": Named(
        "Operate, and create, change and delete virtual machines, hotplug volumes and forward ports.",
        (
            *_OPERATE,
            Rule((KUBEVIRT,), (VM,), WRITE),
            Rule((KUBEVIRT,), (VMI,), ("create", "delete")),
            _HOTPLUG,
            _PORT_FORWARD,
        ),
    ),
    "Admin": Named("All that the base role has in a namespace.", (Rule((ANY,), (ANY,), (ANY,)),)),
}

ADD_ONS: Final[Mapping[AddOn, Named]] = {
    "Attestation": Named(
        "Attest a confidential (SEV) guest and inject its launch secret.",
        (
            _subresources("get", f"{VMI}/sev/fetchcertchain", f"{VMI}/sev/querylaunchmeasurement"),
            _subresources("update", f"{VMI}/sev/setupsession", f"{VMI}/sev/injectlaunchsecret"),
        ),
    ),
    "Backup": Named(
        "Make and remove backups of virtual machines.",
        (Rule(("backup.kubevirt.io",), NAMESPACED["backup.kubevirt.io"], (*READ, *WRITE)),),
    ),
    "Clone": Named(
        "Copy virtual machines with their disks.",
        (Rule(("clone.kubevirt.io",), NAMESPACED["clone.kubevirt.io"], (*READ, *WRITE)),),
    ),
    "Console": Named("The serial console.", (_CONSOLE,)),
    "EvacuateCancel": Named(
        "Call off the evacuation of a virtual machine from its node.",
        (_subresources("update", f"{VM}/evacuate/cancel", f"{VMI}/evacuate/cancel"),),
    ),
    "EventView": Named(
        "Read Events: why a machine does not start.",
        adds=(Rule(("", "events.k8s.io"), ("events",), READ),),
    ),
    "Export": Named(
        "Make and remove exports of disks and snapshots.",
        (Rule(("export.kubevirt.io",), NAMESPACED["export.kubevirt.io"], (*READ, *WRITE)),),
    ),
    "Freeze": Named("Freeze and thaw the guest's file systems.", (_subresources("update", f"{VMI}/freeze", f"{VMI}/unfreeze"),)),
    "GuestInfo": Named(
        "What the guest agent tells: operating system, logged-in users, mounts.",
        (_subresources("get", f"{VMI}/guestosinfo", f"{VMI}/userlist", f"{VMI}/filesystemlist"),),
    ),
    "MemoryDump": Named(
        "Dump the guest's memory to a claim, and let go of the dump.",
        (_subresources("update", f"{VM}/memorydump", f"{VM}/removememorydump"),),
    ),
    "Migrate": Named(
        "Move virtual machines between nodes, and call that off.",
        adds=(
            _subresources("update", f"{VM}/migrate"),
            Rule((KUBEVIRT,), ("virtualmachineinstancemigrations",), (*READ, *WRITE)),
        ),
    ),
    "NetworkView": Named(
        "Read network attachment definitions.",
        adds=(Rule(("k8s.cni.cncf.io",), ("network-attachment-definitions",), READ),),
    ),
    "ObjectGraph": Named(
        "List the names of all that a virtual machine depends on, Secrets included.",
        (_subresources("get", f"{VM}/objectgraph", f"{VMI}/objectgraph"),),
    ),
    "PortForward": Named("Reach any TCP or UDP port of the guest, as ssh and scp do.", (_PORT_FORWARD,)),
    "Power": Named("Start, stop, restart, pause, reboot and reset.", _POWER),
    "Screenshot": Named("See the screen as a picture.", (_subresources("get", f"{VMI}/vnc/screenshot"),)),
    "Snapshots": Named(
        "Take, restore and delete snapshots.",
        (
            Rule(("snapshot.kubevirt.io",), NAMESPACED["snapshot.kubevirt.io"], READ),
            Rule(("snapshot.kubevirt.io",), ("virtualmachinesnapshots", "virtualmachinerestores"), WRITE),
        ),
    ),
    "StorageView": Named(
        "Read DataVolumes, DataSources, DataImportCrons and claims.",
        adds=(
            Rule(("cdi.kubevirt.io",), ("datavolumes", "datasources", "dataimportcrons"), READ),
            Rule(("",), ("persistentvolumeclaims",), READ),
        ),
    ),
    "Templates": Named(
        "Read virtual machine templates and process them.",
        adds=(
            Rule(("template.kubevirt.io",), ("virtualmachinetemplates",), READ),
            Rule(("subresources.template.kubevirt.io",), ("virtualmachinetemplates/process",), ("create",)),
        ),
    ),
    "USBRedirect": Named("Attach USB devices of one's own.", (_subresources("get", f"{VMI}/usbredir"),)),
    "VNC": Named("The screen, with keyboard and mouse.", (_VNC,)),
    "VolumeHotplug": Named(
        "Attach claims of the namespace to virtual machines, and detach them.",
        (_HOTPLUG,),
        # virtctl reads the volume first, and hides the refusal behind "is not a DataVolume or PersistentVolumeClaim"
        (
            Rule(("cdi.kubevirt.io",), ("datavolumes",), ("get",)),
            Rule(("",), ("persistentvolumeclaims",), ("get",)),
        ),
    ),
    "VSOCK": Named("Reach any vsock port of the guest.", adds=(_subresources("get", f"{VMI}/vsock"),)),
}


def preset_of(role: Role | None) -> Preset | None:
    """The preset in use: View where neither a preset nor keep says anything else, None where keep alone says it."""
    if role is None:
        return "View"
    return role.preset or (None if role.keep else "View")


ADDED: Final[Rules] = normalise(rule for add_on in ADD_ONS.values() for rule in add_on.adds)
"""All that add-ons give and a base role need not have."""
