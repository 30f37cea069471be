"""The comparison of what grey and raw images teach, on a few digits in colours."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import learning
from benchmarks.digits import BRIGHTEST_GROUND, DARKEST_INK, write_digits
from benchmarks.learning import MEASURES


def test_write_digits__in_colours_that_show_in_every_channel(tmp_path: Path) -> None:
    count = write_digits(tmp_path, every=500, coloured=True)

    pictures = [np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.png"))]
    assert len(pictures) == count == 20
    for pixels_HW3 in pictures:
        assert pixels_HW3.shape == (28, 28, 3)
        assert pixels_HW3.max(axis=(0, 1)).min() >= DARKEST_INK
        assert pixels_HW3.min(axis=(0, 1)).max() <= BRIGHTEST_GROUND
    corners_N3 = {tuple(pixels_HW3[0, 0]) for pixels_HW3 in pictures}
    assert len(corners_N3) == count, "each digit has a ground of its own"


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_main__compares_grey_with_raw(tmp_path: Path) -> None:
    out = tmp_path / "out.json"

    given = ["--grey", "--quick", "--repeats", "1", "--epochs", "1"]
    learning.main([*given, "--json", str(out), "--scratch", str(tmp_path)])

    record = json.loads(out.read_text())
    for side in ("raw", "grey"):
        figures = record["summary"][side]
        assert figures["neighbours"]["median"] > 0.5, "far above the 0.1 of chance"
        assert 0 < figures["nmi_labels"]["median"] < 1
    assert len(record["targets"]) == len(MEASURES)
