"""Reach addresses of this machine without a proxy, whatever the environment sets.

A company's proxy cannot reach 127.0.0.1 of this machine. But Prefect's clients, like most programs,
send everything to the proxy that `no_proxy` does not exempt.
"""

import os
import re
import urllib.error
import urllib.request
from collections.abc import MutableMapping
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_PROXY = "no_proxy"
HEALTH_S = 2.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""An opener that sends requests without a proxy."""


def reach_loopback_directly(
    environment: MutableMapping[str, str] = os.environ, *others: str
) -> None:
    """Exempt this machine from the proxies of an environment; subprocesses inherit that.

    Nothing changes if no proxy is set, or if all addresses are exempt already.

    Args:
        environment: the environment, which is changed in place.
        others: further addresses of this machine.
    """
    if not _proxy_names(environment):
        return
    names = _no_proxy_names(environment)
    # If several spellings are set, Python's own code uses the one in lower case.
    names.sort(key=str.isupper)
    current = environment[names[0]] if names else ""
    if current.strip() == "*":  # exempts all addresses
        return
    # Spaces between hosts are common, and curl accepts them; Python's code splits at commas only.
    hosts = [host for host in re.split(r"[\s,]+", current) if host]
    for host in (*LOOPBACK, *others):
        if host not in hosts:
            hosts.append(host)
    for name in {NO_PROXY, *names}:
        environment[name] = ",".join(hosts)


def drop_unusable_proxies(environment: MutableMapping[str, str], *, proxies: bool = True) -> None:
    """Remove the proxies and exemptions with which Prefect's client could not be created.

    The client (httpx) prepares all proxies and exemptions when it is created, and fails if it does
    not support one of them, even if it would never use it.

    Args:
        environment: the environment, which is changed in place.
        proxies: remove proxies too, because the server is on this machine; if false, remove only
            exemptions.
    """
    for name in _no_proxy_names(environment):
        hosts = environment[name].split(",")
        usable = [host for host in hosts if _can_exempt(host.strip())]
        environment[name] = ",".join(usable)
    if not proxies:
        return
    for name in _proxy_names(environment):
        # httpx does not read other variables, such as ftp_proxy.
        is_read = name.lower() in {"http_proxy", "https_proxy", "all_proxy"}
        if is_read and unusable_because(environment[name]):
            del environment[name]


def unusable_proxies(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Return the proxies that Prefect's client does not support, and why, by variable."""
    reasons: dict[str, str] = {}
    for name in _proxy_names(environment):
        reason = unusable_because(environment[name])
        if reason:
            reasons[name] = reason
    return reasons


def unusable_because(proxy: str) -> str:
    """Return the reason why Prefect's client cannot use a proxy; an empty text if it can."""
    import httpx  # noqa: PLC0415

    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        httpx.HTTPTransport(verify=False, proxy=url).close()  # nothing is sent
    except ImportError:
        return "SOCKS needs the package socksio"
    except (ValueError, httpx.InvalidURL) as error:
        return str(error)
    return ""


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is the loopback interface of this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # the host is a name, or `url` is not a URL
        return False


def is_up(api: str) -> bool:
    """Return whether a Prefect server on this machine answers."""
    try:
        with DIRECT.open(f"{api}/health", timeout=HEALTH_S) as answer:
            return answer.status == 200
    except (OSError, ValueError):  # ValueError: the answer is not HTTP, or `api` is not a URL
        return False


def is_gone(api: str) -> bool:
    """Return whether nothing listens at a URL. A busy server does not count as gone."""
    try:
        with DIRECT.open(f"{api}/health", timeout=HEALTH_S):
            return False
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    except (OSError, ValueError):
        return False


def _can_exempt(host: str) -> bool:
    """Return whether httpx can parse an entry of no_proxy; it cannot parse `[::1]` or `::1/128`."""
    import httpx  # noqa: PLC0415

    if host.isascii() and ":" not in host:
        return True
    with suppress(ValueError):
        return bool(ip_address(host))
    pattern = host if "://" in host else f"all://*{host}"
    try:
        httpx.Client(verify=False, trust_env=False, mounts={pattern: None}).close()  # noqa: S501
    except (ValueError, httpx.InvalidURL):
        return False
    return True


def is_proxy(name: str) -> bool:
    """Return whether an environment variable of this name sets a proxy."""
    return name.lower().endswith("_proxy") and name.lower() != NO_PROXY


def _proxy_names(environment: MutableMapping[str, str]) -> list[str]:
    return [name for name, value in environment.items() if is_proxy(name) and value]


def _no_proxy_names(environment: MutableMapping[str, str]) -> list[str]:
    """Return the spellings of `no_proxy` that are set."""
    return [name for name in environment if name.lower() == NO_PROXY]
