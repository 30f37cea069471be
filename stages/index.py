"""Index: source -> images. Every image is opened once, packed, and given its image_id."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from deepcluster_core import seeding
from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.images import (
    Encoding,
    ImagesWriter,
    deep_rule,
)
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.deep_scales import Deep, DeepRule, DeepScales
from deepcluster_core.data.findings import Findings
from deepcluster_core.data.loader import ordered_map
from deepcluster_core.data.measuring import default_deep, measure
from deepcluster_core.data.packing import Packing
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.sources import Kind, Source, SourceImage, open_source
from deepcluster_core.data.sources.geotiff import GeotiffSource
from deepcluster_core.data.sources.stack_pages import pages_as_images
from deepcluster_core.errors import SourceError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.local_paths import usable_path
from deepcluster_core.stage import ManifestOf, stage

READ_AT_ONCE = 32
"""Images that one worker reads before it takes the next group."""


def _list_to_tuple(value: object) -> object:
    """Convert a list from YAML to a tuple, which strict validation requires."""
    return tuple(value) if isinstance(value, list) else value


class DatasetConfig(StrictConfig):
    """Which images are used, and how they are packed."""

    absent_when_none = frozenset(("image_key", "label_key", "pages", "tile"))
    keyed_when_none: ClassVar[Mapping[str, str]] = {"deep": "range"}

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
    """1 for grey, 3 for colour. Any other number requires TIFF files of as many bands, or images in
    .npy files."""

    pages: Pages | None = None
    """Which pages of a TIFF stack, or frames of a DICOM file, are used. first: the first one. all:
    each is an image of its own, `stack.tif#page=2`. max: the maximum of all, pixel by pixel. None:
    the first one, and a note that there are others."""

    encoding: Encoding = "jpeg"
    """How pixels are packed: raw (fastest; about 260 kB per image at 256 px), jpeg, or png. none:
    read and decode the original files in every epoch."""

    jpeg_quality: int = Field(default=95, ge=50, le=100)
    """Quality of packed JPEGs. At 95, our choice, the second compression is invisible."""

    deep: Deep | None = None
    """How pictures of more than 8 bits become 8-bit ones. percentile: the values of which 0.1 % are
    lower and 0.1 % higher, over the whole data set, become 0 and 255, channel by channel. range:
    keep one scale for all pictures, 0 to 65535. stretch: map the darkest and brightest value of
    each picture to 0 and 255. None: percentile if one of the first 32 images has more than 8 bits,
    and `tile.range` does not say what is black and white; a run keeps what it began with."""

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

    def settled_deep(self, source: Source) -> Deep:
        """Return `deep`; if it is not set, what the first images and `tile.range` suggest."""
        if self.deep is not None:
            return self.deep
        if self.tile is not None and self.tile.range is not None:
            return "range"  # windows are scaled to all 16 bits already
        return default_deep(source.images())

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
    if dataset.encoding == "none" and dataset.pages == "all":
        raise SourceError(
            "dataset.encoding: none reads one image from each file, but dataset.pages: all makes "
            "several.\n  Fix: dataset.encoding: raw, jpeg or png."
        )
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
    scales_of: ManifestOf | None = None,
) -> None:
    """Write the images artifact.

    `source` is the source's fingerprint, a part of the key. `scales_of` is another images artifact
    whose percentiles are used, so that its images and these have the same brightness.
    """
    context = draft.context
    out = draft.folder
    opened = dataset.open_source()
    total, images = _choose(opened, dataset, context.seed)
    if scales_of is not None:
        deep = deep_rule(scales_of)
    else:
        deep = _rule(opened, dataset, context)
    # Workers decode in parallel; only this thread writes, in the order of the source.
    packing = Packing(
        channels=dataset.channels,
        shorter_side=dataset.shorter_side,
        deep=deep,
        pages=dataset.pages,
        encoding=dataset.encoding,
        jpeg_quality=dataset.jpeg_quality,
        originals=opened.originals,
    )
    findings = Findings(dataset.pages)
    with ImagesWriter(out, packs=dataset.encoding != "none") as writer:
        seen = 0
        for outcomes in ordered_map(packing.pack_all, _groups(images), workers=context.workers):
            for outcome in outcomes:
                outcome.record(writer, findings)
            seen += len(outcomes)
            context.progress(seen, total)
    _check_losses(writer, dataset, out)
    draft.rows = writer.num_images
    draft.facts = _facts(writer, dataset, deep, opened)
    notes = opened.notes()
    if writer.skipped.num_left_out:
        notes.append(f"skipped on purpose, and not lost: {writer.skipped.num_left_out:,}")
    notes += findings.notes()
    if isinstance(deep, DeepScales):
        notes += deep.sentences()
    for name, texts in (("notes", notes), ("warnings", findings.warnings())):
        if texts:
            draft.facts[name] = texts


def _facts(
    writer: ImagesWriter, dataset: DatasetConfig, deep: DeepRule, source: Source
) -> dict[str, Any]:
    """Return what the manifest says about the images."""
    facts: dict[str, Any] = {
        "encoding": dataset.encoding,
        "channels": dataset.channels,
        "shorter_side": dataset.shorter_side,
        **_deep_facts(deep),
        "originals": str(source.originals),
        "skipped": writer.skipped.num_images,
        "labelled": writer.num_labelled,
    }
    if dataset.pages is not None:
        facts["pages"] = dataset.pages
    if writer.skipped.num_left_out:
        facts["left_out"] = writer.skipped.num_left_out
    return facts


def _rule(opened: Source, dataset: DatasetConfig, context: Context) -> DeepRule:
    """Return how values of more than 8 bits become 8 bits; percentiles are measured."""
    deep = dataset.settled_deep(opened)
    if deep != "percentile":
        return deep
    total, _ = _choose(opened, dataset, context.seed)
    return measure(
        lambda: _choose(opened, dataset, context.seed)[1],
        total,
        channels=dataset.channels,
        pages=dataset.pages,
        workers=context.workers,
    )


def _deep_facts(deep: DeepRule) -> dict[str, Any]:
    """Return the facts of the manifest that `deep_rule` reads."""
    if isinstance(deep, DeepScales):
        return {"deep": "percentile", "deep_scales": deep.facts()}
    return {"deep": deep}


def _choose(
    source: Source, dataset: DatasetConfig, seed: int
) -> tuple[int | None, Iterator[SourceImage]]:
    """Return the number of images, None if it is unknown, and the images themselves."""
    subset = dataset.subset
    # How many pages there are is known only when all files have been opened.
    total = None if dataset.pages == "all" else source.count()
    if subset is None:
        return total, _images(source, dataset)
    # Some sources can only be counted by going through all images.
    if total is None:
        total = sum(1 for _ in _images(source, dataset))
    if subset > total:
        raise SourceError(
            f"dataset.subset: {subset} images asked for, but the source has {total}.\n"
            f"  Fix: leave dataset.subset out to use all of them."
        )
    # A mask, and not a list of drawn numbers, keeps the images in the order of the source.
    generator = seeding.numpy_generator(seed, "index", "subset")
    is_chosen = np.zeros(total, bool)
    is_chosen[generator.choice(total, subset, replace=False)] = True
    images = zip(_images(source, dataset), is_chosen, strict=True)
    return subset, (image for image, take in images if take)


def _images(source: Source, dataset: DatasetConfig) -> Iterator[SourceImage]:
    """Return the images of a source: its files, or the pages of its files."""
    if dataset.pages == "all":
        return pages_as_images(source.images())
    return source.images()


def _groups(images: Iterator[SourceImage]) -> Iterator[list[SourceImage]]:
    """Yield images in groups, because handing single ones to workers would cost more time."""
    while group := list(islice(images, READ_AT_ONCE)):
        yield group


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
    num_missing = skipped.num_missing
    missing = f" ({num_missing} of them do not exist)" if num_missing else ""
    # Without a single readable image, a higher limit would not help.
    alternative = ", or raise dataset.max_skipped_fraction" if writer.num_images else ""
    raise SourceError(
        f"{dataset.source}: {num_skipped} of {total} images cannot be read{missing}, more than "
        f"dataset.max_skipped_fraction = {dataset.max_skipped_fraction} allows.{skipped.listed()}"
        f"{skipped.reasons.most_common()}\n"
        f"  The whole list: {out / SKIPPED}\n"
        f"  Fix: {_cure(skipped.listed())}convert, repair or remove them{alternative}."
    )


def _cure(reasons: str) -> str:
    """Return the settings that read files of other numbers of bands, if some were skipped."""
    if "dataset.channels: " not in reasons:
        return ""
    return (
        "set dataset.channels, and for GeoTIFF scenes dataset.tile.size, which cuts them into "
        "windows; otherwise "
    )
