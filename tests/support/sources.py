"""Files for a source, and the images and errors that the source makes of them."""

import os
from pathlib import Path
from typing import Literal

import pytest

from deepcluster_core.data.sources import Kind, SourceImage, open_source
from deepcluster_core.errors import SourceError

Labels = Literal["auto", "none"]


def put(root: Path, *names: str | bytes) -> Path:
    """Write files whose contents are their own names."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return root


def images(location: Path, kind: Kind = "auto", labels: Labels = "auto") -> list[SourceImage]:
    return list(open_source(location, kind=kind, labels=labels).images())


def paths(location: Path, kind: Kind = "auto", labels: Labels = "auto") -> list[str]:
    return [image.path for image in images(location, kind=kind, labels=labels)]


def labels_of(location: Path, kind: Kind = "auto", labels: Labels = "auto") -> list[str | None]:
    return [image.label for image in images(location, kind=kind, labels=labels)]


def error_of(location: Path, kind: Kind = "auto", labels: Labels = "auto") -> str:
    """Return why a source cannot be listed."""
    with pytest.raises(SourceError) as error:
        images(location, kind=kind, labels=labels)
    return str(error.value)


def reason(image: SourceImage) -> str:
    """Return why an image cannot be read."""
    with pytest.raises(OSError, match=r".") as error:
        image.read()
    return str(error.value)
