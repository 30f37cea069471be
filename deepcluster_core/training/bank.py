"""The bank of DeepCluster-v2: the embeddings that training computes, for the next clustering.

Suffixes: N images, V views of the first kind, B images of a step, D dims of an embedding.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.ranks import Ranks

STEPS_HELD = 16
"""Steps whose embeddings stay on the device before they are moved to main memory together, because
each move makes the CPU wait for a GPU, and the ranks for each other."""
BLOCK_ROWS = 1 << 16
"""Rows that are written at once."""


class Bank:
    """The last embeddings of every image, by image_id, as float16 in the first rank's memory.

    The released code keeps a row for each position of an epoch. Images that it leaves out then have
    no row, and no label in the next epoch. Here an image that is not drawn keeps its row, and one
    that is drawn several times has the row of the last step.
    """

    def __init__(self, rows_NX: NDArray[np.float16], *, num_views: int, ranks: Ranks) -> None:
        """Begin with rows.

        Args:
            rows_NX: X = V * D, view after view; changed in place. Empty on all ranks but the first.
            num_views: V, the number of views in a row.
            ranks: the ranks, each of which computes the embeddings of some images.
        """
        self._rows_NX = rows_NX
        self._num_views = num_views
        self._ranks = ranks
        self._held: list[tuple[NDArray[np.int64], Tensor]] = []

    @classmethod
    def beginning_with(
        cls, folder: Path | None, *, num_images: int, num_views: int, dim: int, ranks: Ranks
    ) -> "Bank":
        """Return a bank that holds the features that were clustered.

        View v begins as view v modulo the number of stored views; the features of the extract stage
        have one.

        Args:
            folder: an artifact with the features that were clustered.
            num_images: N.
            num_views: V.
            dim: D.
            ranks: the ranks; the first one reads.

        Raises:
            ConfigError: there are no features.
            FeatureError: the features are not embeddings of these images.
        """
        if folder is None:
            raise ConfigError(
                "train.prototypes.bank: needs the features that were clustered.\n"
                "  Fix: give the stage features=FOLDER, the artifact that the cluster stage read."
            )
        if ranks.rank != 0:
            return cls(np.empty((0, num_views * dim), np.float16), num_views=num_views, ranks=ranks)
        stored = Features(folder)
        if stored.is_reduced:
            raise FeatureError(
                f"{stored.path}: cannot be the beginning of the bank: holds principal components.\n"
                f"  Fix: leave extract.pca out, or train.prototypes.bank."
            )
        found = (stored.num_images, stored.view_dim)
        if found != (num_images, dim):
            raise FeatureError(
                f"{stored.path}: cannot be the beginning of the bank: holds {found[0]} images with "
                f"{found[1]} values, expected {num_images} with {dim}.\n"
                f"  Cause: the bank holds the outputs of the projection\n"
                f"  Fix:   set extract.layer: projection, or leave train.prototypes.bank out."
            )
        rows_NX = np.empty((num_images, num_views * dim), np.float16)
        start = 0
        for block_BX in stored.blocks():
            block_BVD = block_BX.reshape(len(block_BX), stored.views, dim)
            chosen_BVD = block_BVD[:, np.arange(num_views) % stored.views]
            rows_NX[start : start + len(block_BX)] = chosen_BVD.reshape(len(block_BX), -1)
            start += len(block_BX)
        return cls(rows_NX, num_views=num_views, ranks=ranks)

    def put(self, image_id_B: NDArray[np.int64], embedding_VB_D: Tensor) -> None:
        """Overwrite the rows of a step's images; all ranks must call this in every step.

        Args:
            image_id_B: the images of this rank; can be empty.
            embedding_VB_D: their embeddings on any device, view after view: row v * B + b.
        """
        self._held.append((image_id_B, embedding_VB_D.detach().to(torch.float16)))
        if len(self._held) == STEPS_HELD:
            self.flush()

    def flush(self) -> None:
        """Write the embeddings that are still on the device; all ranks must call this."""
        if not self._held:
            return
        received = self._ranks.gather(self._as_records(), "embeddings")
        self._held.clear()
        if received is None:
            return
        records = np.concatenate(received)
        # The ranks hold parts of the same steps. A stable sort keeps the order within a step.
        records = records[np.argsort(records["step"], kind="stable")]
        # NumPy does not promise which of several values for one row it keeps.
        _, last = np.unique(records["image_id"][::-1], return_index=True)
        records = records[len(records) - 1 - last]
        self._rows_NX[records["image_id"]] = records["row"]

    def _as_records(self) -> NDArray[np.void]:
        """Return image_id, step and row of all held images, in one array that ranks can send."""
        width = self._rows_NX.shape[1]
        kind = [("image_id", np.int64), ("step", np.int32), ("row", np.float16, (width,))]
        records = np.empty(sum(len(ids) for ids, _ in self._held), kind)
        start = 0
        for step, (image_id_B, embedding_VB_D) in enumerate(self._held):
            count = len(image_id_B)
            embedding_VBD = embedding_VB_D.view(self._num_views, count, width // self._num_views)
            some = records[start : start + count]
            some["image_id"] = image_id_B
            some["step"] = step
            some["row"] = embedding_VBD.transpose(0, 1).reshape(count, width).cpu().numpy()
            start += count
        return records

    def state(self) -> Tensor:
        """Return all rows, which the next flush changes; call `flush` before, on all ranks."""
        assert not self._held
        return torch.from_numpy(self._rows_NX)

    def restore(self, rows_NX: Tensor) -> None:
        """Set all rows to what `state` has returned, on the first rank."""
        self._held.clear()
        if self._ranks.rank == 0:
            self._rows_NX[:] = rows_NX.numpy()

    def write(self, folder: Path) -> None:
        """Write the rows as `folder/features.zarr`; for the first rank, after `flush`."""
        assert not self._held

        def blocks() -> Iterator[NDArray[np.float16]]:
            for start in range(0, len(self._rows_NX), BLOCK_ROWS):
                yield self._rows_NX[start : start + BLOCK_ROWS]

        num_images = len(self._rows_NX)
        write_features(
            folder, blocks(), num_images=num_images, dtype="float16", views=self._num_views
        )
