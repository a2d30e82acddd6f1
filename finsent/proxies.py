"""Which servers are asked without the proxy of the environment: those of this machine, which no proxy can reach."""

import ipaddress
import os
from collections.abc import MutableMapping
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def bypass_proxies(environ: MutableMapping[str, str] = os.environ, *urls: str) -> None:
    """Add loopback addresses and the hosts of `urls` to NO_PROXY, where a proxy is set. What the user excludes stays excluded.

    Both spellings are set: requests, httpx and urllib each read one of them first.
    """
    if not any(environ.get(name) or environ.get(name.upper()) for name in _PROXIES):
        return
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    excluded = [host for host in map(str.strip, given.split(",")) if host]
    hosts = [*LOOPBACK, *filter(None, (urlsplit(url).hostname for url in urls))]
    if "*" not in excluded:
        excluded += [host for host in dict.fromkeys(hosts) if host not in excluded]
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(excluded)


def proxy_of(url: str) -> str | None:
    """The proxy through which `url` is asked, without its password; None where it is asked directly."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_loopback(url) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    scheme, mark, rest = proxy.rpartition("://")  # by hand: it may have no scheme, or be no URL
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
