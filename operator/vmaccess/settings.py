"""Every option of the operator, as a flag and as a VMACCESS_* variable; the flag wins."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from vmaccess.model.names import DNS_LABEL, IN_WORDS, NAMESPACE_GLOB, SERVER
from vmaccess.policy.namespaces import PROTECTED_BY_DEFAULT

IN_POD = "KUBERNETES_SERVICE_HOST"
IN_CLUSTER_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True, slots=True)
class Settings:
    """How the operator was told to run."""

    kubeconfig: str | None
    context: str | None
    namespace: str
    protected_namespaces: tuple[str, ...]
    max_in_flight: int
    kubeconfig_server: str | None
    health_host: str
    health_port: int
    log_level: str
    log_format: str

    @property
    def protected(self) -> tuple[str, ...]:
        """Globs of the namespaces that no grant reaches, the operator's own among them."""
        return (self.namespace, *self.protected_namespaces)


def read(arguments: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Parse the command line over the environment; exits with status 2 and a message on a bad value."""
    parser = argparse.ArgumentParser(
        prog="vmaccess-operator",
        description="Grants access to KubeVirt virtual machines as VMAccessGrant objects say.",
        epilog="Each option can also be given as an environment variable, such as VMACCESS_LOG_LEVEL; the option wins.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('vmaccess')}")

    def option(flag: str, default: str | None, help_: str, **kind: object) -> None:
        variable = "VMACCESS_" + flag.strip("-").upper().replace("-", "_")
        shown = f" Default: {default}." if default else ""
        parser.add_argument(flag, default=environ.get(variable) or default, help=f"{help_}{shown} [{variable}]", **kind)  # type: ignore[arg-type]

    option(
        "--kubeconfig", None, "Kubeconfig to use. Without it: KUBECONFIG, then the pod's own credentials, then ~/.kube/config."
    )
    option("--context", None, "Context of the kubeconfig; its current one without it.")
    option("--namespace", _own_namespace(), "Namespace the operator runs in; no grant reaches it.", type=_namespace)
    option(
        "--protected-namespaces",
        ",".join(PROTECTED_BY_DEFAULT),
        "Comma-separated names and globs (* and ?) of namespaces that no grant reaches.",
        type=_globs,
    )
    option(
        "--max-in-flight",
        "128",
        "Writes in flight at most, beside those that hang (up to half as many); fewer while the API server answers 429.",
        type=_number(1, 10_000),
    )
    option(
        "--kubeconfig-server",
        None,
        "Address of the API server in the kubeconfigs that grants have it keep, where they name none. Without it: that of its "
        "own kubeconfig, and in a pod none, since its own is of no use elsewhere.",
        type=_server,
    )
    # Probes come from outside a pod; elsewhere nobody but the person at the machine is to be served, and 8080 is often taken.
    in_pod = IN_POD in environ
    option(
        "--health-host",
        "0.0.0.0" if in_pod else "127.0.0.1",  # noqa: S104
        "Address to serve /healthz, /readyz and /metrics on; in a pod all of its addresses.",
    )
    option(
        "--health-port",
        "8080" if in_pod else "0",
        "Port to serve them on; 0 takes any free one and logs it. In a pod 8080.",
        type=_number(0, 65535),
    )
    option(
        "--log-level",
        "info",
        "Least level that is logged: debug, info, warning or error.",
        type=_one_of("debug", "info", "warning", "error"),
    )
    option("--log-format", "text", "Lines for a person (text), or one JSON object a line (json).", type=_one_of("text", "json"))
    given = parser.parse_args(arguments)
    return Settings(**vars(given))


def _own_namespace() -> str:
    try:
        with open(IN_CLUSTER_NAMESPACE, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return "vmaccess-system"


def _globs(text: str) -> tuple[str, ...]:
    globs = tuple(filter(None, (entry.strip() for entry in text.split(","))))
    for glob in globs:
        if not re.fullmatch(NAMESPACE_GLOB, glob):
            raise argparse.ArgumentTypeError(f"{glob!r} is not a name or glob of namespaces: separate them by commas")
    return globs


def _namespace(text: str) -> str:
    if not re.fullmatch(DNS_LABEL, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a namespace")
    return text


def _server(text: str) -> str:
    if not re.fullmatch(SERVER, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: use {IN_WORDS[SERVER]}")
    return text


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return read


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(choices)}")
        return text

    return read
