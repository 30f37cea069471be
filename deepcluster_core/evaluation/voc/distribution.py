"""The distribution of Pascal VOC: possible locations of a year's files, and advice if missing."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deepcluster_core.data.sources.base import displayed
from deepcluster_core.data.sources.tar import members
from deepcluster_core.errors import SourceError
from deepcluster_core.evaluation.voc.file_tree import Archives, Folder, Tree
from deepcluster_core.text import listed

HOME = "host.robots.ox.ac.uk/pascal/VOC"
TRAINVAL = {2007: "VOCtrainval_06-Nov-2007.tar", 2012: "VOCtrainval_11-May-2012.tar"}
TEST = {2007: "VOCtest_06-Nov-2007.tar"}  # the truth of later years was not published
SHIPPED_SUBSETS = ("train", "val", "trainval", "test")


def find_tree(data: Path, year: int) -> Tree:
    """Return the files of a year: the unpacked folder if there is one, or the tar files.

    Args:
        data: see `Voc`.
        year: year of the challenge.

    Raises:
        SourceError: there are no such files, or a tar file is compressed or truncated.
    """
    own = f"VOC{year}"
    candidates = [
        data / "VOCdevkit" / own,
        data / "TrainVal" / "VOCdevkit" / own,
        data / own,
    ]
    # `data` may be the folder itself, unless its name is that of another year.
    is_any_year = re.fullmatch(r"VOC\d{4}", data.name) is not None
    if data.name == own or not is_any_year:
        candidates.append(data)
    for folder in candidates:
        if (folder / "ImageSets").is_dir():
            return Folder(folder)

    shipped = _shipped(year)
    if data.is_file():
        files = [data]
    else:
        files = [data / name for name in shipped]
    present = [file for file in files if file.is_file()]
    if present:
        archives = Archives(present, partial(_below, own))
        # An archive may be of another year or of something else.
        if archives.names("ImageSets/Main") or archives.names("ImageSets/Segmentation"):
            return archives
    raise SourceError(
        f"{data}: holds no Pascal VOC {year}.\n"
        f"  Looked for: VOCdevkit/{own}/ImageSets, {own}/ImageSets or ImageSets, and "
        f"{' or '.join(shipped)}\n"
        f"  Found:      {_found(data, present)}\n"
        f"  Fix:        put {' and '.join(shipped)} into one folder, as they are or unpacked; from "
        f"{HOME}, the organisers'"
    )


def again(year: int, subset: str | None = None) -> str:
    """Return advice on how to replace missing or damaged files of a subset, or of any subset."""
    archives = " or ".join(_shipped(year, subset))
    of_subset = "" if subset is None else f" of {subset}"
    return (
        f"take {archives}{of_subset} again, unpacked over the same VOCdevkit or as it is beside "
        f"the others; the organisers of VOC distribute it: {HOME}"
    )


def _shipped(year: int, subset: str | None = None) -> list[str]:
    """Return the names of the archives of a year, or only of the one that contains a subset."""
    if subset is None:
        tables = (TRAINVAL, TEST)
    elif subset == "test":
        tables = (TEST,)
    else:
        tables = (TRAINVAL,)
    names = [table[year] for table in tables if year in table]
    return names or [f"VOC{year}'s archive"]


def _below(own: str, member: str) -> str | None:
    """Return the path of a tar file's member below VOC<year>; None if it lies elsewhere."""
    _, found, path = f"/{member}".partition(f"/{own}/")
    return path if found else None


def _found(data: Path, archives: Sequence[Path]) -> str:
    """Return what is there instead of the data set, for a message."""
    if archives:
        # The first member of an archive shows which data set it is of.
        names: list[str] = []
        for file in archives:
            first = next(members(file), None)
            if first is not None:
                names.append(displayed(first.name))
        return listed(names) or "nothing in it"
    if data.is_dir():
        names = sorted(displayed(path.name) for path in data.iterdir())
        return listed(names) or "nothing"
    if data.exists():
        return "a file of a kind that is not read"
    return "no such folder"
