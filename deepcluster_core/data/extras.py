"""Import packages that decode some formats, and that are installed only where they are needed."""

import importlib
import logging
from functools import cache
from types import ModuleType

from deepcluster_core.data.unreadable import MissingPackageError

_EXTRAS = {"tifffile": "tiff", "pydicom": "dicom", "pillow_heif": "heif"}
"""Module -> the extra of this program that installs it."""


def needed(module: str, what: str, otherwise: str = "") -> ModuleType:
    """Return a module.

    Args:
        module: its name.
        what: what it is needed for, which begins the message.
        otherwise: what to do without it, such as `, or convert it to JPEG`.

    Raises:
        MissingPackageError: it is not installed. The message names the package.
    """
    found = _imported(module)
    if found is None:
        package = module.replace("_", "-")
        raise MissingPackageError(
            f"{what} needs the package {package}: "
            f"pip install 'deepcluster-pipeline[{_EXTRAS[module]}]'{otherwise}"
        )
    return found


@cache
def _imported(module: str) -> ModuleType | None:
    # What these packages log about a file may contain texts of the file, and a reason is recorded
    # for each file that cannot be read.
    logging.getLogger(module).disabled = True
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
