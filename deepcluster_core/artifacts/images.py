"""Read and write the images artifact: index.parquet, skipped.parquet and pixels/part-*.arrow.

`pixel_parts` stores the packed pixels. Encodings:

- `raw`: decoded uint8 (H, W, C); fastest and largest.
- `jpeg`, `png`: encoded again at the packed size.
- `grey`: one channel of uint8, as networks with a Sobel filter weigh colours; and, if wanted, JPEGs
  in colour in colours/part-*.arrow, which `ShownImages` reads for people.
- `none`: not packed, so there are no pixel files; the original files are decoded on each read.

Each packed image has a CRC-32C. `Images.verified` checks it; the extract stage does that for every
image in every epoch, before anything is trained on it. `images[i]` does not check it.

Memory does not grow with the number of images, except by 4 bytes an image for true labels and, with
`none`, by the text of the paths.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepcluster_core.artifacts.checksum import checksum_of
from deepcluster_core.artifacts.file_names import COLOURS, INDEX, PIXELS
from deepcluster_core.artifacts.image_rows import TextByImage, read_codes
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.mirrored import mirror_of
from deepcluster_core.artifacts.packed_pixels import PackedPixels
from deepcluster_core.artifacts.packing import PIXEL_ENCODINGS, Encoding
from deepcluster_core.artifacts.pixel_parts import PixelParts, Pixels
from deepcluster_core.artifacts.stored_parts import fetched_ahead
from deepcluster_core.data.decode import UnreadableImageError, decode, decode_packed
from deepcluster_core.data.deep_scales import Deep, DeepRule, DeepScales
from deepcluster_core.data.grey import GreyWeights
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.shown_bands import select_bands
from deepcluster_core.errors import ArtifactError
from deepcluster_core.shortage import explain_damage


class Images:
    """An images artifact. `images[i]` is the image with image_id i; reading is thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Open the artifact in `folder`; pixels are mapped into memory, not read.

        Raises:
            ArtifactError: the artifact is not finished, or its files cannot be opened.
        """
        self.folder = folder
        manifest = read_manifest(folder)
        self.num_images = manifest.rows
        self._encoding: Encoding = manifest.facts["encoding"]
        self._channels: int = manifest.facts["channels"]
        self.shorter_side: int | None = manifest.facts["shorter_side"]
        """Pixels of the shorter side of every image; None if images keep their own sizes."""
        self._deep: DeepRule = rule_in(manifest.facts)
        self._pages: Pages | None = manifest.facts.get("pages")
        weights = manifest.facts.get("grey_weights")
        self.grey_weights: GreyWeights | None = None if weights is None else tuple(weights)
        """Weights of the channels in the one that is packed, with `grey`; None otherwise."""
        self._originals = Path(manifest.facts["originals"])
        self._is_mirrored = mirror_of(folder) is not None
        if not self._is_mirrored:
            self._pixels = PixelParts(folder / PIXELS)

    @cached_property
    def _pixels(self) -> PixelParts:  # pyright: ignore[reportRedeclaration]
        """The packed images of a run on an object store: many readers need only the index."""
        return _parts_of(self.folder, PIXELS)

    def fetched_ahead(self, image_ids: Iterable[int]) -> AbstractContextManager[None]:
        """Fetch the pixels of a run on an object store in the order in which a block reads them.

        Args:
            image_ids: images in this order; one of each part is enough.
        """
        if not self._is_mirrored or self._encoding == "none":
            return nullcontext()
        return fetched_ahead(self._pixels.paths_of(image_ids))

    @property
    def channels(self) -> int:
        """The number of channels of every image, which the network is built for."""
        return self._channels

    @property
    def packed_channels(self) -> int:
        """The number of channels of the arrays that this class returns: 1 with `grey`."""
        return self._channels if self.grey_weights is None else 1

    def check_read_by(self, weights: GreyWeights | None) -> None:
        """Raise ArtifactError if a network weighs the channels unlike these grey images.

        Args:
            weights: `grey_weights` of the network; None if it reads colours.
        """
        if self.grey_weights is None or self.grey_weights == weights:
            return
        network = "reads colours (network.sobel: false)"
        if weights is not None:
            network = f"weighs them {list(weights)} (network.std)"
        raise ArtifactError(
            f"{self.folder}: its grey images weigh red, green and blue "
            f"{list(self.grey_weights)}, but the network {network}.\n"
            f"  Cause: they were packed for another network (dataset.encoding: grey).\n"
            f"  Fix:   give the network that they were packed for, or index again: deepcluster "
            f"stage index … --force"
        )

    def packed_pixels(self) -> PackedPixels | None:
        """Return the packed bytes of many images at once; None if they are not pixels."""
        if self._encoding not in PIXEL_ENCODINGS:
            return None
        return PackedPixels(self._pixels, self.num_images, self.packed_channels)

    @property
    def originals(self) -> Path | None:
        """The folder that paths are relative to; None if the images came from no files."""
        text = str(self._originals)
        return None if text == "None" else self._originals

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C); with `raw` and `grey` they are a view of the file."""
        if self._encoding == "none":
            return self._read_original(image_id)
        if self._encoding in PIXEL_ENCODINGS:
            stored, height, width, _ = self._pixels.stored(image_id)
            return stored.reshape(height, width, self.packed_channels)
        return _decoded(self._pixels, image_id)

    def verified(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image after checking its checksum.

        Raises:
            ArtifactError: the packed image is damaged.
        """
        if self._encoding != "none":
            _verify(self._pixels, image_id)
        return self[image_id]

    def _read_original(self, image_id: int) -> Pixels:
        path = self._originals / self._paths[image_id]

        def explain(error: Exception) -> ArtifactError:
            return ArtifactError(
                f"{path}: could be read when it was indexed, but no longer ({error}).\n"
                f"  Fix: restore the file, or index again: deepcluster stage index … --force"
            )

        with explain_damage(explain, OSError, UnreadableImageError):
            decoded = decode(
                path.read_bytes(),
                channels=self._channels,
                shorter_side=self.shorter_side,
                deep=self._deep,
                pages=self._pages,
            )
            return decoded.pixels_HWC

    def paths(self) -> pa.ChunkedArray:
        """Return the path of each image in its source, in the order of image_id."""
        return self._paths.in_order()

    @cached_property
    def _paths(self) -> TextByImage:
        return TextByImage(self.folder / INDEX, "path", stage="index")

    def true_labels(self) -> NDArray[np.int32] | None:
        """Return each image's true label as a number, -1 if unknown; None if all are unknown."""
        code_N, names = self._label_codes()
        return code_N if names else None

    def named_labels(self) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Return class_N, -1 where the true label is unknown, and the sorted class names.

        The numbers depend only on the set of labels, not on the order of the images.
        """
        code_N, found = self._label_codes()
        names = sorted(found)
        class_of_name = {name: number for number, name in enumerate(names)}
        classes = [class_of_name[name] for name in found]
        # Code -1, an unknown label, selects the last entry, which is -1 as well.
        class_of_code = np.array([*classes, -1], np.int32)
        return class_of_code[code_N], tuple(names)

    def _label_codes(self) -> tuple[NDArray[np.int32], list[str]]:
        """Return labels as numbers, -1 if unknown, and the label of each number."""
        return read_codes(self.folder / INDEX, "label", stage="index")


class ShownImages(Images):
    """An images artifact for people to look at: its colour copies, if it has them, or some bands.

    Networks read `Images`: a copy went through the compression of JPEG.
    """

    def __init__(self, folder: Path, bands: Sequence[int] | None = None) -> None:
        """Open the artifact in `folder`, as `Images` does.

        Args:
            folder: the artifact.
            bands: the channels to return, numbered from 1; None for all.
        """
        super().__init__(folder)
        has_copies = read_manifest(folder).facts.get("colour_copies", False)
        self._colours = _parts_of(folder, COLOURS) if has_copies else None
        self.bands = bands

    @property
    def num_bands(self) -> int:
        """The number of channels that bands can be chosen from."""
        return self.packed_channels if self._colours is None else self.channels

    @property
    def has_copies(self) -> bool:
        """Whether what people see is a copy of what networks read."""
        return self._colours is not None

    def __getitem__(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image, in colour if the artifact has them."""
        if self._colours is None:
            pixels_HWC = super().__getitem__(image_id)
        else:
            pixels_HWC = _decoded(self._colours, image_id)
        return pixels_HWC if self.bands is None else select_bands(pixels_HWC, self.bands)

    def verified(self, image_id: int) -> Pixels:
        """Return the pixels (H, W, C) of an image after checking the checksum of what is read.

        Raises:
            ArtifactError: the packed image is damaged.
        """
        if self._colours is None:
            return super().verified(image_id)
        _verify(self._colours, image_id)
        return self[image_id]


def deep_rule(folder: Path) -> DeepRule:
    """Return how an images artifact has converted values of more than 8 bits.

    Later images that are compared with its own are converted in the same way.

    Raises:
        ArtifactError: the artifact is not finished.
    """
    return rule_in(read_manifest(folder).facts)


def rule_in(facts: Mapping[str, Any]) -> DeepRule:
    """Return how values of more than 8 bits are converted, from the facts of a manifest."""
    deep: Deep = facts["deep"]
    if deep == "percentile":
        return DeepScales.from_facts(facts["deep_scales"])
    return deep


def deep_facts(deep: DeepRule) -> dict[str, Any]:
    """Return the facts of a manifest that `rule_in` reads."""
    if isinstance(deep, DeepScales):
        return {"deep": "percentile", "deep_scales": deep.facts()}
    return {"deep": deep}


def _parts_of(folder: Path, name: str) -> PixelParts:
    """Return the parts of an artifact in one of its folders."""
    if mirror_of(folder) is None:
        return PixelParts(folder / name)
    files = read_manifest(folder).files
    stored = {folder / file: files[file].bytes for file in files if file.startswith(f"{name}/")}
    return PixelParts(folder / name, stored)


def _decoded(parts: PixelParts, image_id: int) -> Pixels:
    """Return the pixels of an image that is stored as a JPEG or PNG."""
    stored, _, _, _ = parts.stored(image_id)
    try:
        return decode_packed(stored.tobytes())
    except UnreadableImageError as error:
        raise parts.damaged(image_id, str(error)) from error


def _verify(parts: PixelParts, image_id: int) -> None:
    """Raise ArtifactError if the checksum of a stored image differs."""
    stored, height, width, crc32c = parts.stored(image_id)
    if checksum_of(height, width, stored) != crc32c:
        raise parts.damaged(image_id, "its checksum differs")
