"""The first story, played on a control plane of its own: access appears, is refused elsewhere, and vanishes.

`make demo` runs it. Every claim that it prints is checked with a real request; the first one that does not hold ends the demo
with what was expected and a non-zero code.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import yaml

from localcluster import Cluster, ClusterError, KubectlError, LocalCluster, find_or_build, kubevirt, product, wait_until

GRANT = Path(__file__).with_name("runner.yaml")
KUBECONFIG = "mykubevirtrunner.kubeconfig"
RUNNER = "system:serviceaccount:default:mykubevirtrunner"
OPERATOR = f"system:serviceaccount:{product.NAMESPACE}:{product.SERVICE_ACCOUNT}"

MACHINES = {"default": ["web-1"], "myvms": ["db-1", "db-2"], "othervms": ["secret-1"]}
NAMESPACES = (*MACHINES, "kube-system")
RIGHTS = {
    "list virtual machines": ("list", "kubevirt.io", "virtualmachines", ""),
    "start one": ("update", "subresources.kubevirt.io", "virtualmachines", "start"),
    "delete one": ("delete", "kubevirt.io", "virtualmachines", ""),
    "open its console": ("get", "subresources.kubevirt.io", "virtualmachineinstances", "console"),
    "read Secrets": ("list", "", "secrets", ""),
}
GRANTED: Mapping[str, Collection[str]] = {"list virtual machines": ("default", "myvms")}
NOTHING: Mapping[str, Collection[str]] = {}
CHILDREN = {
    "ServiceAccount default/mykubevirtrunner",
    *(f"{kind} {namespace}/vmaccess:runner" for kind in ("Role", "RoleBinding") for namespace in ("default", "myvms")),
}
INVENTORY = (
    "/api/v1/serviceaccounts",
    "/api/v1/secrets",
    *(f"/apis/rbac.authorization.k8s.io/v1/{kind}" for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
)

PATIENCE = 20
"""Seconds that anything may take; most of it is the API server's, which remembers a token for 10."""


class NotHeld(Exception):
    """A claim of the demo that did not hold; the text says what was expected and what was found."""


class Narrator:
    """Prints the story in numbered steps; `check` is where a claim is held against what was found."""

    def __init__(self) -> None:
        self.steps = self.checks = 0
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def step(self, title: str) -> None:
        """Open the next step."""
        self.steps += 1
        self.tell(self._paint("1", f"\n{self.steps}. {title}"))

    def tell(self, text: str, indent: str = "") -> None:
        """Print a text, line by line, at once."""
        for line in text.splitlines() or [""]:
            print(f"{indent}{line}".rstrip(), flush=True)

    def check(self, claim: str, found: object, expected: object) -> None:
        """Print the claim where it holds, else raise NotHeld."""
        if found != expected:
            raise NotHeld(f"{claim}\n  expected: {expected}\n  found:    {found}")
        self.checks += 1
        self.tell(f"{self._paint('32', '[ok]')} {claim}", "   ")

    def failed(self, text: str) -> None:
        """Print what did not hold."""
        self.tell(self._paint("31", f"\nFAILED: {text}"))

    def _paint(self, colour: str, text: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colours else text


class Demo:
    """The story on one cluster. Commands are the ones a person would type, run as the admin or as the runner."""

    def __init__(self, cluster: Cluster, narrator: Narrator) -> None:
        self.cluster, self.existing = cluster, frozenset[str]()
        self.check, self.tell, self.step = narrator.check, narrator.tell, narrator.step

    def play(self) -> None:
        """Play all of it; raises NotHeld at the first claim that does not hold."""
        for scene in (self.before, self.grant, self.credentials, self.work, self.suspend, self.delete):
            scene()

    # --- the scenes ---

    def before(self) -> None:
        self.step("Before the grant: the runner does not exist, and nobody of that name may do anything")
        status, _ = self.cluster.request("GET", "/api/v1/namespaces/default/serviceaccounts/mykubevirtrunner")
        self.check("there is no ServiceAccount default/mykubevirtrunner", status, 404)
        self.refused(f"kubectl get vms -n myvms --as={RUNNER}")
        self.who_may_do_what(NOTHING)
        self.existing = self.inventory()

    def grant(self) -> None:
        self.step("The admin applies one grant: who and where; what is left at its default, to view")
        self.tell("".join(line for line in GRANT.read_text().splitlines(keepends=True) if not line.startswith("#")), "   | ")
        started = time.monotonic()
        self.run(f"kubectl apply -f {GRANT.name}")
        self.run(f"kubectl wait --for=condition=Ready --timeout={PATIENCE}s vmaccessgrant/runner")
        self.tell(f"   ({time.monotonic() - started:.1f} s, the start of kubectl twice included)")
        self.run("kubectl get vmaccessgrants")
        self.tell("\n   What exists now:")
        self.check("what exists is one ServiceAccount, and a Role and a RoleBinding in each namespace", self.children(), CHILDREN)
        written = {
            f"{event['verb']} {event['objectRef']['resource']}"
            for event in self.cluster.audit_events(user=OPERATOR)
            if event["verb"] in ("create", "update", "patch", "delete") and event["objectRef"]["resource"] != "events"
        }
        made = {f"create {kind}" for kind in ("serviceaccounts", "roles", "rolebindings")} | {"patch vmaccessgrants"}
        self.check("the operator made it, as its own ServiceAccount, and wrote nothing else", written, made)

    def credentials(self) -> None:
        self.step("A kubeconfig for the runner, without copying a token")
        told = self.run(f"kubectl vmaccess kubeconfig runner --output {KUBECONFIG}")
        path = self.cluster.directory / KUBECONFIG
        content = yaml.safe_load(path.read_text())
        token = content["users"][0]["user"]["token"]
        self.check("the file is readable by its owner alone", oct(stat.S_IMODE(path.stat().st_mode)), "0o600")
        self.check("the token is in the file and not in the output", told.count(token), 0)
        self.check("its context begins in the first granted namespace", content["contexts"][0]["context"]["namespace"], "default")

    def work(self) -> None:
        self.step("The runner at work, with plain kubectl and its real token")
        for namespace in ("myvms", "default"):
            listed = self.run(f"kubectl get vms -n {namespace}", as_runner=True)
            self.check(f"it sees the machines of {namespace}", first_column(listed), MACHINES[namespace])
        self.tell("\n   And what it is refused:")
        self.refused("kubectl get vms -n othervms", as_runner=True)
        self.refused("kubectl get vms --all-namespaces", as_runner=True)
        self.refused("kubectl delete vm db-1 -n myvms", as_runner=True)
        self.refused("kubectl get secrets -n myvms", as_runner=True)
        self.check("the machine it tried to delete is still there", self.machines("myvms"), MACHINES["myvms"])
        self.who_may_do_what(GRANTED)

    def suspend(self) -> None:
        self.step("Suspended: the same token, without any right; and given back")
        self.switch(suspended=True)
        self.refused("kubectl get vms -n myvms", as_runner=True)
        self.who_may_do_what(NOTHING)
        self.switch(suspended=False)
        self.check("the same token lists machines again", self.status_of_runner("myvms"), 200)

    def delete(self) -> None:
        self.step("The admin deletes the grant: everything of it goes")
        self.run("kubectl delete vmaccessgrant runner")
        gone = self.until(lambda: not self.rights(), "no right is left")
        self.check(f"no right is left {gone:.1f} s after kubectl has returned", self.rights(), dict(NOTHING))
        answer = self.status_of_runner("myvms")
        self.check("a request with the real token is refused", "refused" if answer in (401, 403) else answer, "refused")
        died = self.until(lambda: self.status_of_runner("myvms") == 401, "the API server to know that the token is dead")
        self.refused("kubectl get vms -n myvms", as_runner=True, because="Unauthorized")
        self.tell(f"   (the token itself is dead {died:.1f} s later: the API server remembers a good token for up to 10 s)")
        self.tell("\n   What deletion left:")
        self.until(lambda: self.inventory() <= self.existing, "nothing of the grant to be left")
        self.check("nothing that carries the grant's label", self.children(), set())
        same = sorted(self.inventory() ^ self.existing)
        self.check("identities, roles, bindings and Secrets of the whole cluster are those from before the grant", same, [])
        found = {namespace: self.machines(namespace) for namespace in MACHINES}
        self.check("and every virtual machine is as it was", found, MACHINES)

    # --- how claims are found out ---

    def run(self, command: str, *, as_runner: bool = False, expect: int = 0) -> str:
        """Run a command line, show it and its output, and hold it to its exit code."""
        done = self.command(command, as_runner=as_runner)
        prefix = f"KUBECONFIG={KUBECONFIG} " if as_runner else ""
        self.tell(f"   $ {prefix}{command}")
        self.tell(done.stdout, "     ")
        if done.returncode != expect:
            raise NotHeld(f"`{command}`\n  expected: exit code {expect}\n  found:    {done.returncode}: {done.stdout.strip()}")
        return done.stdout

    def refused(self, command: str, *, as_runner: bool = False, because: str = "Forbidden") -> None:
        """Run a command that the API server must refuse, with that word."""
        output = self.run(command, as_runner=as_runner, expect=1)
        word = re.search(r"\((\w+)\)|(Unauthorized)", output)
        self.check(f"refused: {because}", word and (word[1] or word[2]), because)

    def command(self, command: str, *, as_runner: bool = False) -> subprocess.CompletedProcess[str]:
        programs = Path(sys.executable).parent
        environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": KUBECONFIG if as_runner else str(self.cluster.admin_kubeconfig),
            "KUBECACHEDIR": str(self.cluster.directory / "kubectl-cache"),
            "KUBERC": "off",
        }
        return subprocess.run(
            shlex.split(command),
            env=environment,
            cwd=self.cluster.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )

    def may(self, right: str, namespace: str) -> bool:
        """Ask the API server whether the runner may."""
        verb, group, resource, subresource = RIGHTS[right]
        asked = {"namespace": namespace, "verb": verb, "group": group, "resource": resource, "subresource": subresource}
        groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
        review = {"spec": {"user": RUNNER, "groups": groups, "resourceAttributes": asked}}
        status, answer = self.cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        if status != 201:
            raise NotHeld(f"a SubjectAccessReview\n  expected: 201\n  found:    {status} {answer}")
        return bool(answer["status"]["allowed"])

    def rights(self) -> dict[str, tuple[str, ...]]:
        """What the runner may do, and where."""
        found = {right: tuple(namespace for namespace in NAMESPACES if self.may(right, namespace)) for right in RIGHTS}
        return {right: where for right, where in found.items() if where}

    def who_may_do_what(self, expected: Mapping[str, Collection[str]]) -> None:
        """Show who may do what where, as the API server decides it, and hold it to what is expected."""
        found = self.rights()
        self.tell(f"\n   What {RUNNER} may do:")
        self.tell(f"{'':24}" + "".join(f"{namespace:<14}" for namespace in NAMESPACES), "   ")
        for right in RIGHTS:
            cells = ("yes" if namespace in found.get(right, ()) else "-" for namespace in NAMESPACES)
            self.tell(f"{right:<24}" + "".join(f"{cell:<14}" for cell in cells), "   ")
        wanted = {right: tuple(where) for right, where in expected.items()}
        self.check("exactly as it should be" if expected else "nothing anywhere", found, wanted)

    def status_of_runner(self, namespace: str) -> int:
        """HTTP code of a real request with the runner's token."""
        kubeconfig = yaml.safe_load((self.cluster.directory / KUBECONFIG).read_text())
        path = f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines"
        return self.cluster.request("GET", path, token=kubeconfig["users"][0]["user"]["token"])[0]

    def children(self) -> set[str]:
        """Everything that carries the grant's label."""
        columns = "KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name"
        listing = f"kubectl get serviceaccounts,roles,rolebindings -A -l vmaccess.dev/grant=runner -o custom-columns={columns}"
        rows = [line.split() for line in self.run(listing).splitlines()[1:]]
        return {f"{kind} {namespace}/{name}" for kind, namespace, name in rows}

    def inventory(self) -> frozenset[str]:
        """Every identity, role, binding and Secret of the cluster, by its path in the API."""
        found = set()
        for collection in INVENTORY:
            status, answer = self.cluster.request("GET", collection)
            if status != 200:
                raise NotHeld(f"GET {collection}\n  expected: 200\n  found:    {status} {answer}")
            names = (item["metadata"] for item in answer["items"])
            found |= {f"{collection}: {name.get('namespace', '')}/{name['name']}" for name in names}
        return frozenset(found)

    def machines(self, namespace: str) -> list[str]:
        """Names of a namespace's virtual machines, as the admin sees them."""
        return self.command(f"kubectl get vms -n {namespace} -o custom-columns=N:.metadata.name --no-headers").stdout.split()

    def switch(self, *, suspended: bool) -> None:
        """Suspend the grant or take it up again, and wait until the operator has followed."""
        value = str(suspended).lower()
        self.run("kubectl patch vmaccessgrant runner --type=merge --patch " + shlex.quote(f'{{"spec": {{"suspend": {value}}}}}'))
        self.run(f"kubectl wait --for=condition=Active={not suspended!s} --timeout={PATIENCE}s vmaccessgrant/runner")

    def until(self, probe: Callable[[], bool], what: str) -> float:
        """Wait until `probe` holds; returns how many seconds it took."""
        started = time.monotonic()
        try:
            wait_until(probe, what, timeout=PATIENCE)
        except ClusterError as error:
            raise NotHeld(f"{what}\n  expected: within {PATIENCE} s\n  found:    {error}") from None
        return time.monotonic() - started


def first_column(table: str) -> list[str]:
    """The names in kubectl's table."""
    return [line.split()[0] for line in table.splitlines()[1:]]


def main() -> int:
    """Set the stage, play, and return the exit code."""
    out, started = Narrator(), time.monotonic()
    try:
        binaries = find_or_build()
        out.step("A control plane of its own, with KubeVirt's kinds and this operator")
        with LocalCluster(audit=True, binaries=binaries) as cluster:
            kubevirt.install(cluster)
            kubevirt.create_virtual_machines(cluster)
            product.install(cluster)
            shutil.copy(GRANT, cluster.directory)
            with product.Operator(cluster) as operator:
                version = cluster.request("GET", "/version")[1]["gitVersion"]
                out.tell(f"   Kubernetes {version} at {cluster.url}, all of it ready after {time.monotonic() - started:.1f} s")
                demo = Demo(cluster, out)
                demo.run("kubectl get vms -A")
                try:
                    demo.play()
                except NotHeld:
                    out.tell("\nThe end of the operator's log:\n" + "\n".join(operator.output().splitlines()[-10:]))
                    raise
    except (NotHeld, ClusterError, KubectlError) as error:
        out.failed(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    out.tell(f"\nAll {out.checks} claims held, in {time.monotonic() - started:.0f} s. Nothing is left running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
