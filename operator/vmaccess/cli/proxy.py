"""Through which proxy the API server is reached: that of the kubeconfig, else that of the environment, which is read as Go does.

Python reads the environment otherwise: lower case first, CIDRs not at all, `.example.com` as example.com too. No message quotes
the address of a proxy, as it may hold a password.
Sources: client-go tools/clientcmd/helpers.go, golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, urlsplit

import urllib3

from vmaccess.cli.failed import Failed
from vmaccess.policy.kubeconfig import ClusterEntry


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy by its URL, which holds no password, and the headers by which it knows the caller."""

    url: str
    headers: dict[str, str] = field(repr=False)


def proxy_for(cluster: ClusterEntry, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to a cluster, None where there is none; raises Failed where its address cannot be understood."""
    if cluster.proxy_url:
        return _read(cluster.proxy_url, f"the proxy-url of cluster {cluster.name!r} in your kubeconfig")
    address, exceptions = _first(environment, "HTTPS_PROXY", "https_proxy"), _first(environment, "NO_PROXY", "no_proxy")
    try:
        server = urlsplit(cluster.server)
        host, port = server.hostname or "", server.port or 443
    except ValueError as error:
        raise Failed(f"the server of cluster {cluster.name!r} in your kubeconfig is no address: {error}") from error
    if not address or not needs_proxy(host, port, exceptions):
        return None
    return _read(address if "://" in address else f"http://{address}", "HTTPS_PROXY in your environment")


def needs_proxy(host: str, port: int, exceptions: str) -> bool:
    """Whether a proxy of the environment is meant for this host (in lower case), where NO_PROXY has these `exceptions`."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return not any(_excepts(entry.strip().lower(), host, port, address) for entry in exceptions.split(","))


def _excepts(entry: str, host: str, port: int, address: IPv4Address | IPv6Address | None) -> bool:
    if entry == "*":
        return True
    if re.fullmatch(r".+/[0-9]+", entry):
        try:
            return address is not None and address in ip_network(entry, strict=False)
        except ValueError:
            return False
    parts = re.fullmatch(r"(?:\[([^][]+)]|([^][:]+)):([0-9]*)", entry)
    name = (parts[1] or parts[2]) if parts else entry
    if parts and parts[3] and int(parts[3]) != port:
        return False
    if address is not None:
        return _address(name) == address
    suffix = name[1:] if name.startswith("*.") else name
    return bool(suffix) and (host == suffix or host.endswith(suffix if suffix.startswith(".") else f".{suffix}"))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _read(address: str, where: str) -> Proxy:
    try:
        url = urllib3.util.parse_url(address)
    except urllib3.exceptions.LocationParseError:
        url = urllib3.util.Url()
    if url.scheme not in ("http", "https") or not url.host:
        raise Failed(
            f"{where} is not the address of a proxy that can be used here: write it like http://proxy.example.com:3128 "
            f"(https is known too, SOCKS is not)"
        )
    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(unquote(url.auth).encode()).decode()}"} if url.auth else {}
    return Proxy(url._replace(auth=None).url, headers)
