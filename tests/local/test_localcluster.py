"""The control plane everybody else's tests stand on: real, verified, apart from its neighbours, and gone afterwards."""

import fcntl
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import (
    ANONYMOUS,
    Access,
    Binaries,
    BinariesError,
    ClusterError,
    ComponentError,
    ExistingCluster,
    KubectlError,
    LocalCluster,
    cluster,
    find_or_build,
    find_or_build_virt,
    kubevirt,
    wait_until,
)
from localcluster import binaries as binaries_module
from localcluster.access import read_kubeconfig, write_kubeconfig
from localcluster.gobuild import CONTROL_PLANE, VIRT, Recipe

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
OWNER_CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: owners.test.vmaccess.dev}
spec:
  group: test.vmaccess.dev
  scope: Cluster
  names: {kind: Owner, plural: owners, singular: owner, listKind: OwnerList}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
"""
OWNERS = "/apis/test.vmaccess.dev/v1/owners"


@pytest.fixture(scope="module")
def programs() -> Binaries:
    return find_or_build()


@pytest.fixture(scope="module")
def local(programs: Binaries) -> Iterator[LocalCluster]:
    with LocalCluster(audit=True, users={"alice": ["team-a", "team-b"]}, binaries=programs) as running:
        yield running


@pytest.fixture(scope="module")
def with_kubevirt(local: LocalCluster) -> LocalCluster:
    kubevirt.install(local)
    kubevirt.create_virtual_machines(local)
    return local


def is_gone(pid: int) -> bool:
    try:
        # A killed process whose new parent has not collected it yet still has a number, and nothing else.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class TestAccess:
    def test_two_clusters_run_side_by_side(self, local: LocalCluster, programs: Binaries) -> None:
        with LocalCluster(binaries=programs) as other:
            assert other.url != local.url
            assert other.request("POST", CONFIG_MAPS, {"metadata": {"name": "only-here"}})[0] == 201
            assert local.request("GET", f"{CONFIG_MAPS}/only-here")[0] == 404
            assert local.request("GET", "/api", token=other.admin_token)[0] == 401

    def test_another_clusters_certificate_is_refused(self, local: LocalCluster, programs: Binaries) -> None:
        with LocalCluster(binaries=programs) as other, pytest.raises(ssl.SSLCertVerificationError):
            Access(local.url, other.ca_file, local.admin_token).request("GET", "/readyz")

    @pytest.mark.parametrize(
        ("token", "status"),
        [
            pytest.param(None, 200, id="the admin"),
            pytest.param(ANONYMOUS, 403, id="nobody"),
            pytest.param("wrong", 401, id="an unknown token"),
        ],
    )
    def test_only_who_may_is_let_in(self, local: LocalCluster, token: str | None, status: int) -> None:
        assert local.request("GET", "/api/v1/namespaces", token=token)[0] == status

    def test_a_user_has_its_groups(self, local: LocalCluster) -> None:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        _, answer = local.request("POST", path, review, token=local.user_token("alice"))
        assert answer["status"]["userInfo"]["username"] == "alice"
        assert set(answer["status"]["userInfo"]["groups"]) == {"team-a", "team-b", "system:authenticated"}

    def test_an_unknown_user_has_no_token(self, local: LocalCluster) -> None:
        with pytest.raises(ClusterError, match="not started with a user 'bob'"):
            local.user_token("bob")

    def test_a_kubeconfig_is_complete_and_private(self, local: LocalCluster, tmp_path: Path) -> None:
        token = local.service_account_token("default", "default")
        path = local.kubeconfig(tmp_path / "new" / "kubeconfig", token=token, namespace="kube-public", user="runner")
        assert path.stat().st_mode & 0o777 == 0o600
        asked = local.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", kubeconfig=path)
        assert asked.stdout == "system:serviceaccount:default:default"
        assert yaml.safe_load(path.read_text())["contexts"][0]["context"]["namespace"] == "kube-public"

    def test_a_failed_kubectl_says_why(self, local: LocalCluster) -> None:
        with pytest.raises(KubectlError, match="nothing-like-this"):
            local.kubectl("get", "nothing-like-this")


class TestControllers:
    def test_a_new_kind_is_garbage_collected_at_once(self, local: LocalCluster) -> None:
        local.apply(OWNER_CRD)
        local.wait_for_garbage_collector("test.vmaccess.dev", "owners")
        for policy in ("Foreground", "Background"):
            owner = self.create_owner(local, f"owner-{policy.lower()}")
            started = time.monotonic()
            local.request("DELETE", f"{OWNERS}/{owner['metadata']['name']}", {"propagationPolicy": policy})
            self.wait_until_gone(local, owner["metadata"]["name"])
            assert time.monotonic() - started < 5

    def test_nothing_is_collected_while_the_controllers_are_down(self, local: LocalCluster) -> None:
        local.apply(OWNER_CRD)
        local.stop_controller_manager()
        owner = self.create_owner(local, "owner-alone")
        local.request("DELETE", f"{OWNERS}/owner-alone")
        time.sleep(1)
        assert local.request("GET", f"{CONFIG_MAPS}/owner-alone")[0] == 200
        local.start_controller_manager()
        self.wait_until_gone(local, owner["metadata"]["name"])

    def test_blocking_an_owner_needs_the_right_to_its_finalizers(self, local: LocalCluster) -> None:
        local.apply(OWNER_CRD)
        local.kubectl("create", "clusterrole", "editor", "--verb=create", "--resource=configmaps")
        local.kubectl("create", "clusterrolebinding", "editor", "--clusterrole=editor", "--user=editor")
        owner = self.create_owner(local, "owner-blocked")
        status, answer = local.request("POST", CONFIG_MAPS, config_map("blocked", owner), headers={"Impersonate-User": "editor"})
        assert status == 403
        assert "blockOwnerDeletion" in answer["message"]

    def test_the_api_server_comes_back_as_it_was(self, local: LocalCluster) -> None:
        token = local.service_account_token("default", "default")
        local.stop_apiserver()
        with pytest.raises(ConnectionRefusedError):
            local.request("GET", "/readyz")
        local.start_apiserver()
        assert local.request("GET", "/api", token=token)[0] == 200

    @staticmethod
    def create_owner(local: LocalCluster, name: str) -> dict[str, Any]:
        body = {"apiVersion": "test.vmaccess.dev/v1", "kind": "Owner", "metadata": {"name": name}}
        status, owner = local.request("POST", OWNERS, body)
        assert status == 201, owner
        status, child = local.request("POST", CONFIG_MAPS, config_map(name, owner))
        assert status == 201, child
        return dict(owner)

    @staticmethod
    def wait_until_gone(local: LocalCluster, name: str) -> None:
        for path in (f"{CONFIG_MAPS}/{name}", f"{OWNERS}/{name}"):
            wait_until(lambda path=path: local.request("GET", path)[0] == 404, f"{path} to be gone")  # type: ignore[misc]


def config_map(name: str, owner: dict[str, Any]) -> dict[str, Any]:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"metadata": {"name": name, "ownerReferences": [reference]}}


class TestKubeVirt:
    def test_its_kinds_and_machines_are_there(self, with_kubevirt: LocalCluster) -> None:
        local = with_kubevirt
        assert kubevirt.is_installed(local)
        names = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}"
        machines = local.kubectl("get", "vms", "-A", "-o", names).stdout.split()
        assert machines == ["default/web-1", "myvms/db-1", "myvms/db-2", "othervms/secret-1"]
        for group, version, kinds in (
            ("kubevirt.io", "v1", 6),
            ("kubevirt.io", "v1alpha3", 6),
            ("plugin.kubevirt.io", "v1alpha1", 1),
        ):
            resources = local.request("GET", f"/apis/{group}/{version}")[1]["resources"]
            assert len([resource for resource in resources if "/" not in resource["name"]]) == kinds

    @pytest.mark.parametrize(
        ("role", "verb", "resource", "allowed"),
        [
            ("admin", "delete", "virtualmachines.kubevirt.io", "yes"),
            ("edit", "create", "virtualmachinesnapshots.snapshot.kubevirt.io", "yes"),
            ("view", "list", "virtualmachines.kubevirt.io", "yes"),
            ("view", "delete", "virtualmachines.kubevirt.io", "no"),
        ],
    )
    def test_its_roles_are_aggregated(
        self, with_kubevirt: LocalCluster, role: str, verb: str, resource: str, allowed: str
    ) -> None:
        local = with_kubevirt
        local.request("POST", "/api/v1/namespaces", {"metadata": {"name": "vms"}})
        local.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user=a-{role}", "-n", "vms", check=False)
        wait_until(
            lambda: (
                local.kubectl("auth", "can-i", verb, resource, "-n", "vms", f"--as=a-{role}", check=False).stdout.strip()
                == allowed
            ),
            f"{role} to answer {allowed}",
            timeout=10,
        )


class TestAuditLog:
    def test_a_request_is_found_once_it_is_answered(self, local: LocalCluster) -> None:
        token = local.user_token("alice")
        since = local.audit_position()
        local.request("GET", "/api/v1/namespaces/default/secrets", token=token)
        local.request("POST", CONFIG_MAPS, {"metadata": {"name": "x"}}, token=token)
        seen = [(event["verb"], event["responseStatus"]["code"]) for event in local.audit_events(user="alice", since=since)]
        assert seen == [("list", 403), ("create", 403)]

    def test_the_controllers_reading_is_left_out(self, local: LocalCluster) -> None:
        events = local.audit_events(user="system:kube-controller-manager")
        assert not {event["verb"] for event in events} & {"get", "list", "watch"}

    def test_a_cluster_without_one_says_so(self, local: LocalCluster) -> None:
        with ExistingCluster(local.admin_kubeconfig) as without, pytest.raises(ClusterError, match="audit=True"):
            without.audit_events()


class TestEnd:
    def test_nothing_is_left(self, programs: Binaries) -> None:
        with LocalCluster(binaries=programs) as short:
            pids, directory = short.pids, short.directory
            assert set(pids) == {"etcd", "kube-apiserver", "kube-controller-manager", "watchdog"}
        assert all(is_gone(pid) for pid in pids.values())
        assert not directory.exists()

    @pytest.mark.parametrize("killed_by", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
    def test_nothing_outlives_the_process_that_started_it(self, programs: Binaries, killed_by: signal.Signals) -> None:
        script = """
import signal, time
from localcluster import LocalCluster
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
with LocalCluster() as local:
    print(local.directory, *local.pids.values(), flush=True)
    time.sleep(600)
"""
        environment = os.environ | {"KUBEBUILDER_ASSETS": str(programs.etcd.parent), "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as parent:
            assert parent.stdout
            directory, *pids = parent.stdout.readline().split()
            assert len(pids) == 4
            parent.send_signal(killed_by)
        wait_until(lambda: all(is_gone(int(pid)) for pid in pids), "all to be gone", timeout=10)
        wait_until(lambda: not Path(directory).exists(), f"{directory} to be gone", timeout=10)

    def test_a_failed_start_shows_the_log_and_leaves_nothing(
        self, programs: Binaries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        broken = tmp_path / "kube-apiserver"
        broken.write_text("#!/bin/sh\necho some reason\nexit 3\n")
        broken.chmod(0o755)
        with pytest.raises(ComponentError, match=r"kube-apiserver ended with code 3.*\nsome reason"):
            LocalCluster(binaries=replace(programs, kube_apiserver=broken))
        assert not list((tmp_path / "temporary").iterdir())
        assert not [pid for pid in Path("/proc").glob("[0-9]*/cwd") if str(tmp_path) in os.path.realpath(pid)]

    def test_a_program_that_is_none_is_named(self, programs: Binaries, tmp_path: Path) -> None:
        with pytest.raises(ComponentError, match="etcd cannot be started"):
            LocalCluster(binaries=replace(programs, etcd=tmp_path / "missing"))

    def test_a_component_that_dies_later_is_noticed(self, programs: Binaries) -> None:
        with LocalCluster(binaries=programs) as short:
            os.kill(short.pids["etcd"], signal.SIGKILL)
            with pytest.raises(ComponentError, match="etcd ended with signal SIGKILL"):
                wait_until(short.check, "the end of etcd", timeout=5)


class TestExistingCluster:
    def test_it_answers_like_a_local_one(self, local: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VMACCESS_TEST_KUBECONFIG", str(local.admin_kubeconfig))
        with cluster() as existing:
            assert isinstance(existing, ExistingCluster)
            assert existing.url == local.url
            assert existing.request("GET", "/api/v1/namespaces")[0] == 200
            assert existing.kubectl("get", "namespace", "default", "-o", "name").stdout == "namespace/default\n"
            with pytest.raises(ClusterError, match="cannot stop the API server"):
                existing.stop_apiserver()
            with pytest.raises(ClusterError, match="impersonate"):
                existing.user_token("alice")
            directory = existing.directory
        assert not directory.exists()
        assert local.request("GET", "/readyz")[0] == 200

    @pytest.mark.parametrize(
        ("section", "change", "message"),
        [
            pytest.param("clusters", {"insecure-skip-tls-verify": True}, "never skipped", id="TLS not verified"),
            pytest.param("users", {"token": ""}, "token or a client certificate", id="no credentials"),
        ],
    )
    def test_what_cannot_be_used_is_refused(self, tmp_path: Path, section: str, change: dict[str, object], message: str) -> None:
        (tmp_path / "ca.crt").write_text("a CA")
        path = write_kubeconfig(tmp_path / "kubeconfig", Access("https://localhost", tmp_path / "ca.crt", "token"))
        config = yaml.safe_load(path.read_text())
        config[section][0][section.removesuffix("s")].update(change)
        path.write_text(yaml.safe_dump(config))
        with pytest.raises(ClusterError, match=message):
            read_kubeconfig(path, tmp_path)

    def test_a_client_certificate_survives_the_round_trip(self, tmp_path: Path) -> None:
        files = [tmp_path / name for name in ("ca.crt", "client.crt", "client.key")]
        for file in files:
            file.write_text(file.name)
        ca_file, certificate, key = files
        access = Access("https://localhost:1", ca_file, certificate=(certificate, key))
        (tmp_path / "read").mkdir()
        read = read_kubeconfig(write_kubeconfig(tmp_path / "kubeconfig", access), tmp_path / "read")
        assert read.certificate
        assert [file.read_text() for file in (read.ca_file, *read.certificate)] == ["ca.crt", "client.crt", "client.key"]


class TestBinaries:
    """Pure: the programs are empty files."""

    @staticmethod
    def put(directory: Path, names: tuple[str, ...] = binaries_module.NAMES) -> Path:
        directory.mkdir(parents=True)
        for name in names:
            (directory / name).touch(mode=0o755)
        return directory

    def test_ready_made_ones_come_first(self, tmp_path: Path) -> None:
        environment = {"KUBEBUILDER_ASSETS": str(self.put(tmp_path / "assets")), "VMACCESS_CACHE": str(tmp_path / "cache")}
        self.put(binaries_module.cached_build(CONTROL_PLANE, environment))
        found = binaries_module.find(environment)
        assert found
        assert found.etcd == tmp_path / "assets" / "etcd"

    def test_incomplete_ones_are_not_used_and_named(self, tmp_path: Path) -> None:
        assets = self.put(tmp_path / "assets", ("etcd", "kube-apiserver"))
        environment = {"KUBEBUILDER_ASSETS": str(assets), "VMACCESS_CACHE": str(tmp_path / "cache")}
        cached = self.put(binaries_module.cached_build(CONTROL_PLANE, environment))
        said: list[str] = []
        found = binaries_module.find(environment, said.append)
        assert found
        assert found.etcd == cached / "etcd"
        assert len(said) == 1
        assert "kube-controller-manager not there" in said[0]

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({"VMACCESS_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own"),
            ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/vmaccess"),
            ({}, str(Path.home() / ".cache" / "vmaccess")),
        ],
    )
    def test_where_the_cache_is(self, environment: dict[str, str], expected: str) -> None:
        assert str(binaries_module.cache_directory(environment)) == expected

    def test_other_versions_have_another_place(self, tmp_path: Path) -> None:
        environment = {"VMACCESS_CACHE": str(tmp_path)}
        module = tmp_path / "module"
        module.mkdir()
        places = set()
        for version, sums in (("v1.37.2", "a"), ("v1.37.3", "a"), ("v1.37.3", "b")):
            (module / "go.mod").write_text(f"go 1.26.0\n\tk8s.io/kubernetes {version} // indirect\n")
            (module / "go.sum").write_text(sums)
            places.add(binaries_module.cached_build(replace(CONTROL_PLANE, module=module), environment))
        assert len(places) == 3

    def test_it_is_built_once_and_moved_into_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {"VMACCESS_CACHE": str(tmp_path)}
        builds = []

        def build(_: Recipe, target: Path, __: object) -> None:
            builds.append(self.put(target, ("server", "kube-apiserver", "kube-controller-manager")))

        monkeypatch.setattr("localcluster.gobuild.build", build)
        first = find_or_build(environment)
        assert first == find_or_build(environment)
        assert len(builds) == 1
        assert first.etcd == binaries_module.cached_build(CONTROL_PLANE, environment) / "etcd"
        assert not list((tmp_path / "controlplane").glob("build-*"))

    def test_kubevirts_programs_are_built_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        environment = {"VMACCESS_CACHE": str(tmp_path)}
        builds = []

        def build(recipe: Recipe, target: Path, _: object) -> None:
            builds.append(recipe)
            self.put(target, binaries_module.VIRT_NAMES)

        monkeypatch.setattr("localcluster.gobuild.build", build)
        found = find_or_build_virt(environment)
        assert found == find_or_build_virt(environment)
        assert builds == [VIRT]
        assert found.virtctl == binaries_module.cached_build(VIRT, environment) / "virtctl"
        assert not (tmp_path / "controlplane").exists()

    def test_a_second_process_waits_for_the_first_ones_build(self, tmp_path: Path) -> None:
        environment = {"VMACCESS_CACHE": str(tmp_path)}
        target = binaries_module.cached_build(CONTROL_PLANE, environment)
        target.parent.mkdir(parents=True)
        said: list[str] = []
        with target.with_suffix(".lock").open("w") as lock, ThreadPoolExecutor() as second:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = second.submit(find_or_build, environment, said.append)
            wait_until(lambda: said, "the second process to say that it waits", timeout=5)
            self.put(target)
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert found.result(timeout=5).etcd == target / "etcd"
        assert said == ["another process is building the control plane: waiting for it"]

    def test_a_failed_build_shows_what_go_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        go = tmp_path / "go"
        go.write_text(
            "#!/bin/sh\n[ $1 = env ] && echo go1.99.1 && exit\necho some/package >&2\necho 'x.go:1: no good' >&2\nexit 1\n"
        )
        go.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(BinariesError, match=r"failed:\nx\.go:1: no good$"):
            find_or_build({"VMACCESS_CACHE": str(tmp_path / "cache")}, lambda _: None)
        assert not list((tmp_path / "cache" / "controlplane").glob("build-*"))

    def test_without_go_all_ways_out_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("sys.prefix", sys.base_prefix)
        with pytest.raises(BinariesError, match=r"(?s)PATH.*requirements/go\.txt.*KUBEBUILDER_ASSETS"):
            find_or_build({"VMACCESS_CACHE": str(tmp_path)}, lambda _: None)
