"""What a run of 1, 10 and 100 million images takes: bytes, requests, time and money of each stage.

`python -m benchmarks.hundred_million_costs` prints the tables; `--write` puts them into
docs/how-to/hundred-million.md. Nothing is measured here: every number follows from `RATES`, each of
which says whether it was measured, extrapolated or assumed. No GPU was ever used.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks.harness import guarded
from benchmarks.machine import ROOT
from deepcluster_core.text import readable_size

PAGE = ROOT / "docs" / "how-to" / "hundred-million.md"
BEGIN = "<!-- made by python -m benchmarks.hundred_million_costs --write -->"
END = "<!-- end of what is made -->"

How = Literal["measured", "extrapolated", "assumed"]
MARKS: Mapping[How, str] = {"measured": "m", "extrapolated": "x", "assumed": "a"}


@dataclass(frozen=True)
class Rate:
    """A number that the tables follow from."""

    value: float
    unit: str
    how: How
    source: str


RATES: Mapping[str, Rate] = {
    # Time on two cores of an Intel Xeon with AMX, bfloat16.
    "index": Rate(
        3.2 / 2048, "s an image", "measured", "`epoch`, packing 2,048 JPEGs on two cores"
    ),
    "index, first rank": Rate(
        0.12e-3, "s an image", "measured", "processor time, 8,192 images of 52 kB, two busy cores"
    ),
    "extract": Rate(3.849 / 2048, "s an image", "measured", "`stages`, AlexNet on two cores"),
    "train": Rate(12.852 / 2048, "s an image", "measured", "`stages`, AlexNet on two cores"),
    "PCA, a row": Rate(
        (4.871 - 3.1) / 8192, "s a row", "measured", "`stages`, 8,192 x 4,096 on two cores"
    ),
    "PCA, eigenvalues": Rate(3.1, "s", "measured", "`stages`, D = 4,096"),
    "k-means": Rate(
        2.29e-9,
        "s a row, centroid and pass",
        "measured",
        "`hundred_million --only cluster`, 10 M x 256, k = 10,000, on two cores of an AMD EPYC",
    ),
    # Bytes.
    "original": Rate(110_000, "bytes an image", "assumed", "ImageNet's mean"),
    "packed": Rate(52_000, "bytes an image", "assumed", "JPEG, 256 px"),
    "index row": Rate(
        60, "bytes an image", "assumed", "a path of 40 bytes; regular ones compress to 16 in all"
    ),
    "labels row": Rate(
        14, "bytes an image", "measured", "`hundred_million --only tables`, 60 M rows without paths"
    ),
    "labels row with path": Rate(58, "bytes an image", "assumed", "the same, and 44 for a path"),
    "feature": Rate(2 * 256, "bytes an image", "measured", "float16, `extract.pca`, 256 values"),
    "whole feature": Rate(2 * 4096, "bytes an image", "measured", "float16, 4,096 values"),
    "checkpoint": Rate(456e6, "bytes", "measured", "AlexNet, weights and momentum"),
    "gradients": Rate(396e6, "bytes", "measured", "AlexNet's weights, k = 10,000, float32"),
    "source shard": Rate(1e9, "bytes", "assumed", "tar or Parquet files of the source"),
    "part": Rate(2**31, "bytes", "measured", "the size of a part of the packed images"),
    "shard": Rate(2**26, "bytes", "measured", "the size of a shard of features"),
    # A GPU.
    "forward": Rate(1.4e9, "FLOP an image", "assumed", "AlexNet at 224 px, counted by hand"),
    "GPU, network": Rate(1e14, "FLOP/s", "assumed", "bfloat16, a tenth of an H100's peak"),
    "GPU, float32": Rate(3e13, "FLOP/s", "assumed", "PCA and k-means, half of an H100's peak"),
    "cores of a GPU": Rate(12, "cores", "assumed", "a node with 96 cores and 8 GPUs"),
    "decode": Rate(1.5e-3, "s of a core, an image", "assumed", "a packed JPEG and its crop"),
    "NVLink": Rate(1.5e11, "bytes/s of a rank", "assumed", "within a node"),
    "network": Rate(1.25e10, "bytes/s of a rank", "assumed", "100 Gbit/s between nodes"),
    "batch": Rate(256, "images a step", "assumed", "`train.batch_size`, all ranks together"),
    # Prices, in dollars.
    "PUT": Rate(5e-6, "dollars", "assumed", "list price of an object store"),
    "GET": Rate(4e-7, "dollars", "assumed", "list price of an object store"),
    "month": Rate(0.023e-9, "dollars a byte and month", "assumed", "list price"),
    "two cores": Rate(0.10, "dollars an hour", "assumed", "list price"),
    "node": Rate(30.0, "dollars an hour", "assumed", "8 H100, list price"),
}
NUM_IMAGES = (1_000_000, 10_000_000, 100_000_000)
K, WIDTH, DIM, PASSES, SAMPLE = 10_000, 256, 4096, 21, 1_000_000
"""Clusters, dimensions before and after the PCA, 20 iterations of k-means and the assignment of all
images, and images that the PCA is fitted to."""


def value(name: str) -> float:
    """Return the value of a rate."""
    return RATES[name].value


@dataclass(frozen=True)
class Machine:
    """Where a run is made; without GPUs, on two cores."""

    name: str
    nodes: int = 0
    """Nodes of 8 GPUs each."""

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return 8 * self.nodes

    @property
    def dollars_an_hour(self) -> float:
        """The price."""
        return self.nodes * value("node") if self.nodes else value("two cores")

    @property
    def how(self) -> How:
        """How its times are known."""
        return "assumed" if self.nodes else "extrapolated"


MACHINES = (Machine("two cores"), Machine("8 GPUs", 1), Machine("8 x 8 GPUs", 8))


@dataclass(frozen=True)
class Stage:
    """A stage with so many images: what it writes, and what it asks of an object store."""

    name: str
    num_bytes: float
    puts: int
    gets: int

    @property
    def request_dollars(self) -> float:
        """The price of all requests."""
        return self.puts * value("PUT") + self.gets * value("GET")


def stages(num_images: int) -> list[Stage]:
    """Return the stages, `index` once and the others in each epoch, with `extract.pca`."""
    packed, features = num_images * value("packed"), num_images * value("feature")
    parts = math.ceil(packed / value("part"))
    shards = math.ceil(features / value("shard"))
    sources = math.ceil(num_images * value("original") / value("source shard"))
    # The table, the description or the arrays, and the manifest of an artifact.
    others = 3
    return [
        Stage("index", packed + num_images * value("index row"), parts + others, sources),
        # The sample may lie in all parts, which stay on the disk for the pass over all images.
        Stage("extract", features, shards + others, parts),
        Stage("cluster", num_images * value("labels row"), others, shards),
        Stage("train", value("checkpoint"), others, parts),
    ]


def used(stage: str, machine: Machine) -> Machine:
    """Return the part of a machine that a stage uses: the writer limits `index` on one node."""
    return MACHINES[1] if stage == "index" and machine.nodes else machine


def seconds(stage: str, num_images: int, machine: Machine) -> float:
    """Return the time that a stage takes on a machine."""
    machine = used(stage, machine)
    sample = min(SAMPLE, num_images)
    # With `extract.pca`, features of the sample are computed twice, and the PCA is fitted there.
    seen = num_images + sample if stage == "extract" else num_images
    if not machine.nodes:
        return _on_two_cores(stage, seen, sample)
    cores = machine.gpus * value("cores of a GPU")
    floats = machine.gpus * value("GPU, float32")
    if stage == "index":
        decoding_s = seen * 2 * value("index") / cores  # measured on two cores
        return max(decoding_s, seen * value("index, first rank"))
    if stage == "cluster":
        return 2.0 * seen * WIDTH * K * PASSES / floats
    passes = 1 if stage == "extract" else 3  # backward costs twice the forward pass
    computing_s = passes * seen * value("forward") / (machine.gpus * value("GPU, network"))
    loading_s = seen * value("decode") / cores
    if stage == "extract":
        pca_s = sample * DIM**2 / floats + value("PCA, eigenvalues")
        return max(computing_s, loading_s) + pca_s
    return max(computing_s, loading_s) + _exchange_s(seen, machine)


def _on_two_cores(stage: str, seen: int, sample: int) -> float:
    if stage == "cluster":
        return seen * K * PASSES * value("k-means")
    found = seen * value(stage)
    if stage == "extract":
        found += sample * value("PCA, a row") + value("PCA, eigenvalues")
    return found


def _exchange_s(seen: int, machine: Machine) -> float:
    """Return the time in which gradients are summed: a ring, after each step, not beside it."""
    rate = value("NVLink") if machine.nodes == 1 else value("network")
    moved_bytes = 2 * (machine.gpus - 1) / machine.gpus * value("gradients")
    return seen / value("batch") * moved_bytes / rate


def markdown() -> str:
    """Return the tables and what they follow from."""
    lines = [
        "Each number ends in how it is known: m measured, x extrapolated from what was measured on "
        "fewer images, a assumed. `index` runs once, the other stages in each epoch.",
        "",
        *_table(_costs_header(), _costs_rows()),
        "",
        f"AlexNet at 224 px, k = {K:,}, 20 iterations of k-means, a PCA of {SAMPLE:,} images from "
        f"{DIM:,} to {WIDTH} dimensions. Money is time and requests; storage comes to it:",
        "",
        *_table(["images", "stored", "bytes", "dollars a month"], _storage_rows()),
        "",
        "All of it follows from these rates:",
        "",
        *_table(["rate", "value", "", "from"], _rate_rows()),
    ]
    return "\n".join(lines)


def _costs_header() -> list[str]:
    names = [machine.name for machine in MACHINES]
    return ["images", "stage", "writes", "PUT", "GET", *names, *(f"$, {name}" for name in names)]


def _costs_rows() -> list[list[str]]:
    rows: list[list[str]] = []
    for num_images in NUM_IMAGES:
        for stage in stages(num_images):
            spent_s = [seconds(stage.name, num_images, machine) for machine in MACHINES]
            times: list[str] = []
            money: list[str] = []
            for machine, spent in zip(MACHINES, spent_s, strict=True):
                times.append(f"{_duration(spent)} {MARKS[machine.how]}")
                price = used(stage.name, machine).dollars_an_hour
                dollars = spent / 3600 * price + stage.request_dollars
                money.append(f"{_dollars(dollars)} a")
            how = "a" if stage.name == "index" else "x"
            written = f"{readable_size(round(stage.num_bytes))} {how}"
            requests = [f"{stage.puts:,} {how}", f"{stage.gets:,} a"]
            rows.append([_millions(num_images), stage.name, written, *requests, *times, *money])
    return rows


def _storage_rows() -> list[list[str]]:
    rows: list[list[str]] = []
    kinds = {
        "packed images": ("packed", "a"),
        "index": ("index row", "a"),
        "features of an epoch, `extract.pca`": ("feature", "x"),
        "features of an epoch, whole": ("whole feature", "x"),
        "labels of an epoch, `cluster.paths: false`": ("labels row", "x"),
        "labels of an epoch, with paths": ("labels row with path", "a"),
    }
    for num_images in NUM_IMAGES:
        for title, (name, mark) in kinds.items():
            num_bytes = num_images * value(name)
            size = f"{readable_size(round(num_bytes))} {mark}"
            dollars = _dollars(num_bytes * value("month"))
            rows.append([_millions(num_images), title, size, f"{dollars} a"])
    return rows


def _rate_rows() -> list[list[str]]:
    return [
        [name, f"{rate.value:,.4g} {rate.unit}", MARKS[rate.how], rate.source]
        for name, rate in RATES.items()
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _millions(num_images: int) -> str:
    return f"{num_images // 1_000_000} M"


def _duration(spent_s: float) -> str:
    """Return a time with two digits: nothing here is known better."""
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if spent_s >= 2 * unit_s:
            return f"{float(f'{spent_s / unit_s:.2g}'):,.3g} {unit}"
    return f"{spent_s:.2g} s"


def _dollars(dollars: float) -> str:
    if dollars < 0.01:
        return "< 0.01"
    return f"{float(f'{dollars:.2g}'):,.10g}"


def with_tables(text: str) -> str:
    """Return a page with the tables between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown()}\n\n{END}{after}"


def main(argv: list[str] | None = None, *, page: Path = PAGE) -> None:
    """Print the tables, and write them if asked to."""
    arguments = argparse.ArgumentParser(
        "python -m benchmarks.hundred_million_costs", description=__doc__
    )
    arguments.add_argument("--write", action="store_true", help=f"write them into {PAGE.name}")
    given = arguments.parse_args(argv)
    Console(highlight=False, soft_wrap=True, markup=False).print(markdown())
    if given.write:
        page.write_text(with_tables(page.read_text()))


if __name__ == "__main__":
    sys.exit(guarded(main))
