"""A data frame of images as a source that any recipe reads."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from deepcluster.images import npy_file
from deepcluster_core.artifacts.frame_images import StoredImage, write_images
from deepcluster_core.artifacts.outputs import whole_files
from deepcluster_core.data.encode import encode_png
from deepcluster_core.data.sources.base import displayed, read_file
from deepcluster_core.data.sources.labels import label_of
from deepcluster_core.errors import SourceError


def images_from_frame(
    frame: pd.DataFrame, out: str | Path, *, image: str = "image", label: str | None = None
) -> Path:
    """Write the images of a data frame to a Parquet file, for `dataset.source` of any recipe.

    The file is in the layout of the Hugging Face hub, which `datasets.load_dataset` reads too.

    Args:
        frame: a row for each image, in the order that the data set will have.
        out: the .parquet file to write.
        image: the column of the images. Each is the path of a file, the bytes of a file, an image
            of Pillow, a dict with `bytes` or `path` as Hugging Face has it, or an array (H, W) or
            (H, W, C) of uint8 or uint16. Arrays and images of Pillow are stored without loss.
        label: the column of the classes, which are used to score clusters, never to train. None:
            there are none.

    Returns:
        `out`, as an absolute path.

    Raises:
        SourceError: a column does not exist, or a cell is not an image.
        ArtifactError: `out` exists, or cannot be written.
    """
    path = Path(out).absolute()
    if path.suffix != ".parquet":
        raise SourceError(f"{out}: must end in .parquet.\n  Fix: {path.with_suffix('.parquet')}")
    for column in (image, label):
        if column is not None and column not in frame.columns:
            names = ", ".join(map(str, frame.columns))
            raise SourceError(f"the frame has no column {column!r}.\n  Fix: choose from {names}.")
    if frame.empty:
        raise SourceError("the frame has no rows.\n  Fix: give one with a row for each image.")
    with whole_files(path) as (part,):
        write_images(part, _rows(frame, image, label), with_labels=label is not None)
    return path


def _rows(frame: pd.DataFrame, image: str, label: str | None) -> Iterator[StoredImage]:
    """Yield the images with their labels; each has a path that no other has."""
    labels = [None] * len(frame) if label is None else frame[label]
    seen: set[str] = set()
    for number, (cell, class_name) in enumerate(zip(frame[image], labels, strict=True)):
        try:
            name, contents = _file_of(cell)
        except OSError as error:
            shown = f"{cell}: " if isinstance(cell, str | Path) else ""
            raise SourceError(f"row {number}: {shown}{error}.") from error
        if name is None or name in seen:
            name = f"{number:06}"
        seen.add(name)
        yield StoredImage(name, contents, label_of(class_name))


def _file_of(cell: Any) -> tuple[str | None, bytes]:  # noqa: ANN401  any cell
    """Return the path of an image, if it has one, and the contents of its file.

    Raises:
        OSError: the file cannot be read, or the cell is not an image; the text is the reason alone.
    """
    if isinstance(cell, dict):
        contents = cell.get("bytes")
        if contents is not None:
            return cell.get("path"), bytes(contents)
        cell = cell.get("path")
    if isinstance(cell, str | Path):
        return displayed(str(cell)), read_file(Path(cell).expanduser())
    if isinstance(cell, bytes | bytearray | memoryview):
        return None, bytes(cell)
    if isinstance(cell, Image.Image):
        return None, _png_of(cell)
    if isinstance(cell, np.ndarray):
        return None, _file_of_array(cell)
    raise OSError(f"{type(cell).__name__} is no path, bytes, image of Pillow or array")


def _png_of(image: Image.Image) -> bytes:
    """Return an image of Pillow as PNG, upright, in a mode that PNG has without loss.

    Pillow does not write the orientation of a photograph to PNG.
    """
    image.load()  # an image that was opened and not read yet may be damaged
    file = BytesIO()
    try:
        ImageOps.exif_transpose(image).save(file, "PNG")
    except OSError as error:
        raise OSError(f"images of mode {image.mode} have no lossless file") from error
    return file.getvalue()


def _file_of_array(pixels: np.ndarray[Any, Any]) -> bytes:
    """Return an array as PNG if it is 8-bit grey or colour, else as .npy."""
    if pixels.ndim not in (2, 3) or pixels.dtype not in (np.uint8, np.uint16):
        raise OSError(
            f"array of {pixels.dtype} and shape {pixels.shape}; (H, W) and (H, W, C) of uint8 and "
            f"uint16 are read"
        )
    pixels_HWC = np.atleast_3d(pixels)
    if pixels.dtype == np.uint8 and pixels_HWC.shape[2] in (1, 3):
        return encode_png(pixels_HWC)
    return npy_file(pixels)
