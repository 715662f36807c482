"""What is in a namespace where commands are tried, as manifests: machines, volumes, exports, Secrets; and the files they read."""

from __future__ import annotations

from typing import Any

from vmaccess.policy.kubevirt import KUBEVIRT

Json = dict[str, Any]

EXPORT = "export.kubevirt.io/v1"
_NOWHERE = {"volumes": [{"name": "disk", "formats": [{"format": "raw", "url": "https://127.0.0.1:1/disk"}]}]}
_IN_GUEST: Json = {"qemuGuestAgent": {"users": ["u"]}}


def manifest(version: str, kind: str, name: str, /, *, status: Json | None = None, **fields: Any) -> Json:
    """An object; further metadata in `metadata`, everything else as it is."""
    metadata = {"name": name} | fields.pop("metadata", {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **fields} | ({"status": status} if status else {})


def machine(name: str, *, run: str = "Halted", status: Json | None = None, **template: Any) -> Json:
    """A VirtualMachine, which nobody runs."""
    spec = {"runStrategy": run, "template": {"spec": {"domain": {"devices": {}}, **template}}}
    return manifest(f"{KUBEVIRT}/v1", "VirtualMachine", name, spec=spec, status=status)


def instance(name: str, owner: Json | None = None) -> Json:
    """A VirtualMachineInstance that says that it runs, on a node where there is no virt-handler."""
    owners = (
        [{"apiVersion": f"{KUBEVIRT}/v1", "kind": "VirtualMachine", "name": name, "uid": owner["metadata"]["uid"]}]
        if owner
        else []
    )
    return manifest(
        f"{KUBEVIRT}/v1",
        "VirtualMachineInstance",
        name,
        metadata={"ownerReferences": [one | {"controller": True} for one in owners]},
        spec={"domain": {"devices": {}, "memory": {"guest": "64Mi"}}},
        status={"phase": "Running", "nodeName": "node-1"},
    )


def export(name: str, *, ready: bool = False) -> Json:
    """An export of a claim; a ready one can be downloaded, from where nobody answers."""
    links = {"external": _NOWHERE, "internal": _NOWHERE}
    status = {"phase": "Ready", "serviceName": "virt-export-ready", "tokenSecretRef": "tokens", "links": links} if ready else None
    source = {"apiGroup": "", "kind": "PersistentVolumeClaim", "name": "disk"}
    return manifest(EXPORT, "VirtualMachineExport", name, spec={"source": source}, status=status)


def claim(name: str, **annotations: str) -> Json:
    """A PersistentVolumeClaim, which nobody binds."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    prefixed = {f"cdi.kubevirt.io/storage.{key.replace('_', '.')}": value for key, value in annotations.items()}
    return manifest("v1", "PersistentVolumeClaim", name, metadata={"annotations": prefixed}, spec=spec)


def furniture() -> list[Json]:
    """What every place has, but for the running instance of db-1, which needs its owner's uid."""
    keys = {"sshPublicKey": {"source": {"secret": {"secretName": "keys"}}, "propagationMethod": _IN_GUEST}}
    password = {"userPassword": {"source": {"secret": {"secretName": "passwords"}}, "propagationMethod": _IN_GUEST}}
    dumped = {"memoryDumpRequest": {"claimName": "memory", "phase": "Completed"}}
    moving = {"labels": {"kubevirt.io/vmi-name": "db-1"}}
    replicas = {"selector": {"matchLabels": {"a": "b"}}, "template": {}}
    headless = {"clusterIP": "None", "selector": {"a": "b"}, "ports": [{"port": 443}]}
    return [
        machine("db-1", run="Always", status={"created": True, "ready": True}),
        machine("db-2"),
        machine("db-3", status=dumped, accessCredentials=[keys, password]),
        instance("lone"),
        manifest(f"{KUBEVIRT}/v1", "VirtualMachineInstanceMigration", "moving", metadata=moving, spec={"vmiName": "db-1"}),
        manifest(f"{KUBEVIRT}/v1", "VirtualMachineInstanceReplicaSet", "set", spec=replicas),
        export("ready", ready=True),
        export("export-db-3-memory", ready=True),
        *(manifest("v1", "Secret", name, stringData={"token": "ssh-ed25519 A"}) for name in ("keys", "passwords", "tokens")),
        claim("disk"),
        manifest("cdi.kubevirt.io/v1beta1", "DataVolume", "disk", spec={}),
        claim("upload", upload_target="", pod_ready="true"),
        manifest("v1", "Service", "virt-export-ready", spec=headless),
    ]


def files() -> dict[str, Json]:
    """What the commands read, by the file's name: machines, and nothing."""
    changed = machine("db-3")
    changed["metadata"]["labels"] = {"a": "b"}
    return {"empty": {}, "machine": machine("new-1"), "other": machine("new-2"), "db-3": changed}
