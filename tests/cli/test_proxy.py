"""Which proxy is gone through: kubectl's rules, and no password in any message."""

from __future__ import annotations

import traceback

import pytest

from vmaccess.cli.failed import Failed
from vmaccess.cli.proxy import Proxy, needs_proxy, proxy_for
from vmaccess.policy.kubeconfig import ClusterEntry

HIDDEN = "s3cret"


def cluster(server: str = "https://api.example.com", proxy_url: str | None = None) -> ClusterEntry:
    return ClusterEntry("prod", server, None, proxy_url=proxy_url)


# Of golang.org/x/net/http/httpproxy, proxy_test.go.
EXCEPTIONS = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:443, 10.0.0.1/30, 2001:db8::52:0:1, "
    "[2001:db8::52:0:2]:80, [2001:db8::52:0:3]:443, 2002:db8:a::45/64, port.io:8443, every.port.io:, , :1, 300.0.0.0/8, 1.2.3.4/x"
)


@pytest.mark.parametrize(
    ("host", "needs"),
    [
        ("localhost", False),
        ("127.0.0.1", False),
        ("127.0.0.2", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::2", True),
        ("192.168.1.1", False),
        ("::ffff:192.168.1.1", False),
        ("192.168.1.2", True),
        ("192.168.1.3", False),
        ("192.168.1.4", True),
        ("10.0.0.2", False),
        ("10.0.0.4", True),
        ("2001:db8::52:0:1", False),
        ("2001:db8::52:0:2", True),
        ("2001:db8::52:0:3", False),
        ("2002:db8:a::123", False),
        ("fe80::424b:c8be:1643:a1b6", True),
        ("barbaz.net", True),
        ("www.barbaz.net", False),
        ("foobar.com", False),
        ("www.foobar.com", False),
        ("foofoobar.com", True),
        ("baz.com", True),
        ("localhost.net", True),
        ("local.localhost", True),
        ("barbarbaz.net", True),
        ("wildcard.io", True),
        ("nested.wildcard.io", False),
        ("awildcard.io", True),
        ("port.io", True),
        ("every.port.io", False),
    ],
)
def test_what_the_environment_excepts(host: str, *, needs: bool) -> None:
    assert needs_proxy(host, 443, EXCEPTIONS) is needs
    assert not needs_proxy(host, 443, "other.example.com, *")


@pytest.mark.parametrize(
    ("server", "environment", "url"),
    [
        ("https://api.example.com", {}, None),
        ("https://api.example.com", {"HTTPS_PROXY": "http://proxy:1", "https_proxy": "http://other:1"}, "http://proxy:1"),
        ("https://api.example.com", {"HTTPS_PROXY": "", "https_proxy": "http://proxy:1"}, "http://proxy:1"),
        ("https://api.example.com", {"HTTPS_PROXY": "proxy.example.com:1"}, "http://proxy.example.com:1"),
        ("https://api.example.com", {"HTTP_PROXY": "http://proxy:1", "ALL_PROXY": "http://proxy:1"}, None),
        ("https://API.example.com:6443", {"HTTPS_PROXY": "http://proxy:1", "no_proxy": "Example.com:6443"}, None),
        ("https://api.example.com", {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "example.com:443"}, None),
        ("https://api.example.com", {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "example.com:6443"}, "http://proxy:1"),
        ("https://[::1]:6443", {"HTTPS_PROXY": "http://proxy:1"}, None),
    ],
    ids=["none", "upper-case-first", "empty", "no-scheme", "others", "a-port", "the-usual-port", "another-port", "loopback"],
)
def test_the_proxy_of_the_environment(server: str, environment: dict[str, str], url: str | None) -> None:
    assert proxy_for(cluster(server), environment) == (Proxy(url, {}) if url else None)


def test_the_kubeconfigs_proxy_always_holds() -> None:
    environment = {"HTTPS_PROXY": "http://other:1", "NO_PROXY": "*"}
    assert proxy_for(cluster("https://127.0.0.1", "http://proxy:1"), environment) == Proxy("http://proxy:1", {})


def test_a_password_goes_into_a_header_alone() -> None:
    found = proxy_for(cluster(proxy_url="http://me:s3cret%E2%9C%93@proxy:1"), {})
    assert found == Proxy("http://proxy:1", {"Proxy-Authorization": "Basic bWU6czNjcmV04pyT"})
    assert HIDDEN not in repr(found)


MALFORMED = [
    f"http://me:{HIDDEN}@there:port",
    f"http://me:{HIDDEN}#@there:1",
    f"http//me:{HIDDEN}@there:1",
    f"socks5://me:{HIDDEN}@there:1",
    f"{HIDDEN}://there:1",
    f"http://{HIDDEN}@",
]


@pytest.mark.parametrize("address", MALFORMED)
def test_what_is_no_proxy_is_said_without_quoting_it(address: str) -> None:
    with pytest.raises(
        Failed, match="the proxy-url of cluster 'prod' in your kubeconfig is not the address of a proxy"
    ) as failed:
        proxy_for(cluster(proxy_url=address), {})
    assert HIDDEN not in "".join(traceback.format_exception(failed.value))


def test_what_is_no_proxy_in_the_environment_is_said_without_quoting_it() -> None:
    with pytest.raises(Failed, match="HTTPS_PROXY in your environment is not the address of a proxy") as failed:
        proxy_for(cluster(), {"HTTPS_PROXY": f"http://me:{HIDDEN}@there:port"})
    assert HIDDEN not in "".join(traceback.format_exception(failed.value))


def test_what_is_no_server_is_said() -> None:
    with pytest.raises(Failed, match="the server of cluster 'prod' in your kubeconfig is no address: "):
        proxy_for(cluster("https://api.example.com:many"), {})
