"""Index: source -> images. Every image is opened once, packed, and given its image_id."""

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
from deepcluster_core.data.sources.geotiff import GeotiffSource
from deepcluster_core.data.unreadable import LeftOutError
from deepcluster_core.errors import SourceError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.local_paths import usable_path
from deepcluster_core.shortage import is_shortage
from deepcluster_core.stage import stage

READ_AT_ONCE = 32
"""Images that one worker reads before it takes the next group."""


def _list_to_tuple(value: object) -> object:
    """Convert a list from YAML to a tuple, which strict validation requires."""
    return tuple(value) if isinstance(value, list) else value


class DatasetConfig(StrictConfig):
    """Which images are used, and how they are packed."""

    absent_when_none = frozenset(("image_key", "label_key", "tile"))

    source: Path
    """A folder, a list (.txt, .csv), Parquet files, tar shards or GeoTIFF scenes. A relative path
    starts at the recipe's folder."""

    kind: Kind = "auto"
    """How `source` is read. auto: detect it from the files; GeoTIFF scenes must be named, or have
    `tile`."""

    labels: Literal["auto", "none"] = "auto"
    """auto: if the source has labels (class folders, a label column), use them to score clusters,
    never to train. none: ignore them."""

    image_key: Annotated[
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
        | None,
        BeforeValidator(_list_to_tuple),
    ] = None
    """Which picture to use if a sample has several. In tar shards: its extension, such as
    `left.jpg`, or a list of extensions, each of which becomes an image. In Parquet: its column.
    None: the only picture of the sample; masks and the like are ignored."""

    label_key: Annotated[str, Field(min_length=1)] | None = None
    """Where the label of a sample is. In tar shards: the key in its JSON. In Parquet: the column.
    None: the usual names are tried."""

    tile: TileConfig | None = None
    """Cut GeoTIFF scenes into windows, each of which is an image. None: `size` 256, if `kind` is
    geotiff."""

    subset: PositiveInt | None = None
    """Use a random subset of this many images, drawn with the run's seed. None: use all."""

    shorter_side: PositiveInt | None = 256
    """Pixels of the shorter side of a packed image, as `Resize 256` in the authors' loader.
    Training crops are then taken from the resized image, not from the original. This deviation
    saves decoding a full-size picture twice in every epoch. None: keep the original size."""

    channels: int = Field(default=3, ge=1, le=1024)
    """1 for grey, 3 for colour. Any other number requires images in .npy files."""

    encoding: Encoding = "jpeg"
    """How pixels are packed: raw (fastest; about 260 kB per image at 256 px), jpeg, or png. none:
    read and decode the original files in every epoch."""

    jpeg_quality: int = Field(default=95, ge=50, le=100)
    """Quality of packed JPEGs. At 95, our choice, the second compression is invisible."""

    deep: Deep = "range"
    """How 16-bit pictures become 8-bit ones. range: keep one scale for all pictures. stretch: map
    the darkest and brightest value of each picture to 0 and 255."""

    max_skipped_fraction: float = Field(default=0.01, ge=0, le=1)
    """The stage fails if more than this share of the images, 0 to 1, cannot be read."""

    @field_validator("source")
    @classmethod
    def _named(cls, source: Path) -> Path:
        # Relative paths were made absolute before, so an empty path means an empty text.
        if source == Path():
            raise ValueError("is empty; a dot means the folder of the recipe")
        return usable_path(source)

    def open_source(self) -> Source:
        """Open the source without reading an image.

        Raises:
            SourceError: the source does not exist, or is not of this kind.
            ConfigError: `image_key`, `label_key` or `tile` does not fit the source, or `channels`
                the bands of its scenes.
        """
        source = open_source(
            self.source,
            kind=self.kind,
            labels=self.labels,
            image_key=self.image_keys,
            label_key=self.label_key,
            tile=self.tile,
        )
        if isinstance(source, GeotiffSource):
            source.check_channels(self.channels)
        return source

    @property
    def has_scenes(self) -> bool:
        """Whether the images are windows of GeoTIFF scenes."""
        return self.kind == "geotiff" or self.tile is not None

    @property
    def image_keys(self) -> tuple[str, ...] | None:
        """`image_key` as a tuple; None if it is not set."""
        if isinstance(self.image_key, str):
            return (self.image_key,)
        return self.image_key


def _check_source(dataset: DatasetConfig) -> None:
    """Raise SourceError if the source is missing, or needs packing although `encoding` is none."""
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
    """Write the images artifact. `source` is the source's fingerprint, a part of the key."""
    context = draft.context
    out = draft.folder
    opened = dataset.open_source()
    total, images = _choose(opened, dataset.subset, context.seed)
    # Workers decode in parallel; only this thread writes, in the order of the source.
    read_group = partial(_read_all, dataset=dataset, originals=opened.originals)
    with ImagesWriter(out, packs=dataset.encoding != "none") as writer:
        seen = 0
        for stores in ordered_map(read_group, _groups(images), workers=context.workers):
            for store in stores:
                store(writer)
            seen += len(stores)
            context.progress(seen, total)
    _check_losses(writer, dataset, out)
    draft.rows = writer.num_images
    draft.facts = {
        "encoding": dataset.encoding,
        "channels": dataset.channels,
        "shorter_side": dataset.shorter_side,
        "deep": dataset.deep,
        "originals": str(opened.originals),
        "skipped": writer.skipped.num_images,
        "labelled": writer.num_labelled,
    }
    if writer.skipped.num_left_out:
        draft.facts["left_out"] = writer.skipped.num_left_out
    notes = _notes(writer, opened)
    if notes:
        draft.facts["notes"] = notes


def _notes(writer: ImagesWriter, source: Source) -> list[str]:
    """Return notes for users, one sentence each."""
    notes = source.notes()
    num_left_out = writer.skipped.num_left_out
    if num_left_out:
        notes.append(f"skipped on purpose, and not lost: {num_left_out:,}")
    return notes


def _choose(
    source: Source, subset: int | None, seed: int
) -> tuple[int | None, Iterator[SourceImage]]:
    """Return the number of images, None if it is unknown, and the images themselves."""
    if subset is None:
        return source.count(), source.images()
    total = source.count()
    # Some sources can only be counted by going through all images.
    if total is None:
        total = sum(1 for _ in source.images())
    if subset > total:
        raise SourceError(
            f"dataset.subset: {subset} images asked for, but the source has {total}.\n"
            f"  Fix: leave dataset.subset out to use all of them."
        )
    # A mask, and not a list of drawn numbers, keeps the images in the order of the source.
    generator = seeding.numpy_generator(seed, "index", "subset")
    is_chosen = np.zeros(total, bool)
    is_chosen[generator.choice(total, subset, replace=False)] = True
    chosen = (image for image, take in zip(source.images(), is_chosen, strict=True) if take)
    return subset, chosen


def _groups(images: Iterator[SourceImage]) -> Iterator[list[SourceImage]]:
    """Yield images in groups, because handing single ones to workers would cost more time."""
    while group := list(islice(images, READ_AT_ONCE)):
        yield group


def _read_all(
    images: list[SourceImage], *, dataset: DatasetConfig, originals: Path | None
) -> list[Callable[[ImagesWriter], None]]:
    """Decode a group of images in a worker; see `_read`."""
    return [_read(image, dataset, originals) for image in images]


def _read(
    image: SourceImage, dataset: DatasetConfig, originals: Path | None
) -> Callable[[ImagesWriter], None]:
    """Decode one image; return a callback that adds it to the writer or records why it cannot."""
    try:
        # Without packing, later stages open the original by its path in the index.
        if dataset.encoding == "none" and originals:
            original = originals / image.path
            if not original.exists():
                raise OSError("missing, or its name is not UTF-8: to use it, pack the images")
        decoded = decode(
            image.read(),
            channels=dataset.channels,
            shorter_side=dataset.shorter_side,
            deep=dataset.deep,
        )
        packed = encode(decoded.pixels_HWC, dataset.encoding, dataset.jpeg_quality)
    except LeftOutError as error:
        left_out = str(error)
        return lambda writer: writer.skip(image.path, left_out, is_loss=False)
    except (OSError, UnreadableImageError) as error:
        if is_shortage(error):  # memory or disk ran out, so the image itself may be good
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


def _check_losses(writer: ImagesWriter, dataset: DatasetConfig, out: Path) -> None:
    """Raise SourceError if no image, or too small a share of the images, could be read."""
    skipped = writer.skipped
    num_skipped = skipped.num_images - skipped.num_left_out
    total = writer.num_images + num_skipped
    if total == 0 and skipped.num_left_out:
        raise SourceError(
            f"{dataset.source}: all {skipped.num_left_out} windows are left out: they have "
            f"no data, or too little.\n  Fix: see dataset.tile.skip_empty."
        )
    if total == 0:
        raise SourceError(f"{dataset.source}: holds no images.\n  Fix: see dataset.source.")
    max_skipped = dataset.max_skipped_fraction * total
    if num_skipped <= max_skipped and writer.num_images > 0:
        return
    # Show the first images, and count the reasons of all.
    examples = ""
    for path, reason in skipped.examples:
        line = f"{path}: {reason}".replace("\n", "\\n")
        examples += f"\n    {line}"
    num_missing = skipped.num_missing
    missing = f" ({num_missing} of them do not exist)" if num_missing else ""
    # Without a single readable image, a higher limit would not help.
    alternative = ", or raise dataset.max_skipped_fraction" if writer.num_images else ""
    raise SourceError(
        f"{dataset.source}: {num_skipped} of {total} images cannot be read{missing}, more than "
        f"dataset.max_skipped_fraction = {dataset.max_skipped_fraction} allows.{examples}"
        f"{skipped.reasons.most_common()}\n"
        f"  The whole list: {out / SKIPPED}\n"
        f"  Fix: convert, repair or remove them{alternative}."
    )
