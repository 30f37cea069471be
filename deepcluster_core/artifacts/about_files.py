"""Where files that people took away say what they were made from, and how to read it again.

Parquet, Zarr and AnnData have metadata of their own. CSV has none, so a small JSON file lies beside
it; NumPy has none either, but its index is a Parquet file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepcluster_core.artifacts.h5ad import read_h5ad_about
from deepcluster_core.artifacts.own_output import ABOUT, ARRAY
from deepcluster_core.errors import ArtifactError, first_line
from deepcluster_core.shortage import explain_damage

KNOWN = (".parquet", ".csv", ".h5ad", ".npy", ".zarr")


def beside(out: Path, what: str) -> Path:
    """Return the path of a table beside an output, such as `out.skipped.parquet`."""
    return out.with_suffix(f".{what}.parquet")


def about_of_csv(out: Path) -> Path:
    """Return the path of the file beside a CSV file that says what it was made from."""
    return out.with_suffix(".about.json")


def files_of_table(out: Path) -> list[Path]:
    """Return the files of a table: itself and, as CSV has no metadata, `about_of_csv`."""
    return [out, about_of_csv(out)] if out.suffix == ".csv" else [out]


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Write what a CSV file was made from to the file beside it."""
    text = json.dumps({ABOUT: about}, indent=2)
    path.write_text(f"{text}\n", encoding="utf-8")


def read_about(path: Path) -> dict[str, Any]:
    """Return what a file was made from.

    Raises:
        ArtifactError: the file is missing or damaged, or this program did not write it.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: is not there.\n  Fix: give a file that exists.")

    def explain(error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{path}: does not say what it was made from ({first_line(error)}).\n"
            f"  Fix: give a file of `table`, `assign` or `embed` ({', '.join(KNOWN)}), together "
            f"with what they write beside it."
        )

    with explain_damage(explain, OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        about = _read(path)
        if not isinstance(about, dict):
            raise ValueError("its description is not an object")
        return about


def _read(path: Path) -> Any:  # noqa: ANN401  JSON
    match path.suffix:
        case ".parquet":
            return _of_parquet(path)
        case ".npy":
            return _of_parquet(beside(path, "index"))
        case ".csv":
            return json.loads(about_of_csv(path).read_text(encoding="utf-8"))[ABOUT]
        case ".zarr":
            return json.loads((path / ARRAY).read_text(encoding="utf-8"))["attributes"][ABOUT]
        case ".h5ad":
            return json.loads(read_h5ad_about(path))
        case suffix:
            raise ValueError(f"{suffix or 'a file without a suffix'} is not known")


def _of_parquet(path: Path) -> Any:  # noqa: ANN401  JSON
    metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata[ABOUT.encode()])
