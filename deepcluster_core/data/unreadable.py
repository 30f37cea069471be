"""Errors for pictures that cannot be used; the message is short: it is a cell of a table."""


class UnreadableImageError(ValueError):
    """This picture cannot be used; the message is the reason, short, for the skipped table."""


class DamagedImageError(UnreadableImageError):
    """Bytes are missing or wrong, so far as the codec can tell."""


class UnsupportedImageError(UnreadableImageError):
    """The file is of a kind that we do not read; the message says which, and what helps."""
