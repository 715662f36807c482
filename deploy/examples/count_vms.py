"""Counts virtual machines from inside a pod: an example of a client that has no kubeconfig, only what is mounted into it.

A pod that runs as a ServiceAccount finds a token, the cluster's CA and its own namespace in a folder, and the API server's
address in two variables. Give the pod the grant's ServiceAccount (`serviceAccountName`, with `automountServiceAccountToken:
true` on the pod or in the grant), and this is all the code it needs. Exits 1 where a namespace may not be looked at.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kubernetes import client
from kubernetes.config.incluster_config import InClusterConfigLoader

MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


def main() -> int:
    """Print one line for each namespace: how many, or why not."""
    parser = argparse.ArgumentParser(description="Counts the VirtualMachines of namespaces, as the ServiceAccount of the pod.")
    parser.add_argument("namespaces", nargs="*", metavar="NAMESPACE", help="namespaces to look at (default: the pod's own)")
    parser.add_argument("--mount", type=Path, default=Path(MOUNT), help="folder of the credentials (default: %(default)s)")
    options = parser.parse_args()

    config = client.Configuration()
    InClusterConfigLoader(str(options.mount / "token"), str(options.mount / "ca.crt")).load_and_set(config)
    refused = False
    with client.ApiClient(config) as connection:
        api = client.CustomObjectsApi(connection)
        for namespace in options.namespaces or [(options.mount / "namespace").read_text().strip()]:
            try:
                machines = api.list_namespaced_custom_object("kubevirt.io", "v1", namespace, "virtualmachines")
            except client.ApiException as error:
                refused = True
                print(f"{namespace}: {error.status} {error.reason}")
            else:
                print(f"{namespace}: {len(machines['items'])}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
