"""The caller's own kubeconfig: every way in which it may identify its owner works, and TLS is verified in all of them."""

from __future__ import annotations

import base64
import http.server
import json
import os
import select
import socket
import socketserver
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from localcluster import LocalCluster, product
from localcluster.api import kubectl_binary
from localcluster.certificates import Authority
from tests.cli.helpers import Cli, claims, user_in
from tests.stage import GRANTS, RBAC
from vmaccess.cli.caller import Caller, identify, read_caller
from vmaccess.cli.connection import Connection, Refused
from vmaccess.cli.failed import Failed

Json = dict[str, Any]


def kubeconfig(path: Path, server: Json, user: Json, **more: Any) -> Path:
    """A kubeconfig with one context `mine`."""
    content = {
        "clusters": [{"name": "prod", "cluster": server}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "mine", "context": {"cluster": "prod", "user": "me"}}],
        "current-context": "mine",
        **more,
    }
    path.write_text(yaml.safe_dump(content))
    return path


# --- on a real API server that knows alice by a certificate as well as by a token ---


class Certified(LocalCluster):
    """A control plane that takes client certificates, and gives tokens for one hour at most."""

    def _apiserver_flags(self, port: int) -> list[str]:
        self.clients = Authority(self.directory, "clients-ca")
        flags = super()._apiserver_flags(port)
        return [*flags, f"--client-ca-file={self.clients.ca_file}", "--service-account-max-token-expiration=1h"]


@pytest.fixture(scope="module")
def certified() -> Iterator[Certified]:
    """A grant `g` with a ServiceAccount, in the shape that the operator gives it; alice may do all that is needed."""
    with Certified(audit=True, users={"alice": []}) as cluster:
        cluster.apply(product.CRD)
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        alice = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}
        binding = {"metadata": {"name": "alice"}, "roleRef": reference, "subjects": [alice]}
        account = {"namespace": "default", "name": "runner"}
        kind = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant"}
        for path, body in (
            (f"{RBAC}/clusterrolebindings", binding),
            ("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "runner"}}),
            (GRANTS, kind | {"metadata": {"name": "g"}, "spec": {"serviceAccounts": [account], "namespaces": ["default"]}}),
        ):
            status, answer = cluster.request("POST", path, body)
            assert status == 201, answer
        status, answer = cluster.request(
            "PATCH", f"{GRANTS}/g/status", {"status": {"observedGeneration": 1, "serviceAccounts": [account]}}
        )
        assert status == 200, answer
        yield cluster


PLUGIN = """\
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["spec"]["interactive"] is False
status = json.loads(os.environ["STATUS"])
if "cluster" in info["spec"]:
    status["token"] = json.dumps(info["spec"]["cluster"])
print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": status}))
"""


def plugin(folder: Path, status: Json, **more: Any) -> Json:
    """An `exec` block for a plugin that gives this status."""
    (folder / "plugin.py").write_text(PLUGIN)
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": [str(folder / "plugin.py")],
        "env": [{"name": "STATUS", "value": json.dumps(status)}],
        "interactiveMode": "IfAvailable",
        **more,
    }


def identities(cluster: Certified, folder: Path) -> dict[str, Json]:
    """Every way to be alice."""
    certificate, key = cluster.clients.client("alice")
    (folder / "sub").mkdir()
    for name, content in (("crt", certificate.read_bytes()), ("key", key.read_bytes())):
        (folder / "sub" / f"alice.{name}").write_bytes(content)
    token = cluster.user_token("alice")
    (folder / "token").write_text(f"{token}\n")
    pair = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    return {
        "certificate-data": {
            "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
            "client-key-data": base64.b64encode(key.read_bytes()).decode(),
        },
        "certificate-files": {"client-certificate": "sub/alice.crt", "client-key": "sub/alice.key"},
        "token": {"token": token},
        "token-file": {"token": "an old one", "tokenFile": "token"},
        "plugin": {"exec": plugin(folder, {"token": token})},
        "plugin-v1beta1": {"exec": plugin(folder, {"token": token}, apiVersion="client.authentication.k8s.io/v1beta1")},
        "plugin-with-a-certificate": {"exec": plugin(folder, pair)},
        "oidc": {"auth-provider": {"name": "oidc", "config": {"id-token": token}}},
    }


IDENTITIES = (
    "certificate-data",
    "certificate-files",
    "token",
    "token-file",
    "plugin",
    "plugin-v1beta1",
    "plugin-with-a-certificate",
    "oidc",
)


@pytest.mark.parametrize("way", IDENTITIES)
def test_the_caller_is_who_the_kubeconfig_says(certified: Certified, tmp_path: Path, cli: Cli, way: str) -> None:
    ways = identities(certified, tmp_path)
    assert set(ways) == set(IDENTITIES)
    file = kubeconfig(tmp_path / "config", {"server": certified.url, "certificate-authority": str(certified.ca_file)}, ways[way])
    since = certified.audit_position()
    said = cli("kubeconfig", "g", "-o", "-", "--kubeconfig", str(file))
    assert said.code == 0, said.err
    assert claims(user_in(said.out)["token"])["sub"] == "system:serviceaccount:default:runner"
    events = certified.audit_events(since=since)
    asked = {(event["verb"], event["objectRef"]["resource"]) for event in events if event["user"].get("username") == "alice"}
    assert asked >= {("get", "vmaccessgrants"), ("create", "secrets"), ("create", "serviceaccounts")}
    assert certified.user_token("alice") not in said.out + said.err


def test_nobody_is_somebody_without_credentials(certified: Certified, tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config", {"server": certified.url, "certificate-authority": str(certified.ca_file)}, {})
    with Connection(read_caller(str(file), None)) as api, pytest.raises(Refused) as refused:
        api.get(f"{GRANTS}/g")
    assert refused.value.status in (401, 403)


def test_the_caller_acts_as_the_kubeconfig_says(certified: Certified, tmp_path: Path) -> None:
    roles = {"as": "bob", "as-uid": "7", "as-groups": ["ops", "dev"], "as-user-extra": {"example.com/Team": ["a", "b"]}}
    user = {"token": certified.admin_token, **roles}
    file = kubeconfig(tmp_path / "config", {"server": certified.url, "certificate-authority": str(certified.ca_file)}, user)
    with Connection(read_caller(str(file), None)) as api:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        who = api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)["status"]["userInfo"]
    assert (who["username"], who["uid"], who["extra"]) == ("bob", "7", {"example.com/team": ["a", "b"]})
    assert {"ops", "dev"} <= set(who["groups"])


def test_less_time_than_asked_for_is_told_and_written_down(certified: Certified, tmp_path: Path, cli: Cli) -> None:
    admin = str(certified.admin_kubeconfig)
    said = cli("kubeconfig", "g", "-o", str(tmp_path / "made"), "--lifetime", "2d", "--kubeconfig", admin)
    assert said.out.splitlines()[1].endswith(" UTC, for 1 h; 2 d was asked for")
    credential = said.out.split()[-1]
    path = f"/api/v1/namespaces/default/secrets/vmaccess-credential-{credential}"
    expires = certified.request("GET", path)[1]["metadata"]["annotations"]["vmaccess.dev/expires"]
    assert expires.replace("T", " ").replace("Z", " UTC") in said.out


@pytest.mark.parametrize(
    ("error", "why"), [(Failed("no answer"), "no answer"), (KeyboardInterrupt(), "interrupted")], ids=["a-time-out", "ctrl-c"]
)
def test_what_is_not_written_down_is_no_failure(
    certified: Certified, tmp_path: Path, cli: Cli, error: BaseException, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Connection, "patch", fail)
    made = tmp_path / "made"
    said = cli("kubeconfig", "g", "-o", str(made), "--lifetime", "2d", "--kubeconfig", str(certified.admin_kubeconfig))
    assert said.code == 0
    assert said.out.startswith(f"wrote {made}, readable by you alone: ")
    assert said.err == f"note: `kubectl vmaccess credentials` will tell another end of it: {why}\n"
    path = f"/api/v1/namespaces/default/secrets/vmaccess-credential-{said.out.split()[-1]}"
    assert certified.request("GET", path)[0] == 200


# --- how files are found and merged ---


def test_paths_are_meant_from_the_folder_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = {"certificate-authority": "ca.crt"}
    for folder, content in (("one", b"first"), ("two", b"second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ca.crt").write_bytes(content)
        (tmp_path / folder / "token").write_bytes(content)
    one, two, missing = tmp_path / "one" / "config", tmp_path / "two" / "config", tmp_path / "missing"
    kubeconfig(one, {"server": "https://one.example.com/", **ca}, {"tokenFile": "token"})
    other = [{"name": "other", "context": {"cluster": "second", "user": "second"}}]
    mine = [
        {"name": "prod", "cluster": {"server": "https://taken.example.com"}},
        {"name": "second", "cluster": {"server": "https://two.example.com", **ca}},
    ]
    kubeconfig(
        two,
        {},
        {},
        clusters=mine,
        users=[{"name": "second", "user": {"tokenFile": "token"}}],
        contexts=other,
        **{"current-context": "other"},
    )
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, (missing, one, two))))

    def seen(context: str | None) -> tuple[str, bytes | None, str]:
        caller = read_caller(None, context)
        ((_, authorization),) = identify(caller).headers
        return caller.cluster.server, caller.cluster.ca, authorization

    assert seen(None) == ("https://one.example.com", b"first", "Bearer first")
    assert seen("other") == ("https://two.example.com", b"second", "Bearer second")
    assert read_caller(None, None).files == (one, two)


# What the first file has instead, and the second in addition: of what both name, the first has it, whole.
MERGES: dict[str, tuple[Json, Json]] = {
    "two-that-share-nothing": ({}, {}),
    "the-first-has-no-current-context": ({"current-context": ""}, {}),
    "a-user-of-both": ({}, {"users": [{"name": "me", "user": {"token": "second", "as": "root"}}]}),
    "a-cluster-of-both": ({}, {"clusters": [{"name": "prod", "cluster": {"server": "https://b", "tls-server-name": "b"}}]}),
    "a-context-of-both": ({}, {"contexts": [{"name": "mine", "context": {"cluster": "other", "user": "other"}}]}),
    "a-context-that-leads-into-the-other": (
        {"contexts": [{"name": "mine", "context": {"cluster": "other", "user": "other"}}]},
        {},
    ),
    "an-empty-section": ({"clusters": None}, {"clusters": [{"name": "prod", "cluster": {"server": "https://b"}}]}),
}


@pytest.mark.parametrize("case", MERGES)
@pytest.mark.parametrize("backwards", [False, True])
def test_of_several_files_kubectl_takes_the_same(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, *, backwards: bool
) -> None:
    first = kubeconfig(tmp_path / "first", {"server": "https://a"}, {"token": "first"}, **MERGES[case][0])
    more = MERGES[case][1]
    sections = {
        "clusters": [{"name": "other", "cluster": {"server": "https://o"}}, *more.get("clusters", ())],
        "users": [{"name": "other", "user": {"token": "other"}}, *more.get("users", ())],
        "contexts": [{"name": "other", "context": {"cluster": "other", "user": "other"}}, *more.get("contexts", ())],
        "current-context": "other",
    }
    second = kubeconfig(tmp_path / "second", {}, {}, **sections)
    files = (second, first) if backwards else (first, second)
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(map(str, files)))
    asked = [kubectl_binary(), "config", "view", "--minify", "--raw", "-o", "json"]
    shown = json.loads(subprocess.run(asked, check=True, capture_output=True, timeout=60).stdout)
    mine = read_caller(None, None)
    assert mine.context == shown["current-context"]
    assert mine.cluster.name == shown["clusters"][0]["name"]
    assert mine.cluster_fields == shown["clusters"][0]["cluster"]
    assert mine.user == shown["users"][0]["user"]


def test_what_is_peculiar_to_a_cluster_is_carried_over(tmp_path: Path) -> None:
    peculiar = {
        "server": "https://10.0.0.1:6443",
        "tls-server-name": "api.example.com",
        "proxy-url": "http://proxy.example.com:3128",
    }
    file = kubeconfig(tmp_path / "config", peculiar | {"certificate-authority-data": base64.b64encode(b"pem").decode()}, {})
    assert read_caller(str(file), None).cluster.render() == peculiar | {
        "certificate-authority-data": base64.b64encode(b"pem").decode()
    }


HIDDEN = "s3cret"


def runs(command: str, *arguments: str, **more: Any) -> Json:
    """A user who is known by what a plugin says."""
    return {"exec": {"apiVersion": "v1", "command": command, "args": list(arguments), **more}}


OTHER_VERSION = json.dumps({"apiVersion": "v2", "status": {"token": HIDDEN}})
NOT_THERE = "the credential plugin no-such-program of your kubeconfig cannot be run: No such file or directory; get it"


@pytest.mark.parametrize(
    ("server", "user", "why"),
    [
        ({"certificate-authority": "missing"}, {}, "its certificate-authority cannot be read"),
        ({"certificate-authority-data": "%"}, {}, "its certificate-authority cannot be read"),
        ({"certificate-authority-data": "AAAA"}, {}, "is no certificate"),
        ({"proxy-url": f"http://me:{HIDDEN}@there:port"}, {}, "the proxy-url of cluster 'prod' in your kubeconfig is not"),
        ({}, {"client-certificate-data": "AAAA"}, "the user has no client-key"),
        ({}, {"client-certificate-data": "AAAA", "client-key-data": "AAAA"}, "do not belong together, or the key has a password"),
        ({}, {"tokenFile": "missing"}, "its tokenFile cannot be read"),
        ({}, {"token": f"{HIDDEN}\n{HIDDEN}"}, "a token or a name to act as is empty, or has line breaks"),
        ({}, {"token": HIDDEN, "as": "bob\r\nX: y"}, "a token or a name to act as is empty, or has line breaks"),
        ({}, {"token": HIDDEN, "as-groups": ["ops"]}, "has as-uid, as-groups or as-user-extra without `as`"),
        ({}, {"token": HIDDEN, "as-uid": "7"}, "has as-uid, as-groups or as-user-extra without `as`"),
        ({}, {"token": HIDDEN, "as-user-extra": {"team": ["a"]}}, "has as-uid, as-groups or as-user-extra without `as`"),
        ({}, {"token": HIDDEN, "as": "bob", "as-groups": "ops"}, "as-groups of its user has to be a list"),
        ({}, {"token": HIDDEN, "as": "bob", "as-user-extra": {"team": "a"}}, "and as-user-extra lists by their names"),
        ({}, {"auth-provider": {"name": "gcp", "config": {"access-token": HIDDEN}}}, "the auth-provider 'gcp', which has no"),
        ({}, {"exec": {"command": "x"}}, "its `exec` needs a command and an apiVersion"),
        ({}, runs("no-such-program", installHint="get it"), NOT_THERE),
        ({}, runs("false"), "has failed with code 1"),
        ({}, runs("true", interactiveMode="Always"), "has to ask you something"),
        ({}, runs("echo", HIDDEN), "gives no credentials that can be understood"),
        ({}, runs("echo", OTHER_VERSION), "answers v2, not v1"),
    ],
)
def test_what_is_wrong_with_the_kubeconfig_is_said(tmp_path: Path, cli: Cli, server: Json, user: Json, why: str) -> None:
    file = kubeconfig(tmp_path / "config", {"server": "https://api.example.com"} | server, user)
    said = cli("kubeconfig", "x", "--kubeconfig", str(file))
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
    assert why in said.err
    assert HIDDEN not in said.err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no current-context"),
        ("just text", "is no kubeconfig"),
        (f"users: [{{token: {HIDDEN}: {HIDDEN}", "cannot be read as a kubeconfig"),
        ("contexts: 7\ncurrent-context: mine", "something else than named entries under `contexts`"),
        ("contexts: [{name: mine, context: {}}]\ncurrent-context: mine", "has no cluster 'None'"),
        ("contexts: []\ncurrent-context: mine", "has no context 'mine'"),
    ],
)
def test_what_is_no_kubeconfig_is_said(tmp_path: Path, cli: Cli, text: str, why: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    said = cli("kubeconfig", "x", "--kubeconfig", str(file))
    assert (said.code, said.out) == (1, "")
    assert why in said.err
    assert HIDDEN not in said.err
    assert "Traceback" not in said.err


def test_line_breaks_in_data_are_overlooked(tmp_path: Path) -> None:
    data = base64.encodebytes(b"a certificate that takes more than one line of base64, as people paste it into a file").decode()
    assert data.count("\n") > 1
    file = kubeconfig(tmp_path / "config", {"server": "https://api.example.com", "certificate-authority-data": data}, {})
    assert read_caller(str(file), None).cluster.ca == base64.b64decode(data)


def test_no_plugin_is_none(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config", {"server": "https://api.example.com"}, {"exec": None, "username": "me"})
    ((name, value),) = identify(read_caller(str(file), None)).headers
    assert (name, value) == ("Authorization", f"Basic {base64.b64encode(b'me:').decode()}")


def test_what_may_not_be_read_is_said(cli: Cli, unreadable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = cli("kubeconfig", "x", "--kubeconfig", str(unreadable / "config"))
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
    assert said.err.startswith(f"error: {unreadable / 'config'} cannot be read as a kubeconfig: ")
    assert "Permission denied" in said.err
    monkeypatch.setenv("KUBECONFIG", f"{unreadable / 'config'}:/elsewhere")
    with pytest.raises(Failed, match="Permission denied"):
        read_caller(None, None)


def test_a_plugin_is_told_of_the_cluster(tmp_path: Path) -> None:
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    server = {"server": "https://api.example.com", "extensions": [extension]}
    block = plugin(tmp_path, {}, provideClusterInfo=True, command="./python")
    (tmp_path / "python").symlink_to(sys.executable)  # a command with a slash is meant from the kubeconfig's folder
    ((_, authorization),) = identify(read_caller(str(kubeconfig(tmp_path / "config", server, {"exec": block})), None)).headers
    assert json.loads(authorization.removeprefix("Bearer ")) == {"server": "https://api.example.com", "config": {"audience": "x"}}


def test_a_plugin_that_a_client_waits_for_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kubeconfig(tmp_path / "config", {"server": "https://api.example.com"}, {"exec": plugin(tmp_path, {"token": HIDDEN})})
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setenv("KUBERNETES_EXEC_INFO", "{}")
    assert identify(read_caller(str(file), None)).headers == (("Authorization", f"Bearer {HIDDEN}"),)


# --- what goes over the wire, on a server that keeps what it was sent ---


@dataclass
class Seen:
    """A server that notes what it is asked."""

    port: int
    ca_file: Path
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Seen]:
    """An https server that is called api.example.com and nothing else."""
    with serving(Authority(tmp_path, "wire-ca")) as seen:
        yield seen


@contextmanager
def serving(authority: Authority) -> Iterator[Seen]:
    """Such a server with a certificate of this authority."""
    seen = Seen(0, authority.ca_file)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.headers.append(dict(self.headers))
            self.send_response(302 if self.path == "/elsewhere" else 200)
            self.send_header("Location", "https://127.0.0.1:1/stolen")
            self.end_headers()
            self.wfile.write(b"{}" if self.path != "/page" else b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that does not trust it hangs up

    with Server(("127.0.0.1", 0), Handler) as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.server("wire", ["api.example.com"]))
        running.socket = context.wrap_socket(running.socket, server_side=True, do_handshake_on_connect=False)
        seen.port = running.server_address[1]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield seen
        finally:
            running.shutdown()
            thread.join()


def caller(server: Seen, folder: Path, user: Json, /, **more: Any) -> Caller:
    """Who asks that server by these credentials."""
    entry = {
        "server": f"https://127.0.0.1:{server.port}",
        "certificate-authority": str(server.ca_file),
        "tls-server-name": "api.example.com",
    }
    return read_caller(str(kubeconfig(folder / "config", entry | more, user)), None)


def test_basic_auth_and_the_name_in_the_certificate(server: Seen, tmp_path: Path) -> None:
    with Connection(caller(server, tmp_path, {"username": "alice", "password": "pässword:1"})) as api:
        assert api.get("/version") == {}
    assert server.headers[0]["Authorization"] == "Basic " + base64.b64encode("alice:pässword:1".encode()).decode()


@pytest.mark.parametrize("name", [None, "other.example.com"])
def test_a_certificate_of_another_name_is_not_believed(server: Seen, tmp_path: Path, name: str | None) -> None:
    with (
        Connection(caller(server, tmp_path, {"token": HIDDEN}, **{"tls-server-name": name})) as api,
        pytest.raises(Failed) as failed,
    ):
        api.get("/version")
    assert "certificate verify failed" in str(failed.value)
    assert not server.headers


class Homemade(Authority):
    """As people make them: without the identifiers that RFC 5280 asks for."""

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        times = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        return times.serial_number(x509.random_serial_number())


@pytest.mark.parametrize("trusted", ["wire-ca.crt", "wire.crt"], ids=["homemade", "the-servers-own"])
def test_a_ca_that_kubectl_accepts_is_accepted(tmp_path: Path, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    create = ssl.create_default_context

    def strict(**given: Any) -> ssl.SSLContext:  # as of Python 3.13
        context = create(**given)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    with serving(Homemade(tmp_path, "wire-ca")) as server:
        mine = caller(server, tmp_path, {"token": HIDDEN}, **{"certificate-authority": str(tmp_path / trusted)})
        with Connection(mine) as api:
            assert api.get("/version") == {}


def test_credentials_do_not_follow_a_redirect(server: Seen, tmp_path: Path) -> None:
    with Connection(caller(server, tmp_path, {"token": HIDDEN})) as api, pytest.raises(Refused) as refused:
        api.get("/elsewhere")
    assert refused.value.status == 302
    assert len(server.headers) == 1


def test_what_is_no_api_server_is_said(server: Seen, tmp_path: Path) -> None:
    with Connection(caller(server, tmp_path, {"token": HIDDEN})) as api, pytest.raises(Failed) as failed:
        api.get("/page")
    assert "does not answer as an API server does" in str(failed.value)


@pytest.fixture
def proxy() -> Iterator[tuple[int, list[str]]]:
    """An http proxy, and the requests it has had."""
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = [self.rfile.readline().decode()]
            while lines[-1] != "\r\n":
                lines.append(self.rfile.readline().decode())
            asked.append("".join(lines))
            port = int(lines[0].split()[1].partition(":")[2])
            with socket.create_connection(("127.0.0.1", port)) as there:  # whatever name was asked for
                self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                ends = {self.connection: there, there: self.connection}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        data = end.recv(65536)
                        if not data:
                            return
                        ends[end].sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_address[1], asked
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(("by", "host"), [("kubeconfig", "127.0.0.1"), ("environment", "api.example.com")])
def test_a_proxy_is_gone_through(
    server: Seen, proxy: tuple[int, list[str]], tmp_path: Path, by: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, asked = proxy
    address = f"http://me:pass%21@127.0.0.1:{port}"
    monkeypatch.setenv("NO_PROXY" if by == "kubeconfig" else "HTTPS_PROXY", "*" if by == "kubeconfig" else address)
    here = {"server": f"https://{host}:{server.port}", **({"proxy-url": address} if by == "kubeconfig" else {})}
    mine = caller(server, tmp_path, {"token": HIDDEN}, **here)
    with Connection(mine) as api:
        assert api.get("/version") == {}
    (request,) = asked
    assert request.startswith(f"CONNECT {host}:{server.port} ")
    assert base64.b64encode(b"me:pass!").decode() in request
    assert HIDDEN not in request
    assert server.headers[0]["Authorization"] == f"Bearer {HIDDEN}"
    # What the environment says is this machine's; the file may be used on another.
    assert mine.cluster.proxy_url == (address if by == "kubeconfig" else None)


@pytest.mark.parametrize("exception", ["", "127.0.0.0/8"])
def test_a_proxy_of_the_environment_is_not_for_this_machine(
    server: Seen, proxy: tuple[int, list[str]], tmp_path: Path, exception: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy[0]}")
    monkeypatch.setenv("NO_PROXY", exception)
    with Connection(caller(server, tmp_path, {"token": HIDDEN})) as api:
        assert api.get("/version") == {}
    assert not proxy[1]


def test_keys_are_in_no_file_for_longer_than_a_moment(
    certified: Certified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = identities(certified, tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    modes = []
    load = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, file: str, *rest: Any, **more: Any) -> None:
        modes.append(stat.S_IMODE(os.stat(file).st_mode))
        load(self, file, *rest, **more)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    file = kubeconfig(
        tmp_path / "config", {"server": certified.url, "certificate-authority": str(certified.ca_file)}, ways["certificate-data"]
    )
    with Connection(read_caller(str(file), None)) as api:
        assert api.get(f"{GRANTS}/g")["metadata"]["name"] == "g"
    assert modes == [0o600]
    assert not list((tmp_path / "tmp").iterdir())
