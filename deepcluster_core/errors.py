"""Errors that the person running the pipeline can fix. Anything else is a bug and should crash."""


class DeepClusterError(Exception):
    """Base of every error we raise on purpose: printed without a traceback, exit code 2.

    The message says what is wrong with which file or key, why, and the way out.
    """


class ConfigError(DeepClusterError):
    """A recipe or an override is wrong; the message lists every problem by dotted key."""


class SourceError(DeepClusterError):
    """The images cannot be found or read where the recipe says."""


class ArtifactError(DeepClusterError):
    """An artifact that a stage needs is missing, damaged or does not fit."""


class NewerArtifactError(ArtifactError):
    """An artifact was written by a later version of this program, and must be left as it is."""


class NoRoomError(ArtifactError):
    """The disk is full."""


class FeatureError(DeepClusterError):
    """The features cannot be clustered as asked: too few, not finite, or of too low a rank."""


class TrainingError(DeepClusterError):
    """Training cannot go on."""


def first_line(error: BaseException, *, limit: int = 200) -> str:
    """Return the first line of an error's message, or the error's class if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__
