"""`python -m localcluster`: the control plane for a person, in the foreground."""

import argparse
import signal
import sys
import time
from pathlib import Path

from localcluster import kubevirt, product
from localcluster.binaries import find_or_build, find_or_build_virt
from localcluster.errors import ClusterError, KubectlError
from localcluster.local import LocalCluster


def main() -> int:
    """Run the chosen verb; 0 when it went well or was stopped by Ctrl-C, 1 with a message when it failed."""
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.verb == "build":
            print(find_or_build().kube_apiserver.parent)
            if arguments.virt:
                print(find_or_build_virt().virt_api.parent)
        else:
            up(arguments.kubeconfig)
    except KeyboardInterrupt:
        print("stopped", flush=True)
    except (ClusterError, KubectlError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def up(kubeconfig: Path) -> None:
    """Run a control plane with KubeVirt's kinds, and what this checkout deploys, until interrupted."""
    operator = kubeconfig.with_name("operator.kubeconfig")
    binaries = find_or_build()
    started = time.monotonic()
    try:
        with LocalCluster(binaries=binaries) as cluster:
            print(f"A control plane is ready at {cluster.url} after {time.monotonic() - started:.1f} s.", flush=True)
            _fill(cluster, kubeconfig, operator)
            print("\nNow, in another terminal:")
            print(f"  export KUBECONFIG={_shown(kubeconfig)}")
            print("  .venv/bin/kubectl get vms -A")
            print(f"  KUBECONFIG={_shown(operator)} .venv/bin/vmaccess-operator")
            print("Ctrl-C stops everything and leaves nothing behind.", flush=True)
            while True:
                cluster.check()
                time.sleep(0.5)
    finally:
        for file in (kubeconfig, operator):
            file.unlink(missing_ok=True)


def _fill(cluster: LocalCluster, kubeconfig: Path, operator: Path) -> None:
    kubevirt.install(cluster)
    kubevirt.create_virtual_machines(cluster)
    print("KubeVirt's kinds and default roles are installed, with VirtualMachines in default, myvms and othervms.", flush=True)
    product.install(cluster)
    print("VMAccessGrants are served, and the operator's rights are there; no node is, so nothing runs its Deployment.")
    cluster.kubeconfig(kubeconfig, user="admin")
    product.operator_kubeconfig(cluster, operator)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localcluster",
        description="A real Kubernetes control plane on this machine: etcd, kube-apiserver and kube-controller-manager, "
        "with no nodes. Needs neither Docker nor root.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    build = verbs.add_parser(
        "build",
        help="find or build the binaries and print their folder",
        description="Finds the control plane's binaries in $KUBEBUILDER_ASSETS or in the cache ($VMACCESS_CACHE, else "
        "$XDG_CACHE_HOME/vmaccess, else ~/.cache/vmaccess), or builds them from their Go modules into the cache, "
        "and prints their folder. The first build takes up to 10 minutes on 2 cores.",
    )
    build.add_argument(
        "--virt", action="store_true", help="the same for KubeVirt's virt-api and virtctl, which takes up to 6 minutes more"
    )
    run = verbs.add_parser(
        "up",
        help="run a control plane with KubeVirt's kinds until Ctrl-C",
        description="Runs a control plane with KubeVirt's CRDs, default roles and a few VirtualMachines, "
        "and with this checkout's CRD and rights, until Ctrl-C.",
    )
    run.add_argument(
        "--kubeconfig",
        type=Path,
        default=product.ROOT / ".local" / "admin.kubeconfig",
        help="where to write the admin's kubeconfig; the operator's is written beside it (default: .local/admin.kubeconfig)",
    )
    return parser


def _shown(path: Path) -> Path:
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
