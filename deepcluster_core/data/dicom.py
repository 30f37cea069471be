"""Read DICOM files with the package pydicom. Suffixes: H height, W width, C channels.

Only the elements that define pixels are read. No message repeats a text of the file, because names
of patients are among them.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepcluster_core.data.channel_values import ChannelValues, check_value_bytes
from deepcluster_core.data.extras import needed
from deepcluster_core.data.picture_size import check_size
from deepcluster_core.data.unreadable import (
    DamagedImageError,
    UnreadableImageError,
    UnsupportedFeatureError,
)

_SIGNATURE = b"DICM"
_SIGNATURE_AT = 128
_DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax of files that are compressed as a whole."""
_MOST_DEFLATED_BYTES = 1 << 20
"""A longer file could expand to more than 1 GiB before anything of it can be checked."""
_GREY = ("MONOCHROME1", "MONOCHROME2")


def is_dicom(data: bytes) -> bool:
    """Return whether a file is a DICOM file, which has 128 bytes of any content first."""
    return data.startswith(_SIGNATURE, _SIGNATURE_AT)


def num_frames(data: bytes) -> int:
    """Return the number of frames; 1 if the file is damaged, for the decoder to report."""
    try:
        dataset = _dataset(data)
        with _explained(dataset):
            return max(1, int(dataset.get("NumberOfFrames", 1) or 1))
    except UnreadableImageError:
        return 1


def read_frames(data: bytes, frames: Iterable[int]) -> Iterator[ChannelValues]:
    """Yield the values of some frames, as a viewer shows them.

    Grey values are rescaled (to Hounsfield units in a CT). If the file has a window, values become
    8 bits by it; if not, they are deep values. MONOCHROME1 is inverted; palettes and YBR become
    RGB.

    Raises:
        UnreadableImageError: the file is damaged, has no pixels or a compression without a decoder,
            or the package is missing.
    """
    dataset = _dataset(data)
    with _explained(dataset):
        _check(dataset)
    for frame in frames:
        with _explained(dataset):
            values = _frame_values(dataset, frame)
        yield values


def has_deep_values(data: bytes) -> bool:
    """Return whether a file has grey of more than 8 bits; False if it is damaged."""
    try:
        dataset = _dataset(data)
        with _explained(dataset):
            return dataset.get("BitsAllocated", 8) > 8 and not _has_window(_with_shared(dataset))
    except UnreadableImageError:
        return False


def _dataset(data: bytes) -> Any:  # noqa: ANN401  pydicom's Dataset
    pydicom = _pydicom()
    if _DEFLATED in data[:4096] and len(data) > _MOST_DEFLATED_BYTES:
        raise UnsupportedFeatureError(
            "DICOM that is compressed as a whole (Deflated) is not supported: save it without"
        )
    try:
        return pydicom.dcmread(BytesIO(data))
    except Exception as error:
        raise DamagedImageError(
            f"damaged or truncated DICOM file ({type(error).__name__})"
        ) from None


@cache
def _pydicom() -> ModuleType:
    pydicom = needed("pydicom", "DICOM", ", or convert it to PNG")
    # It warns of values that are not as the standard says, and repeats them.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    return pydicom


def _check(dataset: Any) -> None:  # noqa: ANN401
    """Raise UnreadableImageError for a file without pixels, or with too many."""
    if "PixelData" not in dataset:
        raise UnsupportedFeatureError(
            "DICOM without a picture, or with one of floating-point values: leave it out"
        )
    num_values = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    itemsize = max(1, int(dataset.BitsAllocated) // 8)
    check_size(int(dataset.Columns), int(dataset.Rows))
    check_value_bytes(num_values, itemsize)


def _frame_values(dataset: Any, frame: int) -> ChannelValues:  # noqa: ANN401
    from pydicom.pixels.processing import apply_color_lut  # noqa: PLC0415  of an extra
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415

    values = pixel_array(dataset, index=frame)
    colour = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if values.ndim == 2 and colour == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        # Palettes hold 8 or 16 bits, all of which are used.
        if values.dtype != np.uint8:
            values = (values >> 8).astype(np.uint8)
    if values.ndim == 3:
        bits = int(dataset.BitsStored)
        declared = None if values.dtype == np.uint8 else (0.0, float((1 << bits) - 1))
        return ChannelValues(values, None, "DICOM", declared)
    if colour not in _GREY:
        raise UnsupportedFeatureError("DICOM of this colour space is not supported: convert it")
    return _grey(dataset, values, is_inverted=colour == "MONOCHROME1")


def _grey(
    dataset: Any,  # noqa: ANN401
    stored_HW: NDArray[Any],
    *,
    is_inverted: bool,
) -> ChannelValues:
    """Return grey values after rescaling and, if the file has one, its window."""
    from pydicom.pixels.processing import apply_modality_lut  # noqa: PLC0415

    bits = int(dataset.BitsStored)
    is_signed = int(dataset.get("PixelRepresentation", 0)) == 1
    lowest = -(1 << (bits - 1)) if is_signed else 0
    limits = np.array([lowest, lowest + (1 << bits) - 1])
    # Frames of newer files hold the settings for all frames in a sequence.
    settings = _with_shared(dataset)
    values_HW = apply_modality_lut(stored_HW, settings)
    if "ModalityLUTSequence" in settings:
        declared = (float(values_HW.min()), float(values_HW.max()))
    else:
        ends = apply_modality_lut(limits, settings)
        declared = (float(ends.min()), float(ends.max()))
    if _has_window(settings):
        values_HW = _windowed(values_HW, settings)
        declared = (0.0, 255.0)
    elif bits <= 8 and not is_signed and declared == (0.0, float((1 << bits) - 1)):
        values_HW = np.rint(values_HW * (255 / declared[1])).astype(np.uint8)
        declared = (0.0, 255.0)
    if is_inverted:
        inverted_HW = declared[0] + declared[1] - values_HW.astype(np.float64)
        values_HW = inverted_HW.astype(values_HW.dtype)
    if values_HW.dtype == np.uint8:
        return ChannelValues(values_HW[..., np.newaxis], None, "DICOM")
    # One type for all, because files of one data set may differ in how they store values.
    return ChannelValues(values_HW.astype(np.float32)[..., np.newaxis], None, "DICOM", declared)


def _with_shared(dataset: Any) -> Any:  # noqa: ANN401
    """Return a dataset with the rescaling and the window that a file has for all its frames."""
    from pydicom.dataset import Dataset  # noqa: PLC0415

    found = Dataset()
    for shared in dataset.get("SharedFunctionalGroupsSequence", None) or []:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for group in shared.get(name, None) or []:
                found.update(group)
    names = (
        *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "PixelRepresentation"),
    )
    for name in names:
        if name in dataset:
            setattr(found, name, dataset.get(name))
    return found


def _has_window(settings: Any) -> bool:  # noqa: ANN401
    return _first(settings, "WindowWidth") is not None


def _first(settings: Any, name: str) -> float | None:  # noqa: ANN401
    """Return a number, the first of several; None if there is none."""
    value = settings.get(name)
    if value is None or value == "":
        return None
    values = value if hasattr(value, "__iter__") else [value]
    for number in values:
        return float(number)
    return None


def _windowed(values_HW: NDArray[Any], settings: Any) -> NDArray[np.uint8]:  # noqa: ANN401
    """Return values as the first window of the file maps them to 0..255.

    Formulas: the standard's part 3, section C.11.2.1.2 and C.11.2.1.3.
    """
    centre = _first(settings, "WindowCenter")
    width = _first(settings, "WindowWidth")
    function = str(settings.get("VOILUTFunction") or "LINEAR")
    if centre is None or width is None or width <= 0:
        raise DamagedImageError("damaged DICOM file: its window has no width")
    values_HW = values_HW.astype(np.float64)
    if function == "SIGMOID":
        share_HW = 1 / (1 + np.exp((-4 * (values_HW - centre) / width).clip(-700, 700)))
    elif function == "LINEAR_EXACT":
        share_HW = (values_HW - centre) / width + 0.5
    elif width <= 1:
        share_HW = (values_HW > centre - 0.5).astype(np.float64)
    else:
        share_HW = (values_HW - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(255 * share_HW.clip(0, 1)).astype(np.uint8)


@contextmanager
def _explained(dataset: Any) -> Iterator[None]:  # noqa: ANN401
    """Turn nearly any exception, which pydicom raises for damaged files, into the one for a reason.

    Elements are parsed when they are first used, so that each use may raise one. The text of the
    exception is left out, because it may repeat texts of the file.
    """
    try:
        yield
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        raise _reason(dataset, error) from None


def _reason(dataset: Any, error: Exception) -> UnreadableImageError:  # noqa: ANN401
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    is_missing_decoder = "plugin" in str(error)
    if not is_missing_decoder or syntax is None:
        return DamagedImageError(f"damaged or truncated DICOM file ({type(error).__name__})")
    # The name of an unknown syntax is a text of the file.
    name = "an unknown syntax" if syntax.name == str(syntax) else syntax.name
    return UnsupportedFeatureError(
        f"DICOM compressed as {name} needs a decoder of pydicom: pip install pylibjpeg "
        f"pylibjpeg-libjpeg pylibjpeg-openjpeg"
    )
