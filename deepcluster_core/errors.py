"""Errors that the user can fix. Any other exception is a bug and should crash."""


class DeepClusterError(Exception):
    """Base class of all errors for the user: printed without a traceback, exit code 2.

    The message names the file or key, what is wrong with it, the cause and the fix.
    """


class ConfigError(DeepClusterError):
    """A recipe or an override is invalid; the message lists every problem by dotted key."""


class SourceError(DeepClusterError):
    """The images cannot be found or read where the recipe says."""


class ArtifactError(DeepClusterError):
    """An artifact that a stage needs is missing, damaged or incompatible."""


class NewerArtifactError(ArtifactError):
    """An artifact was written by a newer version of this program and must not be changed."""


class NoRoomError(ArtifactError):
    """The disk is full."""


class StoreError(ArtifactError):
    """An object store cannot be reached, refuses the credentials or keeps failing."""


class LeaseLostError(ArtifactError):
    """Another process has taken over the artifact that this one was making."""


class FeatureError(DeepClusterError):
    """The features cannot be clustered: too few, not finite, or of too low a rank."""


class TrainingError(DeepClusterError):
    """Training cannot continue."""


class RanksError(DeepClusterError):
    """The ranks of a stage cannot work together: some are missing, or their calls differ."""


class PeerLostError(RanksError):
    """Another rank ended or cannot be reached. Usually that rank has reported the cause."""


def first_line(error: BaseException, *, limit: int = 200) -> str:
    """Return the first line of an error's message, or the error's class if it has no message."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:limit]
