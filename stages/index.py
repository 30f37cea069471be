"""Index: source -> images. Every image is opened once, gets its image_id, and is packed."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.images import Encoding, ImagesWriter, PackedImage, encode
from deepcluster_core.config import StrictConfig
from deepcluster_core.data.decode import UnreadableImageError, decode
from deepcluster_core.data.deep_values import Deep
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.sources import Kind, Source, SourceImage, open_source
from deepcluster_core.data.unreadable import Reasons
from deepcluster_core.errors import SourceError
from deepcluster_core.local_paths import usable_path
from deepcluster_core.shortage import is_shortage
from deepcluster_core.stage import stage

READ_AT_ONCE = 32


def _list_to_tuple(value: object) -> object:
    """Let strict validation take what YAML has instead of tuples."""
    return tuple(value) if isinstance(value, list) else value


class DatasetConfig(StrictConfig):
    """Which images, and how they are packed."""

    absent_when_none = frozenset(("image_key",))

    source: Path
    """A folder, a list (.txt, .csv), Parquet files or tar shards. Relative to the recipe."""

    kind: Kind = "auto"
    """How `source` is read; auto looks at what lies there."""

    labels: Literal["auto", "none"] = "auto"
    """Labels that the source happens to have (class folders, a label column) are used to score
    clusters, never to train. none: forget them."""

    image_key: Annotated[
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
        | None,
        BeforeValidator(_list_to_tuple),
    ] = None
    """Which picture of a sample, where it has several. Tar shards: its extension, such as
    `left.jpg`, or a list of extensions, each of which is an image. Parquet: its column. None: the
    only picture; masks and the like are left out."""

    subset: PositiveInt | None = None
    """Use a random subset of this many images, drawn by the run's seed. None: all."""

    shorter_side: PositiveInt | None = 256
    """Pixels. Images are packed with their shorter side resized to this; `Resize 256` of the
    authors' loader. Training crops are then taken from the resized image, not the original: a
    deviation that saves decoding a full-size picture twice in every epoch. None: the size stays."""

    channels: int = Field(default=3, ge=1, le=1024)
    """1 grey, 3 colour; other numbers need sources in .npy files."""

    encoding: Encoding = "jpeg"
    """How pixels are packed: raw (fastest, about 260 kB an image at 256 px), jpeg, png, or none to
    read and decode the original files in every epoch."""

    jpeg_quality: int = Field(default=95, ge=50, le=100)
    """Of packed JPEGs. At 95 the second compression is invisible; our choice."""

    deep: Deep = "range"
    """16-bit pictures: range keeps the scale of all values, stretch maps each picture's own
    darkest and brightest value to 0 and 255."""

    max_skipped_fraction: float = Field(default=0.01, ge=0, le=1)
    """The stage fails when more than this share of the images, 0 to 1, cannot be read."""

    @field_validator("source")
    @classmethod
    def _named(cls, source: Path) -> Path:
        if source == Path():  # relative ones are absolute by now: the text was empty
            raise ValueError("is empty; a dot means the folder of the recipe")
        return usable_path(source)

    def open_source(self) -> Source:
        """Open the source without reading an image.

        Raises:
            SourceError: it is not there, or not of this kind.
            ConfigError: `image_key` does not fit it.
        """
        return open_source(
            self.source, kind=self.kind, labels=self.labels, image_key=self.image_keys
        )

    @property
    def image_keys(self) -> tuple[str, ...] | None:
        """`image_key` as a tuple, if it is given."""
        return (self.image_key,) if isinstance(self.image_key, str) else self.image_key


def _check_source(dataset: DatasetConfig) -> None:
    """Raise SourceError if the source is missing, or cannot be read without packing it."""
    opened = dataset.open_source()
    if dataset.encoding == "none" and opened.originals is None:
        raise SourceError(
            f"dataset.encoding: none reads the original files, but {dataset.source} holds many "
            f"images in one.\n  Fix: dataset.encoding: raw, jpeg or png."
        )


@stage(
    name="index",
    version=2,
    kind="images",
    files=(INDEX, SKIPPED, PIXELS),
    check=_check_source,
)
def index(
    draft: Draft,
    dataset: DatasetConfig,
    /,
    *,
    source: str,
) -> None:
    """Write the images artifact. `source` is the fingerprint of the source, part of the key."""
    context = draft.context
    out = draft.folder
    opened = dataset.open_source()
    total, images = _choose(opened, dataset.subset, context.seed)
    with ImagesWriter(out, packs=dataset.encoding != "none") as writer:
        seen = 0
        for results in ordered_map(
            partial(_read_all, dataset=dataset, originals=opened.originals),
            _groups(images),
            workers=context.workers,
        ):
            for store in results:
                store(writer)
            seen += len(results)
            context.progress(seen, total)
    _refuse_losses(writer, dataset, out)
    draft.rows = writer.num_images
    draft.facts = {
        "encoding": dataset.encoding,
        "channels": dataset.channels,
        "shorter_side": dataset.shorter_side,
        "deep": dataset.deep,
        "originals": str(opened.originals),
        "skipped": len(writer.skipped),
        "labelled": writer.num_labelled,
    }
    if notes := opened.notes():
        draft.facts["notes"] = notes


def _choose(
    source: Source, subset: int | None, seed: int
) -> tuple[int | None, Iterator[SourceImage]]:
    """Return how many images come, if that is known, and the images themselves."""
    if subset is None:
        return source.count(), source.images()
    total = source.count()
    if total is None:
        total = sum(1 for _ in source.images())
    if subset > total:
        raise SourceError(
            f"dataset.subset: {subset} images asked for, but the source has {total}.\n"
            f"  Fix: leave dataset.subset out to use all of them."
        )
    draw = seeding.numpy_generator(seed, "index", "subset")
    wanted = np.zeros(total, bool)
    wanted[draw.choice(total, subset, replace=False)] = True
    chosen = (image for image, take in zip(source.images(), wanted, strict=True) if take)
    return subset, chosen


def _groups(images: Iterator[SourceImage]) -> Iterator[list[SourceImage]]:
    while group := list(islice(images, READ_AT_ONCE)):
        yield group


def _read_all(
    images: list[SourceImage], *, dataset: DatasetConfig, originals: Path | None
) -> list[Callable[[ImagesWriter], None]]:
    return [_read(image, dataset, originals) for image in images]


def _read(
    image: SourceImage, dataset: DatasetConfig, originals: Path | None
) -> Callable[[ImagesWriter], None]:
    """Decode one image; return what the writer has to do with it."""
    try:
        if dataset.encoding == "none" and originals and not (originals / image.path).exists():
            raise OSError("missing, or its name is not UTF-8: to use it, pack the images")
        decoded = decode(
            image.read(),
            channels=dataset.channels,
            shorter_side=dataset.shorter_side,
            deep=dataset.deep,
        )
        packed = encode(decoded.pixels_HWC, dataset.encoding, dataset.jpeg_quality)
    except (OSError, UnreadableImageError) as error:
        if is_shortage(error):  # the image may be good
            raise
        reason = str(error)
        return lambda writer: writer.skip(image.path, reason)
    height, width = decoded.pixels_HWC.shape[:2]
    row = PackedImage(
        path=image.path,
        label=image.label,
        width=decoded.width,
        height=decoded.height,
        format=decoded.format,
        packed_height=height,
        packed_width=width,
        packed=packed,
    )
    return lambda writer: writer.add(row)


def _refuse_losses(writer: ImagesWriter, dataset: DatasetConfig, out: Path) -> None:
    num_skipped = len(writer.skipped)
    total = writer.num_images + num_skipped
    if total == 0:
        raise SourceError(f"{dataset.source}: holds no images.\n  Fix: see dataset.source.")
    if num_skipped > dataset.max_skipped_fraction * total or writer.num_images == 0:
        told = (f"{path}: {reason}".replace("\n", "\\n") for path, reason in writer.skipped[:5])
        examples = "".join(f"\n    {line}" for line in told)
        gone = sum(reason.startswith("No such file") for _, reason in writer.skipped)
        reasons = Reasons()
        for _, reason in writer.skipped:
            reasons.add(reason)
        is_any_readable = writer.num_images > 0
        ways = ", or raise dataset.max_skipped_fraction" if is_any_readable else ""
        raise SourceError(
            f"{dataset.source}: {num_skipped} of {total} images cannot be read"
            f"{f' ({gone} of them do not exist)' if gone else ''}, more than "
            f"dataset.max_skipped_fraction = {dataset.max_skipped_fraction} allows.{examples}"
            f"{reasons.most_common()}\n"
            f"  The whole list: {out / SKIPPED}\n"
            f"  Fix: convert, repair or remove them{ways}."
        )
