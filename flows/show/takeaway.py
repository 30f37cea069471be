"""What the commands print that write tables, folders of images and choices of images."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from deepcluster_core.errors import ConfigError
from deepcluster_core.inspection.layout import LayoutMethod
from deepcluster_core.progress import Progress
from deepcluster_core.text import duration, printable, share
from flows.show.terminal import console_for_tables, short
from stages.runs.past_run import PastRun
from stages.runs.progress import bar, lines

# What computes is imported where it is called: wrong options are reported at once.
if TYPE_CHECKING:
    from stages.runs.outputs.duplicate_images import Duplicates
    from stages.runs.outputs.image_table import TableRequest
    from stages.runs.outputs.picked_images import Picked
    from stages.runs.outputs.sorted_images import SortRequest

MEANINGS = {
    "cluster": "drawn from all clusters in turn",
    "border": "almost as near to a second cluster",
    "outlier": "least like any other image",
}


@dataclass(frozen=True)
class TableOptions:
    """The options of `deepcluster table` as they were typed."""

    columns: str | None
    embedding: bool
    thumbnails: bool
    without_features: bool
    layout: str

    def request(self) -> "TableRequest":
        """Return the request; raise ConfigError if the layout is unknown."""
        from stages.runs.outputs.image_table import TableRequest  # noqa: PLC0415

        methods = get_args(LayoutMethod)
        if self.layout not in methods:
            raise ConfigError(
                f"--map {self.layout}: is not known.\n  Fix: choose from {', '.join(methods)}."
            )
        columns = None
        if self.columns is not None:
            columns = tuple(name.strip() for name in self.columns.split(","))
        return TableRequest(
            columns=columns,
            embedding=self.embedding,
            thumbnails=self.thumbnails,
            without_features=self.without_features,
            method=cast("LayoutMethod", self.layout),
        )


def show_table_written(run: str, out: Path, epoch: int | None, options: TableOptions) -> None:
    """Write a table of images, and print what is in it."""
    from stages.runs.outputs.image_table import write_image_table  # noqa: PLC0415

    request = options.request()
    start = time.monotonic()
    past = PastRun.open(run)
    with _progress("neighbours") as progress:
        written = write_image_table(past, out, request, epoch=epoch, progress=progress)
    seconds = duration(time.monotonic() - start)
    console = console_for_tables()
    console.print(f"{short(out)}: {written.num_images:,} images, epoch {written.epoch}, {seconds}")
    console.print(f"columns: {', '.join(written.columns)}")
    _print_remark(written.remark)


def show_sorted(run: str, out: Path, epoch: int | None, request: "SortRequest") -> None:
    """Put images into folders, and print how many."""
    from stages.runs.outputs.sorted_images import sort_images  # noqa: PLC0415

    past = PastRun.open(run)
    with _progress("sort") as progress:
        found = sort_images(past, out, request, epoch=epoch, progress=progress)
    console = console_for_tables()
    what = "lists" if request.how == "list" else "folders"
    console.print(
        f"{short(out)}: {found.num_images:,} images of epoch {found.epoch} in "
        f"{found.num_clusters:,} {what}; images.parquet lists them"
    )
    if found.num_decoded:
        console.print(
            f"{found.num_decoded:,} of them have no file of their own in the source: they are "
            f"written as the run has packed them, {' and '.join(found.decoded_kinds)}"
        )


def show_picked(
    run: str, num_images: int, *, out: Path | None, epoch: int | None, seed: int | None, limit: int
) -> None:
    """Choose images to label, and print them with the reason for each."""
    from stages.runs.outputs.picked_images import pick_images  # noqa: PLC0415

    past = PastRun.open(run)
    with _progress("neighbours") as progress:
        picked = pick_images(past, num_images, out=out, epoch=epoch, seed=seed, progress=progress)
    console = console_for_tables()
    unlabelled = " without a label" if picked.only_unlabelled else ""
    console.print(
        f"epoch {picked.epoch}: {len(picked.images):,} of {picked.num_candidates:,} images"
        f"{unlabelled}\n"
    )
    _print_remark(picked.remark)
    _print_reasons(picked)
    console.print(f"\n{'image_id':>9}  {'why':<44}  path")
    for one in picked.images[:limit]:
        console.print(f"{one.image_id:9}  {one.why:<44}  {printable(one.path)}")
    _print_rest(len(picked.images), limit)
    _print_written(out, "all of them")


def _print_reasons(picked: "Picked") -> None:
    counts = Counter(one.reason for one in picked.images)
    for reason, meaning in MEANINGS.items():
        console_for_tables().print(f"{counts[reason]:7,}  {reason:<8} {meaning}")


def show_duplicates(
    run: str, *, threshold: float | None, out: Path | None, epoch: int | None, limit: int
) -> None:
    """Find images that are nearly equal, and print the first groups."""
    from stages.runs.outputs.duplicate_images import find_duplicates  # noqa: PLC0415

    past = PastRun.open(run)
    with _progress("neighbours") as progress:
        found = find_duplicates(past, threshold=threshold, out=out, epoch=epoch, progress=progress)
    console = console_for_tables()
    num_grouped = sum(map(len, found.groups))
    console.print(
        f"epoch {found.epoch}: {num_grouped:,} of {found.num_images:,} images in "
        f"{len(found.groups):,} groups; {found.num_surplus:,} could go\n"
    )
    _print_remark(found.remark)
    _print_threshold(found)
    for number, group in enumerate(found.groups[:limit]):
        console.print(f"\ngroup {number}: {len(group):,} images")
        for one in group[:5]:
            path = printable(one.path)
            console.print(f"{one.similarity:10.4f}  cluster {one.cluster:<5} {path}")
        if len(group) > 5:
            console.print(f"{'':12}… and {len(group) - 5:,} more")
    _print_rest(len(found.groups), limit)
    is_list = out is not None and out.suffix == ".txt"
    _print_written(out, f"the {found.num_surplus:,} that could go" if is_list else "all groups")


def _print_threshold(found: "Duplicates") -> None:
    """Print what the threshold means in this run."""
    console = console_for_tables()
    console.print(
        f"threshold {found.threshold:.4f}: the cosine of two images' features, which is 1 if the "
        f"network sees\nno difference. A threshold suits one epoch of one run."
    )
    quantiles = [f"{value:.4f} for {share(part)}" for part, value in found.quantiles.items()]
    console.print(f"The most similar other image is at most {', '.join(quantiles)} of the images.")
    if found.threshold != found.suggested:
        console.print(f"Closer than usual in this run are images from {found.suggested:.4f} on.")


def _print_remark(remark: str | None) -> None:
    if remark is not None:
        console_for_tables().print(remark)


def _print_rest(num_all: int, limit: int) -> None:
    if num_all > limit:
        console_for_tables().print(f"… and {num_all - limit:,} more; --limit {num_all} shows all")


def _print_written(out: Path | None, contents: str) -> None:
    if out is not None:
        console_for_tables().print(f"\n{short(out)}: {contents}")


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """Show progress as a bar on a terminal, elsewhere as a line now and then."""
    console = console_for_tables()
    if console.is_terminal:
        with bar(title, console) as progress:
            yield progress
    else:
        yield lines(title, console.print)
