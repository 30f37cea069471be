"""HEIC files as pillow-heif writes them. Suffixes: H height, W width, C channels."""

from io import BytesIO

import numpy as np
import pillow_heif
import pytest

from deepcluster_core.data.decode import decode, upright_size
from tests.support.pictures import gradient, problem, reason


def heic_of(quality: int = 90, **options: int) -> bytes:
    pixels_HWC = gradient(48, 64)
    image = pillow_heif.from_bytes("RGB", (64, 48), pixels_HWC.tobytes())
    file = BytesIO()
    image.save(file, quality=quality, **options)
    return file.getvalue()


def test_decode__heic_is_what_pillow_heif_reads() -> None:
    data = heic_of()
    decoded = decode(data, channels=3, shorter_side=None)

    assert (decoded.format, decoded.width, decoded.height) == ("HEIF", 64, 48)
    assert np.array_equal(decoded.pixels_HWC, np.asarray(pillow_heif.read_heif(data)))
    assert np.abs(decoded.pixels_HWC.astype(int) - gradient(48, 64)).mean() < 8
    assert upright_size(data) == (64, 48)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_decode__truncated_heic_is_refused(share: float) -> None:
    data = heic_of()
    assert reason(data[: int(len(data) * share)])


def test_decode__damaged_heic_is_refused_or_read() -> None:
    data = heic_of()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for at in rng.integers(32, len(data), 4):
            damaged[at] = rng.integers(256)
        assert problem(bytes(damaged), 3) != "no reason"


@pytest.mark.usefixtures("without_extras")
def test_decode__without_the_extra_the_package_is_named() -> None:
    text = reason(heic_of())
    assert text.startswith("HEIC needs the package pillow-heif: pip install 'deepcluster-pipeline[")
    assert "or convert it to JPEG" in text
