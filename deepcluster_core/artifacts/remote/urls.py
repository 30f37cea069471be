"""URLs of object stores: which there are, their normal form, and texts without secrets."""

import re
from urllib.parse import urlsplit

from deepcluster_core.errors import ConfigError

SCHEMES = {"s3": "s3", "gs": "gs", "az": "az", "s3a": "s3", "gcs": "gs", "azure": "az"}
"""Schemes of URLs, and how their normal form writes them."""
FOR_TESTS = ("file", "memory")
"""Schemes of folders and of nothing but this process, with which a run can be tried out."""

_URL = re.compile(r"(s3a?|gc?s|az|azure|file|memory):/", re.IGNORECASE | re.ASCII)
_USER = re.compile(r"(?<=://)[^/\s@]+@")
_SIGNED = re.compile(
    r"(?i)\b(x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)"
    r"|signature|sig|awsaccesskeyid|sharedaccesskey|accountkey|authorization|token)"
    r"(\s*[=:]\s*)(?:(?:AWS4-HMAC-SHA256|Bearer|SharedKey|Basic)\s+)?[^\s&,;\"']+"
)
_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")


def is_url(text: str) -> bool:
    """Return whether a text names a place on an object store, such as `s3://bucket/runs/demo`.

    One slash is enough, because `Path` turns `s3://bucket` into `s3:/bucket`.
    """
    return _URL.match(text) is not None


def normal_url(url: str, *, bucket_alone: bool = False) -> str:
    """Return a URL without user information, query, doubled and trailing slashes.

    Two spellings of a place have the same normal form; it is safe to print and to keep.

    Args:
        url: the URL.
        bucket_alone: whether it may be that of a bucket; a run needs a folder in it.

    Raises:
        ConfigError: the scheme is unknown, or the bucket or the path in it is missing.
    """
    # `Path` has removed one of the two slashes from what a person typed.
    parts = urlsplit(re.sub(r"^(\w+):/+", r"\1://", url.strip()))
    scheme = SCHEMES.get(parts.scheme.lower(), parts.scheme.lower())
    host = parts.netloc.rpartition("@")[2]
    names = [name for name in parts.path.split("/") if name]
    if scheme in FOR_TESTS:
        names, host = [host, *names] if host else names, ""
    elif scheme not in SCHEMES:
        raise ConfigError(
            f"{without_secrets(url)}: is not the URL of an object store.\n"
            f"  Fix: give one such as s3://bucket/runs/demo, gs://bucket/runs/demo or "
            f"az://container/runs/demo."
        )
    elif not host:
        raise ConfigError(f"{without_secrets(url)}: names no bucket.\n  Fix: s3://bucket/runs/demo")
    if bucket_alone and not names and scheme not in FOR_TESTS:
        return f"{scheme}://{host}"
    if not names or any(name in (".", "..") for name in names):
        raise ConfigError(
            f"{without_secrets(url)}: names no folder for a run in the bucket.\n"
            f"  Fix: give a URL such as {scheme}://{host or 'bucket'}/runs/demo."
        )
    return f"{scheme}://{host}/{'/'.join(names)}"


def without_secrets(text: str) -> str:
    """Return a text in which users in URLs, signatures, keys and tokens are replaced by `***`."""
    text = _USER.sub("***@", text)
    text = _SIGNED.sub(r"\1\2***", text)
    return _ACCESS_KEY.sub("***", text)
