"""results.parquet: the table that every evaluation writes and `deepcluster evaluate` prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.manifest import digest_of
from deepcluster_core.artifacts.tables import read_table, write_frame
from deepcluster_core.config import StrictConfig

RESULTS = "results.parquet"
PROTOCOL = "protocol"
CAPTIONS = "captions"

Row = Mapping[str, float | int | str | None]


def write_results(
    draft: Draft,
    rows: Sequence[Row],
    protocol: StrictConfig,
    captions: Mapping[str, str] | None = None,
) -> None:
    """Write the table of an evaluation. Each row holds the digest of the protocol it followed.

    Only the first rank has rows and writes; on the others, nothing happens.

    Args:
        draft: the artifact being written; its number of rows and its facts are set.
        rows: at least one row; all rows have equal columns.
        protocol: every number that the evaluation depends on.
        captions: captions of the artifact's images in the report, by file name.
    """
    if draft.context.ranks.rank > 0:
        return
    digest = digest_of(protocol.model_dump(mode="json"))
    table = pd.DataFrame([dict(row) for row in rows])
    # Every row names the protocol, so that tables of several runs can be compared.
    table[PROTOCOL] = digest
    write_frame(draft.folder / RESULTS, table)
    draft.rows = len(rows)
    draft.facts[PROTOCOL] = digest
    if captions:
        draft.facts[CAPTIONS] = dict(captions)


def caption_of(file: str, facts: Mapping[str, Any]) -> str:
    """Return the caption of an image from the facts of its artifact; by default, its name."""
    return facts.get(CAPTIONS, {}).get(file, file.removesuffix(".png"))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an evaluation, including the column `protocol`.

    Raises:
        ArtifactError: the table is missing or damaged.
    """
    return read_table(folder / RESULTS).to_pylist()
