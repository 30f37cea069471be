"""Addresses of this machine are reached without a proxy, whatever the environment says.

A company's proxy does not know this machine's 127.0.0.1. Prefect's clients, like most programs,
send everything to the proxy that is not exempted in `no_proxy`.
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
"""Sends requests without a proxy."""


def reach_loopback_directly(
    environment: MutableMapping[str, str] = os.environ, *others: str
) -> None:
    """Exempt this machine from the proxies of an environment; subprocesses inherit that.

    Does nothing where no proxy is set, or where all addresses are exempted.

    Args:
        environment: changed in place.
        others: further addresses of this machine.
    """
    if not _proxy_names(environment):
        return
    names = [name for name in environment if name.lower() == NO_PROXY]
    # Where several spellings are set, Python's own code takes the one in small letters.
    names.sort(key=str.isupper)
    current = next((environment[name] for name in names), "")
    if current.strip() == "*":
        return
    # Blanks between hosts are common, and curl accepts them; Python's code splits at commas only.
    hosts = [host for host in re.split(r"[\s,]+", current) if host]
    hosts += [host for host in (*LOOPBACK, *others) if host not in hosts]
    for name in {NO_PROXY, *names}:
        environment[name] = ",".join(hosts)


def drop_unusable_proxies(environment: MutableMapping[str, str], *, proxies: bool = True) -> None:
    """Remove from an environment what keeps Prefect's client from being created.

    The client (httpx) prepares every proxy and every exemption at once, and fails if it does not
    support one of them, even if it would never use it.

    Args:
        environment: changed in place.
        proxies: remove proxies too, because the server is on this machine; else only exemptions.
    """
    for name in [name for name in environment if name.lower() == NO_PROXY]:
        hosts = environment[name].split(",")
        environment[name] = ",".join(host for host in hosts if _can_exempt(host.strip()))
    if not proxies:
        return
    for name in _proxy_names(environment):
        if name.lower() in {"http_proxy", "https_proxy", "all_proxy"} and unusable_because(
            environment[name]
        ):
            del environment[name]


def unusable_proxies(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Return the proxies that Prefect's client does not support, and why, by variable."""
    reasons = {name: unusable_because(environment[name]) for name in _proxy_names(environment)}
    return {name: reason for name, reason in reasons.items() if reason}


def unusable_because(proxy: str) -> str:
    """Return why Prefect's client cannot use a proxy; an empty text if it can."""
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
    """Return whether a URL is one of this machine's loopback interface."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def is_up(api: str) -> bool:
    """Return whether a Prefect server of this machine answers."""
    try:
        with DIRECT.open(f"{api}/health", timeout=HEALTH_S) as answer:
            return answer.status == 200
    except (OSError, ValueError):  # ValueError: no HTTP, or no URL
        return False


def is_gone(api: str) -> bool:
    """Return whether nothing listens at a URL. A busy server is not gone."""
    try:
        with DIRECT.open(f"{api}/health", timeout=HEALTH_S):
            return False
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionRefusedError)
    except (OSError, ValueError):
        return False


def _can_exempt(host: str) -> bool:
    """Return whether httpx can read an entry of no_proxy; `[::1]` or `::1/128` it cannot."""
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
    """Return whether a variable of the environment sets a proxy."""
    return name.lower().endswith("_proxy") and name.lower() != NO_PROXY


def _proxy_names(environment: MutableMapping[str, str]) -> list[str]:
    return [name for name, value in environment.items() if is_proxy(name) and value]
