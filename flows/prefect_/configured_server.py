"""Check, before a flow starts, whether the configured Prefect server can be used."""

import os
import re
import socket
import ssl
from collections.abc import Iterator
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


def check_configured_server() -> None:
    """Ask the configured server for its version, with the settings of Prefect's own client.

    Raises:
        ServerError: the server cannot be reached, does not answer, or does not fit this client.
    """
    url = str(get_current_settings().api.url)
    within_s = min(ANSWER_S, get_current_settings().api.request_timeout)
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(httpx_settings={"timeout": within_s}, sync_client=True) as client,
        ):
            _check_version(client)
    except Exception as error:
        reason, fix = _explained(error, url, within_s)
        raise configured_server_error(url, reason, fix) from error


def configured_server_error(url: str, reason: str, fix: str) -> ServerError:
    """Return the error for a configured server; it names the setting and how to undo it."""
    origin = origin_of(API_URL)
    undo = f", or {origin.undo} to use a server of this command's own" if origin else ""
    shown = without_password(url)
    return server_error(
        f"the configured Prefect server {shown} cannot be used", reason, f"{fix}{undo}", origin
    )


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
    major = MAJOR.match(answer) if isinstance(answer, str) else None
    if major is None:
        raise _NotPrefectError
    if major[1] != version("prefect").split(".", 1)[0]:
        raise _VersionError(answer)


def _explained(error: Exception, url: str, within_s: float) -> tuple[str, str]:
    """Return the reason why a server cannot be used, and the fix."""
    here = version("prefect")
    match error:
        case httpx.HTTPStatusError():
            found = _status_explained(error.response.status_code)
        case httpx.TimeoutException():
            found = f"no answer within {within_s:g} s", "restart that server, or try again later"
        case httpx.ProxyError():
            found = f"the proxy does not connect to it ({error})", "correct the proxy settings"
        case _VersionError():
            reason = f"it is Prefect {error}, which Prefect {here} cannot use"
            found = reason, f"run that server with Prefect {here}"
        case _NotPrefectError() | httpx.RemoteProtocolError() | httpx.TooManyRedirects():
            found = "what answers there is not Prefect's API", "correct the URL; it ends in /api"
        case httpx.NetworkError():
            found = _connection_explained(error)
        case _:
            found = _client_explained(error, url)
    return found


def _status_explained(status: int) -> tuple[str, str]:
    if status in {401, 403}:
        fix = "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY to what that server expects"
        return f"it refuses the credentials (HTTP {status})", fix
    if status == 404:
        reason = "what answers there is not Prefect's API (HTTP 404)"
        return reason, "correct the URL; it ends in /api"
    return f"it answers with an error (HTTP {status})", "look at that server's log"


def _connection_explained(error: Exception) -> tuple[str, str]:
    """Return the reason why a connection failed, found in an error's causes, and the fix."""
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its host name is unknown", "correct the URL"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        fix = "set PREFECT_API_SSL_CERT_FILE to the certificate of who signed it"
        return f"its certificate is not trusted ({error})", fix
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "it does not speak HTTPS", "write http:// instead of https:// in the URL"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection is refused: no server runs there", "start that server"
    return f"no connection ({error or type(error).__name__})", "start that server"


def _client_explained(error: Exception, url: str) -> tuple[str, str]:
    """Return the reason why Prefect's client cannot even be created, and the fix."""
    proxies = {} if is_loopback(url) else unusable_proxies(os.environ)
    if proxies:
        listed = "; ".join(f"{name}: {reason}" for name, reason in proxies.items())
        fix = "correct that variable, or for SOCKS `pip install 'httpx[socks]' python-socks`"
        return f"Prefect does not support the proxy ({listed})", fix
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol | ValueError):
        return f"invalid URL ({error})", "correct the URL, for example http://127.0.0.1:4200/api"
    return f"{type(error).__name__}: {error}", "correct Prefect's settings"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
