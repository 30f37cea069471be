"""How the pixels of an image are stored in an images artifact. Suffixes: H, W, C."""

from dataclasses import dataclass
from typing import Literal

from deepcluster_core.artifacts.pixel_parts import Pixels
from deepcluster_core.data.decode import decode_packed, encode_jpeg, encode_png
from deepcluster_core.data.grey import GreyWeights, to_grey

Encoding = Literal["raw", "jpeg", "png", "grey", "none"]
PIXEL_ENCODINGS = frozenset(("raw", "grey"))
"""Encodings whose bytes are the pixels (H, W, C) themselves."""


@dataclass(frozen=True)
class Packing:
    """How the pixels of an image are stored."""

    encoding: Encoding
    jpeg_quality: int
    grey_weights: GreyWeights | None = None
    """Weights of the channels; `grey` needs them, and no other encoding has them."""
    has_colour_copy: bool = False
    """Whether a JPEG in colour is stored beside the pixels."""

    def stored(self, pixels_HWC: Pixels) -> bytes:
        """Return the bytes that later stages read."""
        match self.encoding:
            case "raw":
                return pixels_HWC.tobytes()
            case "jpeg":
                return encode_jpeg(pixels_HWC, self.jpeg_quality)
            case "png":
                return encode_png(pixels_HWC)
            case "grey":
                return self._grey(pixels_HWC).tobytes()
            case "none":
                return b""

    def colour_copy(self, pixels_HWC: Pixels) -> bytes:
        """Return the JPEG that is stored beside the pixels; empty if there is none."""
        return encode_jpeg(pixels_HWC, self.jpeg_quality) if self.has_colour_copy else b""

    def read_back(self, pixels_HWC: Pixels) -> Pixels:
        """Return an image as later stages read it: `jpeg` loses a little, `grey` the colours."""
        match self.encoding:
            case "jpeg":
                return decode_packed(encode_jpeg(pixels_HWC, self.jpeg_quality))
            case "grey":
                return self._grey(pixels_HWC)
            case _:
                return pixels_HWC

    def _grey(self, pixels_HWC: Pixels) -> Pixels:
        assert self.grey_weights is not None, "checked before anything is packed"
        return to_grey(pixels_HWC, self.grey_weights)
