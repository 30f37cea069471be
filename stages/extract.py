"""Extract: images (+ checkpoint) -> features. Runs the network in eval mode on central crops.

Suffixes: S images of a sample, B images of a batch, D values of a feature, Q components.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator, model_validator

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import FEATURES, STORED_PCA
from deepcluster_core.artifacts.files import delete
from deepcluster_core.artifacts.images import Images
from deepcluster_core.config import FeatureDtype, Precision, StrictConfig
from deepcluster_core.errors import ArtifactError, FeatureError
from deepcluster_core.local_paths import usable_path
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.stage import stage
from stages.feature_pass import FeaturePass, ImageReport

if TYPE_CHECKING:
    from deepcluster_core.artifacts.features import Features
    from deepcluster_core.clustering.pca import Pca
    from deepcluster_core.models.network import Network

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

SAMPLE = "sample.part"
"""Folder in the unfinished artifact with the features that the PCA is fitted to."""


class ReducedConfig(StrictConfig):
    """The PCA by which features are reduced before they are stored."""

    dim: PositiveInt = 256
    """Number of components that are stored of each image; 256 as in section 3.4."""

    sample: Annotated[int, Field(ge=2)] = 1_000_000
    """Number of random images that the PCA is fitted to, drawn anew in each epoch. Their features
    are computed twice. With as many images or fewer, it is fitted to all."""

    @model_validator(mode="after")
    def _check_sample(self) -> Self:
        if self.sample <= self.dim:
            raise ValueError(
                f"sample: {self.sample} images have fewer than {self.dim} components; take many "
                f"more images than dimensions"
            )
        return self


class ExtractConfig(StrictConfig):
    """How features are computed."""

    absent_when_none = frozenset(("from_file", "pca"))
    by_contents = frozenset(("from_file",))

    from_file: Path | None = Field(default=None, alias="from")
    """A file with the features of another model, which are clustered in place of the network's, in
    a run with `epochs: 0`: `.npy` with float16 or float32 (N, D) in the order of image_id, or
    `.parquet` with a column `image_id` or `path` and a column `feature` or `embedding` of lists.
    Its contents, not its name, decide about the artifacts. None: features of the network."""

    resize: PositiveInt = 256
    """Pixels of the shorter side before the central crop of `network.image_size`."""

    layer: str | None = None
    """A named layer of the network, such as conv5, averaged over space. None: the paper's feature,
    which is the last hidden layer before its ReLU."""

    batch_size: PositiveInt = 256
    """Number of images in a forward pass."""

    dtype: FeatureDtype = "float16"
    """Number format of the features on disk. float16 takes half the space of float32 and changes
    the clusters far less than another seed of k-means does. On the demo, the NMI between clusters
    from float16 and from float32 is 0.92 at epoch 0 and 0.98 at epoch 9; between two seeds it is
    0.68 and 0.82. The NMI with the true labels changes by up to 0.002 with the format, and by up to
    0.015 with the seed."""

    precision: Precision = "auto"
    """Number format of the forward pass. auto: the faster one on the machine on which the run
    begins; the run keeps it, also elsewhere."""

    pca: ReducedConfig | None = None
    """Store features reduced by a PCA: of AlexNet's, a sixteenth of the bytes. The clusters are
    then made from what is stored. None: store the features themselves."""

    @field_validator("from_file")
    @classmethod
    def _is_readable(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        if path.suffix not in (".npy", ".parquet"):
            raise ValueError("must end in .npy or .parquet")
        return usable_path(path)


@stage(
    name="extract",
    version=2,
    kind="features",
    files=(FEATURES,),
    optional_files=(STORED_PCA,),
    ranks="many",
)
def extract(
    draft: Draft,
    extract: ExtractConfig,
    network: NetworkConfig,
    /,
    *,
    images: Path,
    checkpoint: Path | None,
) -> None:
    """Write the features artifact. Without a checkpoint, use the network as initialised."""
    # Imported here because they import torch and zarr, which reading a recipe does not need.
    from deepcluster_core.artifacts.checkpoints import restore_network
    from deepcluster_core.artifacts.features import create_features
    from deepcluster_core.features import feature_dim
    from deepcluster_core.precision import computed_in

    context = draft.context
    pictures = Images(images)
    if extract.from_file is not None:
        _copy_given(draft, extract, extract.from_file, pictures)
        return
    pictures.check_read_by(network.grey_weights)

    def restored() -> "Network":
        return restore_network(
            network, channels=pictures.channels, seed=context.seed, checkpoint=checkpoint
        )

    num_images = len(pictures)
    model = restored()
    dim = feature_dim(model, extract.layer, size=network.image_size)
    forward = FeaturePass(model, pictures, extract, network, dim, draft)
    pca: Pca | None = None
    if extract.pca is not None:
        pca = _fitted(extract.pca, forward)
        # The forward pass changes a network, so each pass has its own.
        forward = replace(forward, model=restored())

    # The ranks write their shards into one array, which has to exist before.
    array = context.ranks.on_first(
        lambda: create_features(
            draft.folder,
            num_images=num_images,
            dim=dim if pca is None else len(pca.eigenvalues_Q),
            dtype=extract.dtype,
            is_reduced=pca is not None,
        ),
        "features array",
    )
    # From now on, a later attempt with the same key keeps the shards that it finds in the folder.
    draft.save({})
    for shard in forward.write(array, context.progress, pca=pca):
        draft.wrote(shard)
    draft.rows = num_images
    draft.facts["precision"] = computed_in(context.device, extract.precision)
    draft.facts["dim"] = dim


def _fitted(config: ReducedConfig, forward: FeaturePass) -> "Pca":
    """Return the PCA of a sample of the images, after writing it into the artifact.

    A later attempt with the same key reads the PCA or, if the sample is not complete, continues it.

    Raises:
        FeatureError: there are too few images, or their features vary in too few directions.
    """
    from deepcluster_core.artifacts.features import create_features
    from deepcluster_core.clustering.pca_sample import sample_ids
    from deepcluster_core.clustering.stored_pca import write_pca

    draft, num_images = forward.draft, len(forward.pictures)
    context, folder = draft.context, draft.folder / SAMPLE
    ranks = context.ranks
    if num_images <= config.dim:
        raise FeatureError(
            f"extract.pca.dim is {config.dim}, but {num_images} images have at most "
            f"{num_images - 1} components.\n"
            f"  Fix:   set extract.pca.dim to a smaller number, or add images."
        )
    pca = ranks.on_first(lambda: _found(draft.folder), "PCA of an earlier attempt")
    if pca is None:
        id_S = sample_ids(num_images, config.sample, seed=context.seed, epoch=context.epoch)

        def create() -> "Features":
            folder.mkdir(exist_ok=True)
            size = num_images if id_S is None else len(id_S)
            return create_features(
                folder, num_images=size, dim=forward.dim, dtype=forward.extract.dtype
            )

        array = ranks.on_first(create, "features of sample")
        draft.save({})
        forward.write(array, context.progress, id_S=id_S)
        pca = _pca_of(array, config, draft)
        ranks.on_first(lambda: write_pca(draft.folder, pca), "write PCA")
    ranks.on_first(lambda: delete(folder) if folder.exists() else None, "delete sample")
    return pca


def _found(folder: Path) -> "Pca | None":
    """Return the PCA that an earlier attempt has written, if there is one.

    Without a save of the same key, the folder was cleared before.
    """
    from deepcluster_core.clustering.stored_pca import read_pca

    path = folder / STORED_PCA
    if not path.exists():
        return None
    try:
        return read_pca(folder)
    except ArtifactError:
        # What was projected with it is of no use, either.
        for damaged in (path, folder / FEATURES):
            if damaged.exists():
                delete(damaged)
        return None


def _pca_of(array: "Features", config: ReducedConfig, draft: Draft) -> "Pca":
    """Return the PCA of features that all ranks have written."""
    import torch

    from deepcluster_core.clustering.moments import unit_rows
    from deepcluster_core.clustering.pca import fit_pca
    from deepcluster_core.ranks import own_rows

    context = draft.context
    context.ranks.on_first(lambda: None, "end of sample")  # all shards are there
    own = own_rows(array.num_images, context.ranks, unit=unit_rows(array.dim))
    pca = fit_pca(
        map(torch.from_numpy, array.blocks(rows=own)),
        dim=config.dim,
        clip=True,
        num_rows=array.num_images,
        ranks=context.ranks,
        device=context.device,
    )
    rank = len(pca.eigenvalues_Q)
    if rank < config.dim:
        raise FeatureError(
            f"extract.pca.dim is {config.dim}, but the features of {array.num_images} images vary "
            f"in {rank} directions only.\n"
            "  Cause: duplicate images, dead units of the network, or collapsed features.\n"
            f"  Fix:   set extract.pca.dim to at most {rank}."
        )
    return pca


def _copy_given(draft: Draft, extract: ExtractConfig, path: Path, pictures: Images) -> None:
    """Write the features artifact from the features of another model.

    Raises:
        FeatureError: the file does not hold one feature for each image, or a value is not finite.
    """
    # Imported here because they import zarr, as in `extract`.
    from deepcluster_core.artifacts.features import create_features, write_shards
    from deepcluster_core.feature_shares import FeatureShare
    from deepcluster_core.given_features import given_dim, open_given

    context = draft.context
    num_images = len(pictures)
    dim = given_dim(path)
    array = context.ranks.on_first(
        lambda: create_features(draft.folder, num_images=num_images, dim=dim, dtype=extract.dtype),
        "features array",
    )
    draft.save({})
    size = extract.batch_size
    share = FeatureShare(array, context.ranks, batch_size=size)
    numbers = share.batches
    # The images from this rank's first batch to its last one.
    own = (
        range(numbers[0] * size, min((numbers[-1] + 1) * size, num_images)) if numbers else range(0)
    )
    given = open_given(path, num_images, pictures.paths, rows=own, scratch=context.scratch)

    def batches() -> Iterator[NDArray[np.float32]]:
        for number in numbers:
            yield given.block(number * size, (number + 1) * size)

    rows = share.rows_to_write(batches(), ImageReport(draft, num_images, context.progress))
    write_shards(array, share.missing, rows, finished=draft.publish)
    for number in share.shards:
        draft.wrote(array.shard(number))
    draft.rows = num_images
    draft.facts["dim"] = dim
