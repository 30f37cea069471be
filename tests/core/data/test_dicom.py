"""DICOM files as pydicom writes them, against what pydicom reads from them.

Suffixes: H height, W width, F frames, C channels.
"""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, apply_windowing, convert_color_space
from pydicom.pixels.utils import pixel_array

from deepcluster_core.data.deep_scales import DeepScales, Measurement, kind_of, sample
from deepcluster_core.data.picture_values import channel_values
from tests.support.dicoms import PATIENT, bytes_of, dataset_of, dicom_of
from tests.support.pictures import pixels_of, problem, reason

SIDES = (24, 32)


def noise(*sides: int, dtype: str = "uint16", top: int = 4096) -> NDArray[Any]:
    return np.random.default_rng(1).integers(0, top, sides).astype(dtype)


def values_of(data: bytes) -> NDArray[Any]:
    found = channel_values(data, 1)
    assert found is not None
    return found.values_HWC[..., 0]


def scales_of(*files: bytes) -> DeepScales:
    measurement = Measurement()
    for data in files:
        found = channel_values(data, 1)
        assert found is not None
        measurement.add(kind_of(found.values_HWC), sample(found.values_HWC, None))
    return measurement.scales()


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (0.25, -3.5)])
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_decode__values_are_rescaled(slope: float, intercept: float, dtype: str) -> None:
    stored_HW = noise(*SIDES, dtype=dtype)
    data = dicom_of(stored_HW, RescaleSlope=slope, RescaleIntercept=intercept)

    np.testing.assert_allclose(values_of(data), stored_HW * float(slope) + intercept, rtol=1e-6)


def test_decode__range_is_that_of_the_declared_bits() -> None:
    stored_HW = noise(*SIDES)
    pixels_HW = pixels_of(dicom_of(stored_HW, bits=12), 1)[..., 0]

    assert np.array_equal(pixels_HW, np.rint(stored_HW * (255 / 4095)))


def test_decode__monochrome1_is_inverted() -> None:
    stored_HW = noise(*SIDES)
    bright = dicom_of(stored_HW, bits=12)
    dark = dicom_of(stored_HW, bits=12, photometric="MONOCHROME1")

    assert np.array_equal(values_of(dark), 4095 - values_of(bright))
    assert np.array_equal(pixels_of(dark, 1), 255 - pixels_of(bright, 1))
    eight_HW = noise(*SIDES, dtype="uint8", top=256)
    inverted = dicom_of(eight_HW, photometric="MONOCHROME1")
    assert np.array_equal(pixels_of(inverted, 1)[..., 0], 255 - eight_HW)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_decode__window_is_that_of_pydicom(function: str) -> None:
    dataset = dataset_of(
        noise(*SIDES),
        bits=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=[40, 300],
        WindowWidth=[400, 2000],
        VOILUTFunction=function,
    )
    shown_HW = apply_windowing(dataset.pixel_array - 1024.0, dataset)
    # pydicom maps the window to the range of the rescaled values.
    low, high = -1024, 4095 - 1024

    pixels_HW = pixels_of(bytes_of(dataset), 1)[..., 0]

    expected_HW = np.rint((shown_HW - low) * (255 / (high - low)))
    assert np.abs(pixels_HW - expected_HW).max() <= 1, "rounding"
    assert (pixels_HW == expected_HW).mean() > 0.99


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_decode__colour(photometric: str, planar: int) -> None:
    stored_HWC = noise(*SIDES, 3, dtype="uint8", top=256)
    layout = stored_HWC.transpose(2, 0, 1) if planar else stored_HWC
    data = dicom_of(layout, photometric=photometric, PlanarConfiguration=planar)
    expected_HWC = stored_HWC
    if photometric == "YBR_FULL":
        expected_HWC = convert_color_space(stored_HWC, "YBR_FULL", "RGB")

    assert np.array_equal(pixels_of(data), expected_HWC)
    assert np.array_equal(pixels_of(data), pixel_array(BytesIO(data)))


def test_decode__palette() -> None:
    stored_HW = noise(*SIDES, dtype="uint8", top=256)
    dataset = dataset_of(stored_HW, photometric="PALETTE COLOR")
    for number, name in enumerate(("Red", "Green", "Blue")):
        table = (np.arange(256)[:: -1 if number == 1 else 1] * 257).astype("<u2")
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", table.tobytes())

    expected_HWC = apply_color_lut(stored_HW, dataset) >> 8

    assert np.array_equal(pixels_of(bytes_of(dataset)), expected_HWC)


def test_decode__run_length_coded() -> None:
    dataset = dataset_of(noise(*SIDES), bits=12)
    plain = bytes_of(dataset)
    dataset.compress(uid.RLELossless)

    assert np.array_equal(values_of(bytes_of(dataset)), values_of(plain))


def test_decode__frames() -> None:
    stored_FHW = noise(5, *SIDES)
    dataset = dataset_of(stored_FHW, bits=12, frames=5)

    assert np.array_equal(values_of(bytes_of(dataset)), stored_FHW[0])
    highest = channel_values(bytes_of(dataset), 1, "max")
    assert highest is not None
    assert np.array_equal(highest.values_HWC[..., 0], stored_FHW.max(axis=0))


def test_decode__percentiles_of_several_files() -> None:
    first, second = noise(*SIDES), noise(*SIDES) // 2
    files = [
        dicom_of(values_HW, RescaleIntercept=-1024, RescaleSlope=1) for values_HW in (first, second)
    ]
    both = np.concatenate([first, second]) - 1024.0
    low, high = np.percentile(both, [0.1, 99.9])

    pixels_HW = pixels_of(files[1], 1, deep=scales_of(*files))[..., 0]

    expected_HW = np.rint(((second - 1024.0 - low) * (255 / (high - low))).clip(0, 255))
    assert np.array_equal(pixels_HW, expected_HW)


# What cannot be read


def test_decode__message_has_no_word_of_the_patient() -> None:
    data = dicom_of(noise(*SIDES), bits=12)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(132, len(data) - 1500, 3):
            damaged[at] = rng.integers(256)
        text = problem(bytes(damaged), 1)
        assert "Doe" not in text
        assert "Jane" not in text
    assert PATIENT.encode() in data


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.95])
def test_decode__truncated_is_refused(share: float) -> None:
    data = dicom_of(noise(*SIDES), bits=12)
    assert "DICOM" in reason(data[: int(share * len(data))], 1)


def test_decode__without_pixels() -> None:
    dataset = dataset_of(noise(*SIDES))
    del dataset.PixelData
    assert reason(bytes_of(dataset), 1).startswith("DICOM without a picture")


def test_decode__size_is_checked_before_decoding() -> None:
    dataset = dataset_of(noise(*SIDES))
    dataset.Rows = dataset.Columns = 60_000
    assert "over the limit" in reason(bytes_of(dataset), 1)


def test_decode__compression_without_a_decoder() -> None:
    dataset = dataset_of(noise(*SIDES, dtype="uint8", top=256))
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    assert "pip install pylibjpeg" in reason(bytes_of(dataset), 1)


@pytest.mark.usefixtures("without_extras")
def test_decode__without_the_extra_the_package_is_named() -> None:
    assert "pip install 'deepcluster-pipeline[dicom]'" in reason(bytes(128) + b"DICM", 1)
