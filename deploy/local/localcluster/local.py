"""A control plane of its own: etcd, kube-apiserver and kube-controller-manager as child processes on this machine."""

import contextlib
import http.client
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from localcluster.access import Access, write_kubeconfig
from localcluster.api import Cluster
from localcluster.audit import audit_flags
from localcluster.binaries import Binaries, find_or_build
from localcluster.certificates import Authority
from localcluster.errors import ClusterError
from localcluster.processes import Component, Watchdog
from localcluster.waiting import wait_until

CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "clusterrole-aggregation-controller",
)

# Unix sockets in the cluster's own folder: no port to lose to somebody else, and no open database on the loopback.
_ETCD = "unix://etcd:0"
_ETCD_PEER = "unix://etcd-peer:0"


class LocalCluster(Cluster):
    """Starts a control plane when made and stops every trace of it when left; several run side by side.

    `users` names further identities with their groups, each with a static token (`user_token`). `audit` keeps a log of
    every request (`audit_events`). Raises ComponentError when a component ends by itself, BinariesError when there is
    nothing to start.
    """

    def __init__(
        self,
        *,
        audit: bool = False,
        users: Mapping[str, Sequence[str]] | None = None,
        binaries: Binaries | None = None,
    ) -> None:
        programs = binaries or find_or_build()
        self.directory = Path(tempfile.mkdtemp(prefix="vmaccess-"))
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            started.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self._watchdog = Watchdog(self.directory)
            started.callback(self._watchdog.close)
            # Ours as long as we live, also while the API server is down: it shares the port (--permit-port-sharing).
            port = started.enter_context(reserved_port())
            self._tokens = {user: secrets.token_urlsafe(32) for user in (users or {})}
            # The API server makes the certificate itself, its CA in the same file; 127.0.0.1 is among its names.
            ca_file = self.directory / "certs" / "apiserver.crt"
            self.admin = Access(f"https://127.0.0.1:{port}", ca_file, secrets.token_urlsafe(32))
            self.audit_log = self.directory / "audit.log" if audit else None
            controller_token = self._write_tokens(users or {})
            self._etcd = self.component("etcd", programs.etcd, _etcd_flags())
            self._apiserver = self.component("kube-apiserver", programs.kube_apiserver, self._apiserver_flags(port))
            self._controllers = self.component("kube-controller-manager", programs.kube_controller_manager, _controller_flags())
            for component in (self._etcd, self._apiserver, self._controllers):
                started.callback(component.stop)
            self._start(controller_token)
            self._cleanup = started.pop_all()

    def _start(self, controller_token: str) -> None:
        self._etcd.start()
        self._until((self.directory / "etcd:0").exists, "etcd to listen")
        self.start_apiserver()
        self.admin_kubeconfig = write_kubeconfig(self.directory / "admin.kubeconfig", self.admin, user="admin")
        write_kubeconfig(
            self.directory / "controllers.kubeconfig", self.admin.identified_by(controller_token), user="controllers"
        )
        self.start_controller_manager()
        # Both come after "ready": the namespace from the API server, its ServiceAccount from the controllers.
        path = "/api/v1/namespaces/default/serviceaccounts/default"
        self._until(lambda: self.request("GET", path)[0] == 200, "the default ServiceAccount")

    def close(self) -> None:
        self._cleanup.close()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of the components that run now, and of the watchdog."""
        components = (self._etcd, self._apiserver, self._controllers)
        running = {component.name: component.pid for component in components if component.pid is not None}
        return running | {"watchdog": self._watchdog.pid}

    def check(self) -> None:
        """Raise ComponentError when a component has ended by itself."""
        for component in (self._etcd, self._apiserver, self._controllers):
            component.check()

    def user_token(self, user: str) -> str:
        if user not in self._tokens:
            raise ClusterError(f"the cluster was not started with a user {user!r}: name it in LocalCluster(users=...)")
        return self._tokens[user]

    def start_apiserver(self) -> None:
        self._apiserver.start()
        self._until(self._is_ready, "kube-apiserver to be ready")

    def stop_apiserver(self) -> None:
        self._apiserver.stop()

    def start_controller_manager(self) -> None:
        self._controllers.start()
        self._until(
            lambda: "synced garbage collector" in self._controllers.written(), "kube-controller-manager's garbage collector"
        )

    def stop_controller_manager(self) -> None:
        self._controllers.stop()

    def _learn_resources(self) -> None:
        # A restart takes a third of a second, its next look at discovery up to 30.
        self.stop_controller_manager()
        self.start_controller_manager()

    def _is_ready(self) -> bool:
        # Refused until it listens; the certificate appears shortly before.
        try:
            return self.request("GET", "/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            self.check()
            return condition()

        wait_until(holds, what, timeout=60)

    def component(self, name: str, program: Path, flags: Sequence[str]) -> Component:
        """Return a program that runs in this cluster's folder once it is started, and ends with the cluster at the latest."""
        return Component(name, [str(program), *flags], directory=self.directory, watchdog=self._watchdog)

    def _write_tokens(self, users: Mapping[str, Sequence[str]]) -> str:
        """Write the static token file and return the controllers' token.

        The controllers have an admin's rights under the name they have in every cluster, by which the audit policy
        tells them apart.
        """
        controllers = secrets.token_urlsafe(32)
        identities = {"admin": (self.admin.token, ["system:masters"])}
        identities["system:kube-controller-manager"] = (controllers, ["system:masters"])
        identities |= {user: (self._tokens[user], list(groups)) for user, groups in users.items()}
        lines = [f'"{token}","{user}","{user}","{",".join(groups)}"\n' for user, (token, groups) in identities.items()]
        file = self.directory / "tokens.csv"
        file.touch(mode=0o600)
        file.write_text("".join(lines))
        return controllers

    def _apiserver_flags(self, port: int) -> list[str]:
        return [
            f"--etcd-servers={_ETCD}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--permit-port-sharing",
            # Without these two it looks for a default route, and writes an Endpoints object that it then finds invalid.
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--cert-dir=certs",
            "--authorization-mode=RBAC",
            "--token-auth-file=tokens.csv",
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            "--service-account-issuer=https://kubernetes.default.svc",
            # The serving key it makes itself, so that making a key needs no openssl.
            "--service-account-signing-key-file=certs/apiserver.key",
            "--service-account-key-file=certs/apiserver.key",
            *_aggregation_flags(self.directory),
            *(audit_flags(self.audit_log, self.directory / "audit-policy.yaml") if self.audit_log else []),
        ]


def _aggregation_flags(directory: Path) -> list[str]:
    """Let the API server pass requests on, in the caller's name, to servers that trust the front proxy's authority."""
    authority = Authority(directory, "front-proxy-ca")
    certificate, key = authority.client("front-proxy-client")
    return [
        f"--requestheader-client-ca-file={authority.ca_file}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={certificate}",
        f"--proxy-client-key-file={key}",
    ]


def _etcd_flags() -> list[str]:
    return [
        "--data-dir=etcd-data",
        "--unsafe-no-fsync",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_ETCD_PEER}",
        f"--initial-advertise-peer-urls={_ETCD_PEER}",
        f"--initial-cluster=default={_ETCD_PEER}",
    ]


def _controller_flags() -> list[str]:
    return [
        "--kubeconfig=controllers.kubeconfig",
        f"--controllers={','.join(CONTROLLERS)}",
        "--leader-elect=false",
        "--service-account-private-key-file=certs/apiserver.key",
        "--root-ca-file=certs/apiserver.crt",
        "--secure-port=0",
        "-v=2",  # the level at which the garbage collector says that it is ready
    ]


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port that nobody else is given meanwhile; a Go program can listen on it, since it shares addresses too."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]
