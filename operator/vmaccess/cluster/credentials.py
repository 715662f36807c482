"""Where the API server is and who we are there: a kubeconfig, or the credentials mounted into the pod."""

from __future__ import annotations

import os

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from vmaccess.settings import IN_POD, Settings

__all__ = ["Configuration", "NoCredentials", "bearer", "load"]


class NoCredentials(Exception):
    """There is no way to the API server; the message says what was tried."""


async def load(settings: Settings) -> Configuration:
    """The client configuration: --kubeconfig, else KUBECONFIG, else the pod's own credentials, else ~/.kube/config."""
    loaded = Configuration()
    path = settings.kubeconfig or os.environ.get("KUBECONFIG")
    if path is not None and not _exists(path):
        raise NoCredentials(f"the kubeconfig {path} does not exist: correct --kubeconfig or KUBECONFIG")
    try:
        if path is None and IN_POD in os.environ:
            config.load_incluster_config(client_configuration=loaded)  # rereads the token every minute: it is rotated
        else:
            await config.load_kube_config(config_file=path, context=settings.context, client_configuration=loaded)
    except (config.ConfigException, OSError) as error:
        where = path or "the pod's mounted credentials or ~/.kube/config"
        raise NoCredentials(
            f"no usable credentials in {where}: {error}; give --kubeconfig or run in a pod with a ServiceAccount"
        ) from error
    if not loaded.verify_ssl:
        raise NoCredentials(
            f"the kubeconfig skips the verification of {loaded.host} (insecure-skip-tls-verify), so the token would be "
            f"sent to whoever answers: give certificate-authority-data instead"
        )
    if not loaded.host.startswith("https://") and (await bearer(loaded))[1]:
        raise NoCredentials(f"the operator's token would be sent to {loaded.host} unencrypted: give an address with https")
    return loaded


def _exists(kubeconfig: str) -> bool:
    return any(os.path.exists(part) for part in kubeconfig.split(os.pathsep))


async def bearer(configuration: Configuration) -> tuple[str, str]:
    """Scheme and token of the Authorization header as they are now; empty where a client certificate identifies us."""
    header: str = (await configuration.auth_settings()).get("BearerToken", {}).get("value") or ""
    scheme, _, token = header.partition(" ")
    return (scheme.capitalize(), token) if token else ("", "")
