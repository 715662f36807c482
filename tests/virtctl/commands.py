"""What people type, as data: each command of virtctl, and of kubectl about machines, with all the rights that it needs in whole.

Measured with virtctl 1.8.4 against virt-api 1.8.4 (calls: pkg/virtctl in kubevirt/kubevirt). test_needs.py proves the lists: an
identity with exactly these rights is refused nothing, and without any one of them the command fails. A command makes its calls
in turn and stops at the first refusal, so the list of a command that is refused anyway could say anything; hence that proof.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmaccess.policy.kubevirt import KUBEVIRT, SUBRESOURCES
from vmaccess.policy.rules import Rules, allows

if TYPE_CHECKING:
    from collections.abc import Iterator

VM, VMI = "virtualmachines", "virtualmachineinstances"
MIGRATIONS, SETS = "virtualmachineinstancemigrations", "virtualmachineinstancereplicasets"
ANYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource, with its subresource; `where` is "" for the namespace of the machine, `*` for all of them."""

    verb: str
    group: str
    resource: str
    where: str = ""

    def __str__(self) -> str:
        where = {"": "", ANYWHERE: " in the whole cluster"}.get(self.where, f" in {self.where}")
        return f"{self.verb} {self.resource}{where}"

    def is_in(self, granted: Rules, everyone: Rules) -> bool:
        """Whether a role in the machine's namespace gives it, or what everybody has everywhere."""
        held = everyone if self.where else (*granted, *everyone)
        return allows(held, self.group, self.resource, self.verb)


Need = tuple[Right, ...]
"""Rights any one of which will do."""


def needs(text: str) -> tuple[Need, ...]:
    """Read `get kubevirt.io/virtualmachines; get pods or list pods@kube-system`: a group has a dot in it, `@` says where."""
    return tuple(tuple(map(_right, need.split(" or "))) for need in text.split("; ") if need)


def _right(text: str) -> Right:
    verb, _, rest = text.strip().partition(" ")
    name, _, where = rest.partition("@")
    group, _, resource = name.partition("/")
    return Right(verb, group, resource, where) if "." in group else Right(verb, "", name, where)


@dataclass(frozen=True, slots=True)
class Command:
    """A command as docs/roles.md names it, and as it is run here: virtctl, kubectl, or the method of a plain request.

    `beyond` are rights that the run does not get to, as there is no CDI, no guest and no pod; they are asked of the API server
    instead. `admitted` is what the output says once all others are there (a regular expression; empty for exit code 0 alone),
    and `endless` how many seconds are given to one that then waits for what never comes. `shrugs` is a request whose refusal it
    takes without a word and without a loss (a regular expression).
    """

    name: str
    line: str
    needs: tuple[Need, ...]
    admitted: str = ""
    beyond: tuple[Need, ...] = ()
    endless: float | None = None
    shrugs: str | None = None

    def argv(self, **places: str) -> list[str]:
        """The command line for a place: its namespace `ns` and its scratch folder `files`."""
        return [part.format(**places) for part in shlex.split(self.line)]

    def all_needs(self) -> tuple[Need, ...]:
        """Everything that must be allowed for the command to do what it is for."""
        return (*self.needs, *self.beyond)

    def missing(self, granted: Rules, everyone: Rules) -> Iterator[Need]:
        """What of it nobody gives."""
        return (need for need in self.all_needs() if not any(right.is_in(granted, everyone) for right in need))


def _sub(verb: str, *names: str) -> str:
    return "; ".join(f"{verb} {SUBRESOURCES}/{name}" for name in names)


def _kv(verbs: str, *kinds: str) -> str:
    return "; ".join(f"{verb} {KUBEVIRT}/{kind}" for kind in kinds for verb in verbs.split())


def _virtctl(name: str, line: str, rights: str, admitted: str = "", beyond: str = "", endless: float | None = None) -> Command:
    return Command(f"virtctl {name}", f"virtctl {line}", needs(rights), admitted, needs(beyond), endless)


def _kubectl(name: str, line: str, rights: str, admitted: str = "", shrugs: str | None = None) -> Command:
    return Command(f"kubectl {name}", f"kubectl {line}", needs(rights), admitted, shrugs=shrugs)


def _request(right: str, version: str, rights: str = "", admitted: str = "", *, kind: str = "", query: str = "") -> Command:
    """A plain request with the same token, named by the right as RBAC spells it; `version` goes into the URL of its group."""
    ((asked,),) = needs(right)
    collection, _, subresource = asked.resource.partition("/")
    served = f"{asked.group}/{version}" if asked.group else version
    path = f"/{'apis' if asked.group else 'api'}/{served}/namespaces/{{ns}}/{collection}"
    path += f"/db-1/{subresource}{query}" if subresource else ""
    body: dict[str, object] = {}
    if kind:
        body = {"apiVersion": served, "kind": kind, "metadata": {"name": "made"}, "spec": {}}
    method = {"create": "POST", "update": "PUT"}.get(asked.verb, "GET")
    sent = json.dumps(body).replace("{", "{{").replace("}", "}}") if method != "GET" else ""
    return Command(str(asked), f"{method} {path} '{sent}'", needs(rights or right), admitted)


_NO_NODE = "No virt-handler on node node-1 found"
_NO_AGENT = "VMI does not have guest agent connected"
_NO_INSTANCE = r"virtualmachineinstance\.kubevirt\.io \\*\"db-2\\*\" not found"
_NOT_STARTED = "VMI is not started"
_NO_SUCH_API = "the server could not find the requested resource"
_NOBODY_ANSWERS = "connect: connection refused"  # the download itself, from the address in the export's status
_GATE_SEV = "'WorkloadEncryptionSEV' feature gate is not enabled"
_VOLUME = "get cdi.kubevirt.io/datavolumes or get persistentvolumeclaims"
_ADDED, _REMOVED = "Successfully submitted|already exists", "Successfully submitted|does not exist"
_EXPORTS = "export.kubevirt.io/virtualmachineexports"
_SNAPSHOT = "snapshot.kubevirt.io"
_UPLOAD = "--image-path={files}/empty.json --wait-secs=1 --uploadproxy-url=https://127.0.0.1:1 --insecure"
_TOKEN = "create upload.cdi.kubevirt.io/uploadtokenrequests"

VIRTCTL: tuple[Command, ...] = (
    # --- power. There is no virt-handler behind virt-api: what has to reach the guest ends there.
    _virtctl("start", "start db-2", _sub("update", f"{VM}/start")),
    _virtctl("restart", "restart db-1", _sub("update", f"{VM}/restart")),
    _virtctl("stop", "stop db-1", _sub("update", f"{VM}/stop")),
    _virtctl("pause vm", "pause vm db-1", f"{_kv('get', VM)}; {_sub('update', f'{VMI}/pause')}", _NO_NODE),
    _virtctl("pause vmi", "pause vmi db-1", _sub("update", f"{VMI}/pause"), _NO_NODE),
    _virtctl("unpause vm", "unpause vm db-1", f"{_kv('get', VM)}; {_sub('update', f'{VMI}/unpause')}", "VMI is not paused"),
    _virtctl("unpause vmi", "unpause vmi db-1", _sub("update", f"{VMI}/unpause"), "VMI is not paused"),
    _virtctl("soft-reboot", "soft-reboot db-1", _sub("update", f"{VMI}/softreboot"), _NO_NODE),
    _virtctl("reset", "reset db-1", _sub("update", f"{VMI}/reset"), _NO_NODE),
    # --- into the guest. db-2 has no instance: with one, virtctl would try again for a minute.
    _virtctl("console", "console db-2 --timeout=1", _sub("get", f"{VMI}/console"), _NO_INSTANCE),
    _virtctl("vnc", "vnc db-2 --proxy-only", _sub("get", f"{VMI}/vnc"), _NO_INSTANCE),
    _virtctl(
        "vnc screenshot",
        "vnc screenshot db-2 -f {files}/screen.png",
        _sub("get", f"{VMI}/vnc", f"{VMI}/vnc/screenshot"),
        _NO_INSTANCE,
    ),
    _virtctl("usbredir", "usbredir db-2 --no-launch", _sub("get", f"{VMI}/usbredir"), _NO_INSTANCE),
    _virtctl("port-forward vm/", "port-forward vm/db-2 --stdio 22", _sub("get", f"{VM}/portforward"), _NOT_STARTED),
    _virtctl("port-forward vmi/", "port-forward vmi/db-2 --stdio 22", _sub("get", f"{VMI}/portforward"), _NO_INSTANCE),
    _virtctl("ssh vm/", "ssh user@vm/db-2 --command=true", _sub("get", f"{VM}/portforward"), _NOT_STARTED),
    _virtctl("ssh vmi/", "ssh user@vmi/db-2 --command=true", _sub("get", f"{VMI}/portforward"), _NO_INSTANCE),
    _virtctl("scp vm/", "scp {files}/empty.json user@vm/db-2:/tmp/x", _sub("get", f"{VM}/portforward"), _NOT_STARTED),
    _virtctl("scp vmi/", "scp {files}/empty.json user@vmi/db-2:/tmp/x", _sub("get", f"{VMI}/portforward"), _NO_INSTANCE),
    # --- about the guest
    _virtctl("guestosinfo", "guestosinfo db-1", _sub("get", f"{VMI}/guestosinfo"), _NO_AGENT),
    _virtctl("userlist", "userlist db-1", _sub("get", f"{VMI}/userlist"), _NO_AGENT),
    _virtctl("fslist", "fslist db-1", _sub("get", f"{VMI}/filesystemlist"), _NO_AGENT),
    _virtctl("expand --vm", "expand --vm db-1", _sub("get", f"{VM}/expand-spec")),
    _virtctl("expand --file", "expand --file {files}/machine.json", _sub("update", "expand-vm-spec")),
    _virtctl("objectgraph", "objectgraph db-1", _sub("get", f"{VM}/objectgraph")),
    _virtctl("objectgraph --vmi", "objectgraph --vmi db-1", _sub("get", f"{VMI}/objectgraph")),
    # --- between nodes
    _virtctl("migrate", "migrate db-1", _sub("update", f"{VM}/migrate")),
    _virtctl("migrate-cancel", "migrate-cancel db-1", _kv("list delete", MIGRATIONS)),
    _virtctl("evacuate-cancel vm", "evacuate-cancel vm db-1", _sub("update", f"{VM}/evacuate", f"{VM}/evacuate/cancel")),
    _virtctl("evacuate-cancel vmi", "evacuate-cancel vmi db-1", _sub("update", f"{VMI}/evacuate", f"{VMI}/evacuate/cancel")),
    # --- volumes. The volume is read first, and a refusal of that hidden behind "is not a DataVolume or PersistentVolumeClaim".
    _virtctl(
        "addvolume",
        "addvolume db-1 --volume-name=disk",
        f"{_VOLUME}; {_sub('update', f'{VM}/addvolume')}",
        _ADDED,
    ),
    _virtctl(
        "removevolume",
        "removevolume db-1 --volume-name=disk",
        _sub("update", f"{VM}/removevolume"),
        _REMOVED,
    ),
    # An instance without a machine: virt-api does not find the machine, then virtctl asks for the instance.
    _virtctl(
        "addvolume (instance only)",
        "addvolume lone --volume-name=disk",
        f"{_VOLUME}; {_sub('update', f'{VM}/addvolume', f'{VMI}/addvolume')}",
        _ADDED,
    ),
    _virtctl(
        "removevolume (instance only)",
        "removevolume lone --volume-name=disk",
        _sub("update", f"{VM}/removevolume", f"{VMI}/removevolume"),
        _REMOVED,
    ),
    # --- the guest's memory
    _virtctl(
        "memory-dump get",
        "memory-dump get db-1 --claim-name=none",
        _sub("update", f"{VM}/memorydump"),
        'persistentvolumeclaim.kubevirt.io "none" not found',
    ),
    _virtctl(
        "memory-dump get --create-claim",
        "memory-dump get db-1 --claim-name=fresh-{run} --create-claim",
        f"{_kv('get', VM, VMI)}; get persistentvolumeclaims; create persistentvolumeclaims; get cdi.kubevirt.io/cdiconfigs@*; "
        + _sub("update", f"{VM}/memorydump"),
    ),
    _virtctl(
        "memory-dump remove",
        "memory-dump remove db-1",
        _sub("update", f"{VM}/removememorydump"),
        "no association found|Successfully",
    ),
    # The export is there already, so that this ends: to make one, and to remove it, is beyond.
    _virtctl(
        "memory-dump download",
        "memory-dump download db-3 --output={files}/dump",
        f"{_kv('get', VM)}; get {_EXPORTS}; get secrets",
        _NOBODY_ANSWERS,
        beyond=f"create {_EXPORTS}; delete {_EXPORTS}; create secrets",
    ),
    # --- exports
    _virtctl("vmexport create", "vmexport create made-{run} --vm=db-1", f"get {_EXPORTS}; create {_EXPORTS}; create secrets"),
    _virtctl(
        "vmexport download", "vmexport download ready --output={files}/disk", f"get {_EXPORTS}; get secrets", _NOBODY_ANSWERS
    ),
    # There is no pod to forward to: what comes after is beyond.
    _virtctl(
        "vmexport download --port-forward",
        "vmexport download ready --output={files}/disk --port-forward --readiness-timeout=5s",
        f"get {_EXPORTS}; get services; list pods",
        "no pods found for the service",
        beyond="create pods/portforward; get secrets",
    ),
    _virtctl("vmexport delete", "vmexport delete old-{run}", f"delete {_EXPORTS}"),
    # --- disks from and to this machine. No CDI takes the image: it waits for that in vain, and asks for no token.
    _virtctl(
        "image-upload pvc",
        f"image-upload pvc image-{{run}} --size=1Mi {_UPLOAD}",
        "get persistentvolumeclaims; create persistentvolumeclaims; list events; get cdi.kubevirt.io/datavolumes",
        "context deadline exceeded",
        beyond=_TOKEN,
    ),
    _virtctl(
        "image-upload dv",
        f"image-upload dv image-{{run}} --size=1Mi {_UPLOAD}",
        "get persistentvolumeclaims; create cdi.kubevirt.io/datavolumes; get cdi.kubevirt.io/datavolumes; list events",
        "context deadline exceeded",
        beyond=_TOKEN,
    ),
    _virtctl(
        "image-upload pvc --no-create",
        f"image-upload pvc upload --no-create {_UPLOAD}",
        f"get persistentvolumeclaims; {_TOKEN}",
        _NO_SUCH_API,
    ),
    # The pod never runs, so that nothing is attached to it.
    _virtctl(
        "guestfs",
        "guestfs disk",
        "get persistentvolumeclaims; list pods; create pods; get pods",
        endless=3,
        beyond="create pods/attach; delete pods",
    ),
    _virtctl(
        "guestfs --vm",
        "guestfs --vm db-1 upload",
        f"get persistentvolumeclaims; list pods; {_kv('get', VM)}; create pods; get pods",
        endless=3,
        beyond="create pods/attach; delete pods",
    ),
    # --- Services and Secrets
    _virtctl("expose vm", "expose vm db-1 --port=22 --name=ssh-{run}", f"{_kv('get', VM)}; create services"),
    _virtctl("expose vmi", "expose vmi db-1 --port=22 --name=ssh-{run}", f"{_kv('get', VMI)}; create services"),
    _virtctl("expose vmirs", "expose vmirs set --port=22 --name=ssh-{run}", f"{_kv('get', SETS)}; create services"),
    _virtctl(
        "credentials add-ssh-key",
        "credentials add-ssh-key --user u --value 'ssh-ed25519 A' --create-secret db-2",
        f"{_kv('get', VM, VMI)}; create secrets; {_kv('patch', VM)}",
    ),
    _virtctl(
        "credentials add-ssh-key --update-secret",
        "credentials add-ssh-key --user u --value 'ssh-ed25519 B' --update-secret --force db-3",
        f"{_kv('get', VM)}; get secrets; patch secrets",
    ),
    _virtctl(
        "credentials remove-ssh-key",
        "credentials remove-ssh-key --user u --value 'ssh-ed25519 B' --force db-3",
        f"{_kv('get', VM)}; get secrets; update secrets",
    ),
    _virtctl(
        "credentials set-password",
        "credentials set-password --user u --password p --force db-3",
        f"{_kv('get', VM)}; patch secrets",
    ),
    # --- templates, whose own API server does not run here
    _virtctl(
        "template process",
        "template process t",
        "create subresources.template.kubevirt.io/virtualmachinetemplates/process",
        _NO_SUCH_API,
    ),
    _virtctl(
        "template process --create",
        "template process t --create",
        "create subresources.template.kubevirt.io/virtualmachinetemplates/create",
        _NO_SUCH_API,
    ),
    _virtctl(
        "template process --print-params",
        "template process t --print-params",
        "get template.kubevirt.io/virtualmachinetemplates",
        'virtualmachinetemplates.template.kubevirt.io "t" not found',
    ),
    _virtctl("template create", "template create --vm-name db-1", "create template.kubevirt.io/virtualmachinetemplaterequests"),
    # --- what everybody may
    _virtctl("version", "version", f"list {SUBRESOURCES}/version@*"),
    _virtctl("permitted-devices", "permitted-devices -n kubevirt", f"list {KUBEVIRT}/kubevirts@kubevirt"),
    _virtctl(
        "adm log-verbosity --all",
        "adm log-verbosity --all",
        f"list {KUBEVIRT}/kubevirts@*; get {KUBEVIRT}/kubevirts@kubevirt",
    ),
    _virtctl(
        "adm log-verbosity --all=3",
        "adm log-verbosity --all=3",
        f"list {KUBEVIRT}/kubevirts@*; get {KUBEVIRT}/kubevirts@kubevirt; patch {KUBEVIRT}/kubevirts@kubevirt",
    ),
    _virtctl("create vm", "create vm", ""),  # prints YAML, as do all of `virtctl create`
    _virtctl("create clone", "create clone --source-name db-1", ""),
)

KUBECTL: tuple[Command, ...] = (
    _kubectl("get vm", "get vm", _kv("list", VM)),
    _kubectl("get vm NAME", "get vm db-1", _kv("get", VM)),
    _kubectl("get vm --watch", "get vm --watch --request-timeout=3s", _kv("list watch", VM)),
    # Events that may not be read look like Events that are not there.
    _kubectl("describe vm", "describe vm db-1", f"{_kv('get', VM)}; list events", "Events:"),
    _kubectl("create -f (a VM)", "create -f {files}/machine.json", _kv("create", VM)),
    # It also asks whether there is such a namespace, to say so if there is none.
    _kubectl(
        "apply -f (a new VM)", "apply -f {files}/other.json", _kv("get create", VM), shrugs="403 get /api/v1/namespaces/[^/]+$"
    ),
    _kubectl("apply -f (a VM that is there)", "apply -f {files}/db-3.json", _kv("get patch", VM)),
    _kubectl("patch vm", """patch vm db-3 --type=merge -p '{{"metadata":{{"labels":{{"c":"d"}}}}}}'""", _kv("get patch", VM)),
    _kubectl("delete vm", "delete vm spare-{run}", _kv("delete get", VM)),
    _kubectl("delete vmi", "delete vmi spare-{run}", _kv("delete get", VMI)),
    _kubectl("label vmi", "label vmi lone k=v", _kv("get patch", VMI)),
)

# What `kubectl create`, `kubectl get` and `kubectl replace --raw` ask for besides; what virtctl has no command for.
REQUESTS: tuple[Command, ...] = (
    _request(_kv("list", VMI), "v1"),
    _request(f"list {_SNAPSHOT}/virtualmachinesnapshots", "v1beta1"),
    _request("list instancetype.kubevirt.io/virtualmachineinstancetypes", "v1beta1"),
    _request("list template.kubevirt.io/virtualmachinetemplates", "v1alpha1"),
    _request("list cdi.kubevirt.io/datavolumes", "v1beta1"),
    _request("list k8s.cni.cncf.io/network-attachment-definitions", "v1"),
    _request("list events", "v1"),
    _request("list persistentvolumeclaims", "v1"),
    _request("list secrets", "v1"),
    _request("list pods", "v1"),
    _request(f"create {_SNAPSHOT}/virtualmachinesnapshots", "v1beta1", kind="VirtualMachineSnapshot"),
    _request(f"create {_SNAPSHOT}/virtualmachinerestores", "v1beta1", kind="VirtualMachineRestore"),
    _request(f"create {_EXPORTS}", "v1", kind="VirtualMachineExport"),
    _request("create clone.kubevirt.io/virtualmachineclones", "v1beta1", kind="VirtualMachineClone"),
    _request("create backup.kubevirt.io/virtualmachinebackups", "v1alpha1", kind="VirtualMachineBackup"),
    _request(_kv("create", MIGRATIONS), "v1", kind="VirtualMachineInstanceMigration"),
    _request(_kv("create", SETS), "v1", kind="VirtualMachineInstanceReplicaSet"),
    _request("create pool.kubevirt.io/virtualmachinepools", "v1beta1", kind="VirtualMachinePool"),
    _request(_sub("update", f"{VMI}/freeze"), "v1", admitted=_NO_NODE),
    _request(_sub("update", f"{VMI}/unfreeze"), "v1", admitted=_NO_NODE),
    _request(_sub("get", f"{VMI}/vsock"), "v1", admitted="VSOCK", query="?port=22"),
    *(
        _request(_sub(verb, f"{VMI}/sev/{name}"), "v1", _sub(verb, f"{VMI}/sev", f"{VMI}/sev/{name}"), _GATE_SEV)
        for verb, name in (
            ("get", "fetchcertchain"),
            ("get", "querylaunchmeasurement"),
            ("update", "setupsession"),
            ("update", "injectlaunchsecret"),
        )
    ),
)

COMMANDS = (*VIRTCTL, *KUBECTL, *REQUESTS)
