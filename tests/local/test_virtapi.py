"""KubeVirt's own virt-api and virtctl on a local control plane: who refuses what, and how that is told apart."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from localcluster import LocalCluster, VirtApi, kubevirt, wait_until
from localcluster.virtapi import GROUP, VERSIONS

NAMESPACE = "myvms"
RBAC = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
MACHINES = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachines"
SUBRESOURCES = f"/apis/{GROUP}/v1/namespaces/{NAMESPACE}"
SERVICE_ACCOUNTS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
CREDENTIALS = "the server has asked for the client to provide credentials"

names = (f"caller-{number}" for number in count())


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    with LocalCluster(audit=True) as running:
        kubevirt.install(running)
        kubevirt.create_virtual_machines(running)
        yield running


@pytest.fixture(scope="module")
def virt(local: LocalCluster) -> Iterator[VirtApi]:
    with VirtApi(local) as running:
        yield running


def caller(local: LocalCluster, role_ref: dict[str, str] | None, may: tuple[str, str] | None) -> str:
    """Create a ServiceAccount with a role in its namespace; return its name once it may do `may`: verb and resource."""
    name = next(names)
    assert local.request("POST", SERVICE_ACCOUNTS, {"metadata": {"name": name}})[0] == 201
    if role_ref:
        subject = {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}
        role_ref = {"apiGroup": "rbac.authorization.k8s.io"} | role_ref
        binding = {"metadata": {"name": name}, "roleRef": role_ref, "subjects": [subject]}
        assert local.request("POST", f"{RBAC}/rolebindings", binding)[0] == 201
    if may:
        verb, resource = may
        wait_until(lambda: is_allowed(local, name, verb, resource), f"{name} to be allowed to {verb} {resource}")
    return name


def caller_with(local: LocalCluster, verb: str, *resources: str) -> str:
    """Create a ServiceAccount with a Role of one rule for these subresources."""
    name = f"role-of-{next(names)}"
    rules = [{"apiGroups": [GROUP], "resources": list(resources), "verbs": [verb]}]
    assert local.request("POST", f"{RBAC}/roles", {"metadata": {"name": name}, "rules": rules})[0] == 201
    return caller(local, {"kind": "Role", "name": name}, (verb, resources[0]))


def is_allowed(local: LocalCluster, name: str, verb: str, resource: str) -> bool:
    main, _, sub = resource.partition("/")
    attributes = {"namespace": NAMESPACE, "verb": verb, "group": GROUP, "resource": main, "subresource": sub, "name": "x"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user(name), "resourceAttributes": attributes},
    }
    answer = local.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)[1]
    return bool(answer["status"]["allowed"])


def user(name: str) -> str:
    return f"system:serviceaccount:{NAMESPACE}:{name}"


def call(local: LocalCluster, name: str, method: str, path: str) -> tuple[int, Any]:
    """Send one request as a ServiceAccount; what virt-api answers is seldom JSON, and it refuses to be asked for it."""
    token = local.service_account_token(NAMESPACE, name)
    body: dict[str, str] | None = {} if method == "PUT" else None
    return local.request(method, f"{SUBRESOURCES}/{path}", body, token=token, headers={"Accept": "*/*"})


def stopped_machine(local: LocalCluster) -> str:
    name = f"machine-of-{next(names)}"
    machine = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}},
    }
    assert local.request("POST", MACHINES, machine)[0] == 201
    return name


def run_strategy(local: LocalCluster, machine: str) -> str:
    return str(local.request("GET", f"{MACHINES}/{machine}")[1]["spec"]["runStrategy"])


@pytest.mark.usefixtures("virt")
class TestTwoAuthorizers:
    def test_an_admin_of_the_namespace_starts_a_machine(self, local: LocalCluster) -> None:
        machine = stopped_machine(local)
        role = {"kind": "ClusterRole", "name": "kubevirt.io:admin"}
        admin = caller(local, role, ("update", "virtualmachines/start"))
        assert call(local, admin, "PUT", f"virtualmachines/{machine}/start")[0] == 202
        assert run_strategy(local, machine) == "Always"

    def test_who_has_nothing_is_refused_before_virt_api(self, local: LocalCluster) -> None:
        machine = stopped_machine(local)
        nobody = caller(local, None, None)
        status, answer = call(local, nobody, "PUT", f"virtualmachines/{machine}/start")
        assert status == 403
        assert answer["message"].startswith(f'virtualmachines.{GROUP} "{machine}" is forbidden: User "{user(nobody)}"')
        assert run_strategy(local, machine) == "Halted"

    @pytest.mark.parametrize(
        ("resources", "status", "said"),
        [
            pytest.param(["vnc"], 401, "", id="kube-apiserver's spelling only: virt-api refuses"),
            pytest.param(["vnc/screenshot"], 403, "is forbidden", id="virt-api's spelling only: kube-apiserver refuses"),
            pytest.param(["vnc", "vnc/screenshot"], 500, "not found", id="both: only the machine is missing"),
        ],
    )
    def test_a_nested_subresource_is_named_twice(self, local: LocalCluster, resources: list[str], status: int, said: str) -> None:
        name = caller_with(local, "get", *(f"virtualmachineinstances/{resource}" for resource in resources))
        answered, answer = call(local, name, "GET", "virtualmachineinstances/db-2/vnc/screenshot")
        assert answered == status
        assert said in str(answer)
        assert bool(said) == bool(answer)

    def test_virt_api_believes_nobody_but_the_front_proxy(self, virt: VirtApi) -> None:
        forged = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters", "Accept": "*/*"}
        status, answer = virt.access.request("PUT", f"{SUBRESOURCES}/virtualmachines/db-1/stop", {}, headers=forged)
        assert (status, answer) == (401, "request is not authenticated")


class TestVirtctl:
    def test_with_the_right_it_starts_a_machine(self, local: LocalCluster, virt: VirtApi, tmp_path: Path) -> None:
        machine = stopped_machine(local)
        name = caller_with(local, "update", "virtualmachines/start")
        since = local.audit_position()
        done = virt.virtctl("start", machine, kubeconfig=self.kubeconfig(local, name, tmp_path))
        assert (done.returncode, done.stdout, done.stderr) == (0, f"VM {machine} was scheduled to start\n", "")
        assert run_strategy(local, machine) == "Always"
        assert virt.refusals(user(name), since=since) == []

    def test_without_the_right_it_says_so(self, local: LocalCluster, virt: VirtApi, tmp_path: Path) -> None:
        machine = stopped_machine(local)
        name = caller_with(local, "update", "virtualmachines/stop")
        since = local.audit_position()
        done = virt.virtctl("start", machine, kubeconfig=self.kubeconfig(local, name, tmp_path))
        assert done.returncode == 1
        assert f'User "{user(name)}" cannot update resource "virtualmachines/start"' in done.stderr
        assert run_strategy(local, machine) == "Halted"
        assert virt.refusals(user(name), since=since) == [f"403 update {SUBRESOURCES}/virtualmachines/{machine}/start"]

    def test_virt_apis_refusal_looks_like_a_bad_credential(self, local: LocalCluster, virt: VirtApi, tmp_path: Path) -> None:
        name = caller_with(local, "get", "virtualmachineinstances/vnc")
        since = local.audit_position()
        kubeconfig = self.kubeconfig(local, name, tmp_path)
        done = virt.virtctl("vnc", "screenshot", "db-2", "-f", str(tmp_path / "shot.png"), kubeconfig=kubeconfig)
        assert done.returncode == 1
        assert CREDENTIALS in done.stderr
        uri = f"{SUBRESOURCES}/virtualmachineinstances/db-2/vnc/screenshot?moveCursor=false"
        assert virt.refusals(user(name), since=since) == [f"401 get {uri}"]

    @pytest.mark.parametrize(
        ("command", "subresource"),
        [
            ("console db-2 --timeout=1", "console"),
            ("vnc db-2 --proxy-only", "vnc"),
            ("usbredir db-2 --no-launch", "usbredir"),
            ("port-forward vmi/db-2 --stdio 22", "portforward"),
        ],
    )
    def test_a_connection_ends_at_once_where_there_is_no_instance(
        self, local: LocalCluster, virt: VirtApi, tmp_path: Path, command: str, subresource: str
    ) -> None:
        admitted = caller_with(local, "get", f"virtualmachineinstances/{subresource}")
        refused = caller(local, None, None)
        said = {
            name: virt.virtctl(*command.split(), kubeconfig=self.kubeconfig(local, name, tmp_path), timeout=10).stderr
            for name in (admitted, refused)
        }
        assert 'virtualmachineinstance.kubevirt.io "db-2" not found' in said[admitted]
        assert f'cannot get resource "virtualmachineinstances/{subresource}"' in said[refused]

    @staticmethod
    def kubeconfig(local: LocalCluster, name: str, directory: Path) -> Path:
        token = local.service_account_token(NAMESPACE, name)
        return local.kubeconfig(directory / f"{name}.kubeconfig", token=token, namespace=NAMESPACE)


class TestEnd:
    def test_it_leaves_the_cluster_as_it_was(self) -> None:
        with LocalCluster() as short:
            kubevirt.install(short)
            with VirtApi(short) as virt:
                pid = virt.pid
                assert short.request("GET", f"/apis/{GROUP}/v1/version")[0] == 200
            assert not Path(f"/proc/{pid}").exists()
            for version in VERSIONS:
                path = f"/apis/apiregistration.k8s.io/v1/apiservices/{version}.{GROUP}"
                assert short.request("GET", path)[0] == 404
            short.request("POST", "/api/v1/namespaces", {"metadata": {"name": "brief"}})
            short.request("DELETE", "/api/v1/namespaces/brief")
            wait_until(lambda: short.request("GET", "/api/v1/namespaces/brief")[0] == 404, "the namespace to be gone")
