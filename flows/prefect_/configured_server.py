"""Check, before a flow starts, whether the configured Prefect server can be used."""

import os
import re
import socket
import ssl
from importlib.metadata import version
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

from flows.prefect_.internals import is_cloud
from flows.prefect_.loopback import is_loopback, unusable_proxies
from flows.prefect_.server_errors import ServerError, server_error
from flows.prefect_.settings import API_URL, origin_of, without_password

ANSWER_S = 15.0
"""Seconds that a server may take to answer once it has accepted a connection."""
MAJOR = re.compile(r"(\d+)\.\d")
NOT_PREFECT = "what answers there is not Prefect's API"
CORRECT_URL = "correct the URL; it ends in /api"


def check_configured_server() -> None:
    """Ask the configured server for its version, with the settings of Prefect's own client.

    Raises:
        ServerError: the server cannot be reached, does not answer, or does not fit this client.
    """
    settings = get_current_settings()
    url = str(settings.api.url)
    within_s = min(ANSWER_S, settings.api.request_timeout)
    try:
        # Without retries, which would delay the error by minutes.
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": within_s}, sync_client=True) as client,
        ):
            _check_version(client)
    except Exception as error:  # errors of httpx, of Prefect, and of the network
        reason, fix = _explained(error, url, within_s)
        raise configured_server_error(url, reason, fix) from error


def configured_server_error(url: str, reason: str, fix: str) -> ServerError:
    """Return the error for a configured server; it names the setting and how to undo it."""
    origin = origin_of(API_URL)
    if origin is not None:
        fix += f", or {origin.undo} to use a server of this command's own"
    what = f"the configured Prefect server {without_password(url)} cannot be used"
    return server_error(what, reason, fix, origin)


class _NotPrefectError(Exception):
    """What has answered is not a Prefect server."""


class _VersionError(Exception):
    """The server has a different major version."""


def _check_version(client: SyncPrefectClient) -> None:
    # Prefect Cloud fits every client and has no address for its version: test the connection only.
    if is_cloud(client):
        client.read_flows(limit=1)
        return
    try:
        answer: Any = client.api_version()
    except ValueError as error:  # the answer is not JSON but, for example, a web page
        raise _NotPrefectError from error
    if not isinstance(answer, str):
        raise _NotPrefectError
    found = MAJOR.match(answer)
    if found is None:
        raise _NotPrefectError
    own_major = version("prefect").split(".", 1)[0]
    if found[1] != own_major:
        raise _VersionError(answer)


def _explained(error: Exception, url: str, within_s: float) -> tuple[str, str]:
    """Return the reason why a server cannot be used, and the fix."""
    here = version("prefect")
    match error:
        case httpx.HTTPStatusError():
            reason, fix = _status_explained(error.response.status_code)
        case httpx.TimeoutException():
            reason = f"no answer within {within_s:g} s"
            fix = "restart that server, or try again later"
        case httpx.ProxyError():
            reason = f"the proxy does not connect to it ({error})"
            fix = "correct the proxy settings"
        case _VersionError():
            reason = f"it is Prefect {error}, which Prefect {here} cannot use"
            fix = f"run that server with Prefect {here}"
        case _NotPrefectError() | httpx.RemoteProtocolError() | httpx.TooManyRedirects():
            reason = NOT_PREFECT
            fix = CORRECT_URL
        case httpx.NetworkError():
            reason, fix = _connection_explained(error)
        case _:
            reason, fix = _client_explained(error, url)
    return reason, fix


def _status_explained(status: int) -> tuple[str, str]:
    if status in {401, 403}:
        fix = "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what that server expects"
        return f"it refuses the credentials (HTTP {status})", fix
    if status == 404:
        return f"{NOT_PREFECT} (HTTP 404)", CORRECT_URL
    return f"it answers with an error (HTTP {status})", "look at that server's log"


def _connection_explained(error: Exception) -> tuple[str, str]:
    """Return the reason why a connection failed, found in an error's causes, and the fix."""
    if _is_caused_by(error, socket.gaierror):
        return "its host name is unknown", "correct the URL"
    # Before SSLError, of which this is a subclass.
    if _is_caused_by(error, ssl.SSLCertVerificationError):
        fix = "set PREFECT_API_SSL_CERT_FILE to the certificate of who signed it"
        return f"its certificate is not trusted ({error})", fix
    if _is_caused_by(error, ssl.SSLError):
        return "it does not speak HTTPS", "write http:// instead of https:// in the URL"
    if _is_caused_by(error, ConnectionRefusedError):
        return "the connection is refused: no server runs there", "start that server"
    # Some errors have no text.
    words = str(error) or type(error).__name__
    return f"no connection ({words})", "start that server"


def _client_explained(error: Exception, url: str) -> tuple[str, str]:
    """Return the reason why Prefect's client cannot even be created, and the fix."""
    # A server on this machine is reached without a proxy.
    proxies: dict[str, str] = {}
    if not is_loopback(url):
        proxies = unusable_proxies(os.environ)
    if proxies:
        listed = "; ".join(f"{name}: {reason}" for name, reason in proxies.items())
        fix = "correct that variable, or for SOCKS `pip install 'httpx[socks]' python-socks`"
        return f"Prefect does not support the proxy ({listed})", fix
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | ValueError):
        return f"invalid URL ({error})", "correct the URL, for example http://127.0.0.1:4200/api"
    return f"{type(error).__name__}: {error}", "correct Prefect's settings"


def _is_caused_by(error: BaseException | None, kind: type[Exception]) -> bool:
    """Return whether an error, or one of those that it was raised from, is of a kind."""
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
