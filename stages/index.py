"""Index: source -> images. Every image is opened once, packed, and given its image_id."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import COLOURS, INDEX, PIXELS, SKIPPED
from deepcluster_core.artifacts.images import deep_facts, deep_rule, rule_in
from deepcluster_core.artifacts.images_writer import ImagesWriter
from deepcluster_core.artifacts.index_saves import IndexSave
from deepcluster_core.artifacts.outcomes import forget_units
from deepcluster_core.artifacts.packing import Encoding, Packing
from deepcluster_core.config import StrictConfig
from deepcluster_core.context import Context
from deepcluster_core.data.deep_scales import Deep, DeepRule, DeepScales
from deepcluster_core.data.findings import Findings
from deepcluster_core.data.grey import WHOLE
from deepcluster_core.data.measuring import default_deep, measure
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.sources import Kind, Source, open_source
from deepcluster_core.data.sources.downloads import Scratch
from deepcluster_core.data.sources.geotiff import GeotiffSource
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.local_paths import usable_path
from deepcluster_core.stage import ManifestOf, stage
from deepcluster_core.store_urls import Location, LocationField, StoreUrl
from stages.chosen_images import Choice
from stages.index_ranks import Outcomes, outcomes_of
from stages.lost_images import check_losses
from stages.packed_images import Reading, record
from stages.saved_index import FullParts, SavedIndex, saved_index

_Weight = Annotated[int, Field(ge=0, le=WHOLE)]


class DatasetConfig(StrictConfig):
    """Which images are used, and how they are packed."""

    absent_when_none = frozenset(
        ("image_key", "label_key", "pages", "tile", "grey_weights", "colour_copies")
    )
    keyed_when_none: ClassVar[Mapping[str, str]] = {"deep": "range"}

    source: LocationField
    """A folder, a list (.txt, .csv), Parquet files, tar shards or GeoTIFF scenes; also on an object
    store, such as `s3://bucket/shards/{00000..00127}.tar`. A relative path starts at the recipe's
    folder."""

    kind: Kind = "auto"
    """How `source` is read. auto: detect it from the files; GeoTIFF scenes must be named, or have
    `tile`."""

    labels: Literal["auto", "none"] = "auto"
    """auto: if the source has labels (class folders, a label column), use them to score clusters,
    never to train. none: ignore them."""

    image_key: (
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
        | None
    ) = None
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
    """1 for grey, 3 for colour. Any other number requires TIFF files of as many bands, or with
    `pages: channels` of as many pages, or images in .npy files."""

    pages: Pages | None = None
    """Which pages of a TIFF stack, or frames of a DICOM file, are used. first: the first one. all:
    each is an image of its own, `stack.tif#page=2`. max: the maximum of all, pixel by pixel.
    channels: each is a channel of one image, so that `channels` is their number. None: the first
    one, and a note that there are others."""

    encoding: Encoding = "jpeg"
    """How pixels are packed: raw (fastest; about 260 kB per image at 256 px), jpeg, or png. grey: a
    third of raw, one channel, which is all that a network with `network.sobel` reads. none: read
    and decode the original files in every epoch."""

    grey_weights: tuple[_Weight, _Weight, _Weight] | None = None
    """Weights of red, green and blue in the channel that `encoding: grey` packs, in 65,536ths.
    None: a run fills in those that the network derives from `network.std`."""

    colour_copies: bool | None = None
    """With `encoding: grey`, also store a JPEG in colour of each image, of `jpeg_quality`, for
    reports and everything else that people look at; no stage of an epoch reads it. None: yes."""

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
    def _named(cls, source: Location) -> Location:
        # Relative paths were made absolute before, so an empty path means an empty text.
        if source == Path():
            raise ValueError("is empty; a dot means the folder of the recipe")
        return usable_path(source) if isinstance(source, Path) else source

    def open_source(self, scratch: Scratch | None = None) -> Source:
        """Open the source without reading an image.

        Args:
            scratch: where tar and Parquet files of an object store are downloaded to. None: the
                system's folder for temporary files.

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
            scratch=scratch,
        )
        if isinstance(source, GeotiffSource):
            source.check_channels(self.channels)
        return source

    def count(self, source: Source) -> int | None:
        """Return how many images are packed; None if only indexing can count them."""
        if self.subset is not None:
            return self.subset
        # How many pages there are is known only when all files have been opened.
        return None if self.pages == "all" else source.count()

    def settled_deep(self, source: Source) -> Deep:
        """Return `deep`; if it is not set, what the first images and `tile.range` suggest."""
        if self.deep is not None:
            return self.deep
        if self.tile is not None and self.tile.range is not None:
            return "range"  # windows are scaled to all 16 bits already
        return default_deep(source.images())

    @property
    def has_colour_copies(self) -> bool:
        """Whether a JPEG in colour is stored beside each image."""
        return self.encoding == "grey" and self.colour_copies is not False

    @property
    def packing(self) -> Packing:
        """How the pixels of an image are stored; with `grey`, `grey_weights` must be set."""
        return Packing(self.encoding, self.jpeg_quality, self.grey_weights, self.has_colour_copies)

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
    """Raise SourceError if the source is missing, or needs packing although `encoding` is none.

    Raise ConfigError if there are no weights for `encoding: grey`.
    """
    if dataset.encoding == "none" and dataset.pages == "all":
        raise SourceError(
            "dataset.encoding: none reads one image from each file, but dataset.pages: all makes "
            "several.\n  Fix: dataset.encoding: raw, jpeg or png."
        )
    if dataset.encoding == "grey" and dataset.grey_weights is None:
        raise ConfigError(
            "dataset.encoding: grey needs dataset.grey_weights.\n"
            "  Cause: the stage was called alone; a run derives the weights from network.std.\n"
            "  Fix:   set dataset.grey_weights, see deepcluster_core.data.grey."
        )
    opened = dataset.open_source()
    if dataset.encoding == "none" and isinstance(dataset.source, StoreUrl):
        raise SourceError(
            f"dataset.encoding: none reads the original files in every epoch, but "
            f"{dataset.source} is on an object store.\n"
            f"  Fix: dataset.encoding: raw, jpeg or png."
        )
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
    optional_files=(COLOURS,),
    check=_check_source,
    ranks="many",
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
    ranks = context.ranks
    scratch = Scratch(context.scratch, context.scratch_bytes, num_processes=ranks.size)
    opened = dataset.open_source(scratch)
    choice = Choice(opened, dataset.subset, dataset.pages, context.seed)
    saved = ranks.on_first(lambda: _begin(draft), "saved index")
    deep: DeepRule = ranks.on_first(
        lambda: _rule(choice, dataset, context, saved, scales_of), "deep"
    )
    reading = _reading(dataset, deep, opened.originals)
    total, outcomes = outcomes_of(choice, reading, context, saved=saved, folder=out)
    if ranks.rank != 0:
        for _ in outcomes.read():
            pass  # the first rank has them all
        return
    findings = Findings(dataset.pages)
    writer = _write(draft, dataset, deep, (total, outcomes), saved, findings)
    check_losses(
        writer,
        source=dataset.source,
        max_skipped_fraction=dataset.max_skipped_fraction,
        listed_in=out / SKIPPED,
    )
    draft.rows = writer.num_images
    draft.facts = _facts(writer, dataset, deep, opened) | _remarks(writer, deep, opened, findings)


def _write(
    draft: Draft,
    dataset: DatasetConfig,
    deep: DeepRule,
    images: tuple[int | None, Outcomes],
    saved: SavedIndex | None,
    findings: Findings,
) -> ImagesWriter:
    """Write all images and return their writer, which is closed; `images` begins with the total."""
    total, outcomes = images
    full_parts = FullParts(draft)

    def save(progress: IndexSave) -> None:
        place = outcomes.bookmark(progress.seen)
        bookmark = place.values() if place else None
        draft.save({**progress.facts(), **deep_facts(deep), "bookmark": bookmark})
        full_parts.publish(progress)

    with ImagesWriter(
        draft.folder,
        packs=dataset.encoding != "none",
        has_colour_copies=dataset.has_colour_copies,
        save=save,
        findings=findings.state,
    ) as writer:
        seen = saved.restore(writer, findings) if saved is not None else 0
        for group in outcomes.read():
            for outcome in group:
                record(outcome, writer, findings)
            seen += len(group)
            draft.context.progress(seen, total)
    return writer


def _begin(draft: Draft) -> SavedIndex | None:
    """Return what an earlier attempt has saved; delete what it has left besides."""
    forget_units(draft.folder)
    return saved_index(draft.folder, draft.saved)


def _remarks(
    writer: ImagesWriter, deep: DeepRule, source: Source, findings: Findings
) -> dict[str, list[str]]:
    """Return the notes and warnings of the manifest, as far as there are any."""
    notes = source.notes()
    if writer.skipped.num_left_out:
        notes.append(f"skipped on purpose, and not lost: {writer.skipped.num_left_out:,}")
    notes += findings.notes()
    if isinstance(deep, DeepScales):
        notes += deep.sentences()
    remarks = {"notes": notes, "warnings": findings.warnings()}
    return {name: texts for name, texts in remarks.items() if texts}


def _reading(dataset: DatasetConfig, deep: DeepRule, originals: Path | None) -> Reading:
    """Return how images are decoded and packed; `originals` is the folder of their files."""
    return Reading(
        channels=dataset.channels,
        shorter_side=dataset.shorter_side,
        deep=deep,
        pages=dataset.pages,
        packing=dataset.packing,
        originals=originals,
    )


def _facts(
    writer: ImagesWriter, dataset: DatasetConfig, deep: DeepRule, source: Source
) -> dict[str, Any]:
    """Return what the manifest says about the images."""
    facts: dict[str, Any] = {
        "encoding": dataset.encoding,
        "channels": dataset.channels,
        "shorter_side": dataset.shorter_side,
        **deep_facts(deep),
        "originals": str(source.originals),
        "skipped": writer.skipped.num_images,
        "labelled": writer.num_labelled,
    }
    if dataset.encoding == "grey":
        facts["grey_weights"] = dataset.grey_weights
        facts["colour_copies"] = dataset.has_colour_copies
    if dataset.pages is not None:
        facts["pages"] = dataset.pages
    if writer.skipped.num_left_out:
        facts["left_out"] = writer.skipped.num_left_out
    return facts


def _rule(
    choice: Choice,
    dataset: DatasetConfig,
    context: Context,
    saved: SavedIndex | None,
    scales_of: ManifestOf | None,
) -> DeepRule:
    """Return how values of more than 8 bits become 8 bits; percentiles are measured."""
    if saved is not None:
        return rule_in(saved.facts)
    if scales_of is not None:
        return deep_rule(scales_of)
    deep = dataset.settled_deep(choice.source)
    if deep != "percentile":
        return deep
    total, _ = choice.images()
    return measure(
        lambda: choice.images()[1],
        total,
        channels=dataset.channels,
        pages=dataset.pages,
        workers=context.workers,
    )
