"""URLs of object stores: which there are, their normal form, and texts without secrets."""


def is_url(text: str) -> bool:
    """Return whether a text names a place on an object store, such as `s3://bucket/runs/demo`."""
    raise NotImplementedError


def normal_url(url: str) -> str:
    """Return a URL without user information, query, doubled and trailing slashes.

    Raises:
        ConfigError: the scheme is unknown, or bucket or path is missing.
    """
    raise NotImplementedError


def without_secrets(text: str) -> str:
    """Return a text in which credentials in URLs, signatures and headers are replaced by `***`."""
    raise NotImplementedError
