"""The evaluations by name, and what a person asks of one. Everything is checked here first."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from deepcluster_core.config import StrictConfig
from deepcluster_core.config_files import config_file
from deepcluster_core.config_overrides import parse_assignments
from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import refuse_url
from stages.evaluations import (
    filters,
    knn,
    linear,
    maximal,
    mlp,
    nmi,
    retrieval,
    voc_classification,
    voc_detection,
    voc_segmentation,
)
from stages.evaluations.protocol import load_protocol
from stages.runs.folder import RunFolder
from stages.runs.locate import own_folder
from stages.runs.sweep_plan import is_sweep

# Each has a protocol of its name, and a stage may have several.
EVALUATIONS: dict[str, ModuleType] = {
    "linear": linear,
    "knn": knn,
    "mlp": mlp,
    "filters": filters,
    "maximal": maximal,
    "nmi": nmi,
    "voc-classification": voc_classification,
    "voc-classification-all": voc_classification,
    "voc-detection": voc_detection,
    "voc-detection-all": voc_detection,
    "voc-segmentation": voc_segmentation,
    "voc-segmentation-all": voc_segmentation,
    "retrieval": retrieval,
}
LABELLED = ("linear", "knn", "mlp")
"""Those that need true labels, of the run's own images or of others."""
TRANSFER = (
    "voc-classification",
    "voc-classification-all",
    "voc-detection",
    "voc-detection-all",
    "voc-segmentation",
    "voc-segmentation-all",
    "retrieval",
)
"""Those that need a data set of its own, as its distributors ship it."""
COMPARING = (*LABELLED, *TRANSFER)
"""Those that compare networks, a supervised one too if it is given."""
READ_BY = {"data": COMPARING, "validation": LABELLED, "supervised": COMPARING}
"""Options that the other evaluations would pass over in silence."""
TABLE_SUFFIXES = (".csv", ".parquet", ".md")

Name = Literal[
    "linear",
    "knn",
    "mlp",
    "filters",
    "maximal",
    "nmi",
    "voc-classification",
    "voc-classification-all",
    "voc-detection",
    "voc-detection-all",
    "voc-segmentation",
    "voc-segmentation-all",
    "retrieval",
]


def check(name: str) -> Name:
    """Return an evaluation's name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in EVALUATIONS:
        known = ", ".join(EVALUATIONS)
        raise ConfigError(f"evaluate {name}: there is none; known: {known}, table1 to table5.")
    return cast("Name", name)


def parse_protocol_keys(name: Name, assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `["ks=[1, 5]", …]` into values, each read by the type of the protocol's key.

    Raises:
        ConfigError: see `parse_assignments`.
    """
    return parse_assignments(assignments, EVALUATIONS[name].CONFIG)


def refuse_file(out: Path | None) -> None:
    """Raise ConfigError where --out is named like a table: a result is a folder."""
    if out is not None and out.suffix in TABLE_SUFFIXES:
        raise ConfigError(
            f"--out {out}: names a file, but an evaluation's result is a folder.\n"
            f"  Fix: --out {out.with_suffix('')}; the table in it is results.parquet. Only table1 "
            f"to table5 write a single file."
        )


@dataclass(frozen=True)
class Asked:
    """What a person asked for, beside the run; see `flows.evaluate`."""

    name: Name
    protocol: str | None
    overrides: Mapping[str, Any]
    data: str | None
    validation: str | None
    supervised: str | None
    result: str | None
    folder: str | None = None
    """Of the result, where it does not go into the run."""

    def refuse_unfit(self) -> None:
        """Refuse what the evaluation does not read, or lacks.

        Raises:
            ConfigError: there is such a thing, the result's name is no name, or the protocol is
                wrong.
        """
        given = {"data": self.data, "validation": self.validation, "supervised": self.supervised}
        for option, text in (given | {"out": self.folder}).items():
            refuse_url(text or "", f"--{option}")
        self.sections()
        for option, readers in READ_BY.items():
            if given[option] is not None and self.name not in readers:
                raise ConfigError(
                    f"--{option}: {self.name} does not read it.\n"
                    f"  Fix: leave it out; {', '.join(readers)} read it."
                )
        if self.name in TRANSFER and self.data is None:
            raise ConfigError(
                f"evaluate {self.name}: on which data set?\n"
                f"  Fix: --data DIR, the folder of the data set as it is distributed."
            )
        if self.result is not None and (Path(self.result).name != self.result or not self.result):
            raise ConfigError(
                f"--as {self.result}: must be a plain name, of a folder in evaluations/."
            )
        if self.result is not None and self.folder is not None:
            raise ConfigError(
                f"--as {self.result}, --out {self.folder}: both say where the result goes.\n"
                f"  Fix: --as names a folder in the run's evaluations/, --out one elsewhere; give "
                f"one of them."
            )

    @property
    def module(self) -> ModuleType:
        """The stage."""
        return EVALUATIONS[self.name]

    def sections(self) -> dict[str, StrictConfig]:
        """Return the protocol, checked."""
        shipped = f"evaluations/{self.name}.yaml"
        path = Path(self.protocol) if self.protocol else config_file(shipped)
        return {"protocol": load_protocol(path, self.module.CONFIG, self.overrides)}

    def out(self, folder: RunFolder, epoch: int) -> Path:
        """Return the folder of the result, or raise ConfigError where --out names no fit one."""
        if self.folder is not None:
            return own_folder(Path(self.folder), folder)
        return folder.artifact(f"evaluations/{self.result or self.name}", epoch)

    def data_folder(self, folder: RunFolder) -> Path:
        """Return the folder for indexed images of --data and --validation.

        The runs of a sweep share one.
        """
        if self.folder is None:
            above = folder.root.parent
            return (above if is_sweep(above) else folder.root) / "evaluations" / "_data"
        out = Path(self.folder)
        if folder.name == out.name and is_sweep(folder.root.parent):
            out = out.parent
        return out.with_name(f"{out.name}.data")
