"""Files of object proposals: boxes in pictures of Pascal VOC that may show objects.

    selective_search_data/voc_2007_<subset>.mat   with the layout of Fast R-CNN's archive
    proposals/<subset>.parquet                    a user's proposals, made by any method

A .mat file has two cell arrays: `boxes`, with a matrix (P, 4) for each picture, and `images`, with
the pictures' names. Columns are top, left, bottom, right, counted from 1, and the last pixel is
included. Without `images`, the pictures are those of VOC's list, in its order.

A Parquet file has a row for each box and the columns name, left, top, right, bottom: pixels from 0,
and right and bottom are exclusive.

In both formats, the best boxes of a picture come first. Files of trainval serve train and val, too.

Suffixes: P proposals of a picture.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat

from deepcluster_core.errors import SourceError, first_line
from deepcluster_core.shortage import explain_damage
from deepcluster_core.text import listed

SIDES = ["left", "top", "right", "bottom"]

Boxes = NDArray[np.float32]


def find_proposals(data: Path, subset: str) -> Path | None:
    """Return the file of a subset's proposals in the folder of a data set; None if missing."""
    candidates = [*_candidates(data, subset)]
    if subset in ("train", "val"):
        candidates += _candidates(data, "trainval")
    for path in candidates:
        if path.is_file():
            return path
    return None


def need_proposals(data: Path, subset: str) -> Path:
    """Return the file of a subset's proposals in the folder of a data set.

    Raises:
        SourceError: the folder does not have such a file.
    """
    found = find_proposals(data, subset)
    if found is None:
        ours, theirs = _candidates(data, subset)
        raise SourceError(
            f"{data}: there are no proposals for {subset}.\n"
            f"  Looked for: {theirs.relative_to(data)}, {ours.relative_to(data)}\n"
            f"  Fix: put the file there (the first one comes from the archive of selective search "
            f"boxes that Fast R-CNN's released code downloads), or let a network propose: "
            f"--set proposals=rpn"
        )
    return found


def proposals_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file of proposals.

    Raises:
        SourceError: the file cannot be read.
    """
    with explain_damage(partial(_unreadable, path), OSError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_proposals(path: Path, names: Sequence[str], *, limit: int) -> list[Boxes]:
    """Return boxes_P4 of each picture: left, top, right, bottom; right and bottom are exclusive.

    2,000 proposals for each picture of VOC 2007's trainval take 160 MB.

    Args:
        path: the file, see `find_proposals`.
        names: names of the pictures; the file may have further pictures.
        limit: number of proposals to keep for each picture, the first ones.

    Raises:
        SourceError: the file is damaged, has a different layout, or lacks pictures.
    """
    if path.suffix == ".mat":
        boxes_by_name = _read_mat(path, names, limit)
    else:
        boxes_by_name = _read_parquet(path, limit)
    absent = [name for name in names if name not in boxes_by_name]
    if absent:
        raise SourceError(
            f"{path}: has no proposals for {listed(absent)}.\n"
            f"  Cause: the file is of different pictures, or not complete.\n"
            f"  Fix:   give the file of this subset, or let a network propose: "
            f"--set proposals=rpn"
        )
    return [boxes_by_name[name] for name in names]


def _candidates(data: Path, subset: str) -> tuple[Path, Path]:
    """Return the possible files of a subset; the user's own takes precedence."""
    ours = data / "proposals" / f"{subset}.parquet"
    theirs = data / "selective_search_data" / f"voc_2007_{subset}.mat"
    return ours, theirs


def _read_mat(path: Path, names: Sequence[str], limit: int) -> dict[str, Boxes]:
    with explain_damage(partial(_unreadable, path)):  # scipy raises nearly any exception
        found: Mapping[str, Any] = loadmat(path, variable_names=["boxes", "images"])
    cells = np.ravel(found.get("boxes", ()))
    if "images" in found:
        pictures = [_stem(cell) for cell in np.ravel(found["images"])]
    else:
        pictures = names
    if len(cells) != len(pictures):
        reason = f"boxes has {len(cells)} cells, but there are {len(pictures)} pictures"
        raise _unreadable(path, reason)
    boxes_by_name: dict[str, Boxes] = {}
    for name, cell in zip(pictures, cells, strict=True):
        boxes_by_name[name] = _from_one(path, name, cell, limit)
    return boxes_by_name


def _stem(cell: Any) -> str:  # noqa: ANN401  scipy nests text in arrays of arrays
    while isinstance(cell, np.ndarray) and cell.size:
        cell = cell.flat[0]
    return Path(str(cell)).stem


def _from_one(
    path: Path,
    name: str,
    cell: Any,  # noqa: ANN401  scipy's
    limit: int,
) -> Boxes:
    """Convert a picture's boxes, which count from 1 with the top first, to our format."""
    matrix = np.asarray(cell)
    if matrix.size == 0:
        return np.zeros((0, 4), np.float32)
    is_numeric = matrix.dtype.kind in "uif"  # unsigned, signed, floating
    has_boxes = matrix.ndim == 2 and matrix.shape[1] == 4
    if not (is_numeric and has_boxes):
        raise _unreadable(path, f"boxes of {name} are {matrix.dtype} {matrix.shape}, not (P, 4)")
    # The last pixel is included, so right and bottom are already exclusive when counted from 0.
    left_first = [1, 0, 3, 2]
    box_P4 = matrix[:limit, left_first].astype(np.float32)
    box_P4[:, :2] -= 1
    return _finite(path, name, box_P4)


def _read_parquet(path: Path, limit: int) -> dict[str, Boxes]:
    with explain_damage(partial(_unreadable, path)):  # Arrow has its own exceptions
        table = pd.read_parquet(path, columns=["name", *SIDES])
        name_P = table["name"].to_numpy(dtype=str)
        box_P4 = table[SIDES].to_numpy(dtype=np.float32)
    # Sort by picture. The sort is stable, so the best boxes of a picture stay first.
    order_P = np.argsort(name_P, kind="stable")
    names, starts = np.unique(name_P[order_P], return_index=True)
    parts = np.split(box_P4[order_P], starts[1:])
    boxes_by_name: dict[str, Boxes] = {}
    # For a table without rows, there is one empty part without a name.
    for name, part_P4 in zip(names.tolist(), parts, strict=False):
        best_P4 = part_P4[:limit]
        boxes_by_name[name] = _finite(path, name, best_P4)
    return boxes_by_name


def _finite(path: Path, name: str, box_P4: Boxes) -> Boxes:
    if not np.isfinite(box_P4).all():
        raise _unreadable(path, f"boxes of {name} are not all finite")
    return np.ascontiguousarray(box_P4)


def _unreadable(path: Path, reason: str | Exception) -> SourceError:
    if isinstance(reason, OSError) and reason.strerror:
        reason = reason.strerror
    elif isinstance(reason, Exception):
        reason = first_line(reason)
    return SourceError(
        f"{path}: cannot be read as proposals ({reason}).\n"
        f"  Cause: damaged, or neither laid out as Fast R-CNN's .mat files nor Parquet with the "
        f"columns name, {', '.join(SIDES)}.\n"
        f"  Fix:   get it again, or let a network propose: --set proposals=rpn"
    )
