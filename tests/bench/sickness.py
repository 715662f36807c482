"""What makes one namespace sick: writes of RoleBindings there are refused, or hang for as long as Kubernetes lets them."""

from __future__ import annotations

import base64
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from localcluster import wait_until
from localcluster.certificates import Authority
from tests.bench.client import Json, Refused
from tests.bench.world import World
from tests.stage import RBAC

NAME = "sick.bench.vmaccess.dev"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
LONGEST = 30  # seconds that a webhook may be waited for


@contextmanager
def refusing(world: World, namespace: str) -> Iterator[None]:
    """Every RoleBinding that is created or changed in the namespace is refused, for as long as the context lasts."""
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [_rule()], "namespaceSelector": _only(namespace)},
        "validations": [{"expression": "false", "message": "no RoleBindings in this namespace"}],
    }
    with (
        _registered(world, "validatingadmissionpolicies", {"spec": policy}),
        _registered(world, "validatingadmissionpolicybindings", {"spec": {"policyName": NAME, "validationActions": ["Deny"]}}),
    ):
        _until_sick(world, namespace)
        yield


@contextmanager
def hanging(world: World, namespace: str) -> Iterator[None]:
    """Every RoleBinding that is created or changed in the namespace hangs half a minute, and is refused then."""
    authority = Authority(world.cluster.directory, "hanging-ca")
    certificate, key = authority.server("hanging", ["127.0.0.1"])
    with _Server(("127.0.0.1", 0), _Hang) as server:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        called = {
            "url": f"https://127.0.0.1:{server.server_port}/",
            "caBundle": base64.b64encode(authority.ca_file.read_bytes()).decode(),
        }
        webhook = {
            "name": NAME,
            "clientConfig": called,
            "rules": [_rule()],
            "namespaceSelector": _only(namespace),
            "failurePolicy": "Fail",
            "timeoutSeconds": LONGEST,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        try:
            with _registered(world, "validatingwebhookconfigurations", {"webhooks": [webhook]}):
                _until_sick(world, namespace)
                yield
        finally:
            server.over.set()
            server.shutdown()


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.over = threading.Event()


class _Hang(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Never answer: the connection is closed when all is over."""
        assert isinstance(self.server, _Server)
        self.server.over.wait()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _registered(world: World, kind: str, body: Json) -> Iterator[None]:
    path = f"{ADMISSION}/{kind}"
    world.run(world.client.request("POST", path, {"metadata": {"name": NAME}, **body}))
    try:
        yield
    finally:
        world.run(world.client.request("DELETE", f"{path}/{NAME}"))


def _until_sick(world: World, namespace: str) -> None:
    probe = {
        "metadata": {"name": "probe"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    }
    path = f"{RBAC}/namespaces/{namespace}/rolebindings?dryRun=All"

    def is_sick() -> bool:
        try:
            world.run(world.client.request("POST", path, probe, seconds=2))
        except (Refused, TimeoutError):
            return True
        return False

    wait_until(is_sick, f"{namespace} to refuse RoleBindings")


def _rule() -> Json:
    return {
        "apiGroups": ["rbac.authorization.k8s.io"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["rolebindings"],
    }


def _only(namespace: str) -> Json:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
