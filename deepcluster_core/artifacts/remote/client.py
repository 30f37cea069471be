"""Make clients of object stores, and explain their errors. `store` and this know obstore.

Credentials come from the environment, as other tools take them: AWS_…, GOOGLE_…, AZURE_…. They are
in no text that this program writes.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from deepcluster_core.artifacts.remote.urls import without_secrets
from deepcluster_core.errors import ConfigError, StoreError, first_line

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

PATIENCE = "DEEPCLUSTER_STORE_PATIENCE_S"
"""Environment variable: how long a request is repeated while a store does not answer, seconds."""
PATIENCE_S = 60.0
ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "GOOGLE_BASE_URL",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
)
"""Environment variables that name a server; TLS is left out only for one that begins with http://."""
UPLOAD_S = 600.0
"""Seconds after which an upload of a part counts as failed. Several parts of 8 MiB share what may
be a slow line, and nothing is received meanwhile."""


def patience_s() -> float:
    """Return for how long requests are repeated, in seconds.

    Raises:
        ConfigError: the environment variable is not a positive number.
    """
    text = os.environ.get(PATIENCE, "")
    try:
        seconds = float(text or PATIENCE_S)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{PATIENCE}={text}: is not a number of seconds.\n  Fix: {PATIENCE}=60")
    return seconds


def client_of(url: str, patience: float, stalled_s: float) -> "ObjectStore":
    """Return a client for the objects below a normal URL.

    Args:
        url: the URL, as `normal_url` returns it.
        patience: for how long obstore repeats a request, in seconds.
        stalled_s: seconds without an answer, or without a byte more of it, after which a request
            counts as failed.

    Raises:
        ConfigError: obstore is not installed, or the environment lacks a setting.
    """
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from obstore.store import LocalStore, from_url  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"{url}: object stores need a package that is not installed.\n"
            f'  Fix: pip install "deepcluster-pipeline[remote]"'
        ) from error
    if url.startswith("memory:"):
        return _memory_store(url)
    if url.startswith("file:"):
        return LocalStore(url.removeprefix("file://"), mkdir=True)
    retries: RetryConfig = {
        "max_retries": 100,  # the time is what ends them
        "retry_timeout": timedelta(seconds=patience),
        "backoff": {"max_backoff": timedelta(seconds=5)},
    }
    try:
        return from_url(url, client_options=_options(stalled_s), retry_config=retries)
    except (BaseError, ValueError) as error:
        raise ConfigError(
            f"{url}: the environment does not say how to reach it.\n"
            f"  Cause: {cause_of(error)}\n"
            f"  Fix:   {CREDENTIALS}"
        ) from error


def _options(stalled_s: float) -> "ClientConfig":
    is_plain = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
    # A limit on whole requests would end the download of a large file.
    return {
        "allow_http": is_plain,
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=stalled_s),
        "timeout": timedelta(days=1),
    }


@cache
def _memory_store(url: str) -> Any:  # noqa: ANN401  a type of obstore
    from obstore.store import MemoryStore  # noqa: PLC0415

    assert url
    return MemoryStore()


CREDENTIALS = (
    "set credentials in the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION "
    "for s3://, GOOGLE_APPLICATION_CREDENTIALS for gs://, AZURE_STORAGE_ACCOUNT_NAME and "
    "AZURE_STORAGE_ACCOUNT_KEY for az://; AWS_ENDPOINT_URL for another server."
)
_NO_PLACE = {"NoSuchBucket": "bucket", "ContainerNotFound": "container"}
"""Codes of answers, and what they say is missing."""
_NO_CREDENTIALS = ("credential", "169.254.169.254", "metadata.google", "/api/token")
_ANSWER = re.compile(r"<Code>(\w+)</Code>\s*<Message>([^<\n]*)")
"""In the XML with which stores answer a request that fails."""
AGAIN = "run the same command again once the store answers; what is finished is kept."


@contextmanager
def explain_store_errors(where: str) -> Iterator[None]:
    """Replace obstore's errors by errors that name the place, the cause and the fix.

    Answers that are not failures, such as a condition that does not hold, pass unchanged.

    Args:
        where: URL of the object.

    Raises:
        StoreError: the store cannot be reached, refuses the credentials, or keeps failing.
    """
    from obstore import exceptions  # noqa: PLC0415

    answers = (
        exceptions.AlreadyExistsError,
        exceptions.PreconditionError,
        exceptions.NotModifiedError,
    )
    refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    try:
        yield
    except answers:
        raise
    except refused as error:
        raise StoreError(
            f"{where}: the store refuses the credentials, or these may not do this.\n"
            f"  Cause: {cause_of(error)}\n"
            f"  Fix:   {CREDENTIALS}"
        ) from None
    except (exceptions.BaseError, FileNotFoundError) as error:
        for code, place in _NO_PLACE.items():
            if code in str(error):
                raise StoreError(
                    f"{where}: the {place} does not exist.\n  Fix: create it, or correct the URL."
                ) from None
        if isinstance(error, FileNotFoundError):
            raise
        # Without credentials, obstore asks the machine's own service for some.
        # For a list that is refused, it has no error of its own.
        is_refused = "403 Forbidden" in str(error)
        lacks_credentials = any(sign in str(error).lower() for sign in _NO_CREDENTIALS)
        fix = CREDENTIALS if is_refused or lacks_credentials else AGAIN
        raise StoreError(
            f"{where}: the object store fails, or cannot be reached.\n"
            f"  Cause: {cause_of(error)}\n"
            f"  Fix:   {fix}"
        ) from None  # the original error may show signed URLs


def cause_of(error: BaseException) -> str:
    """Return the first line of an error, and what store or system say, without secrets."""
    line = first_line(error, limit=400)
    answer = _ANSWER.search(str(error))
    if answer is not None:
        line = f"{line.partition('<')[0]}{answer[1]}: {answer[2]}"
    system = re.findall(r'message: "([^"]+)"', str(error))
    return without_secrets(f"{line} ({system[-1]})" if system else line)


def is_transient(error: BaseException) -> bool:
    """Return whether it may help to send a request again: not if the store answered with 4xx."""
    from obstore import exceptions  # noqa: PLC0415

    if type(error) is not exceptions.GenericError:
        return False
    text = str(error)
    return "status code: 4" not in text
