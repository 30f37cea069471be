"""A network's share of the processor's matrix product."""

import pytest

from benchmarks.bound_sides import extraction, training

SMALLNET = {"name": "smallnet", "image_size": 16, "dropout": 0.0}
BATCH = 4
# Convolutions of 3 x 3 on maps of 16, 8, 4 and 2 px, and two linear layers: multiplications and
# additions for one image.
CONVOLUTIONS = [2 * 9 * a * b * side**2 for a, b, side in ((2, 32, 16), (32, 64, 8), (64, 128, 4))]
CONVOLUTIONS.append(2 * 9 * 128 * 256 * 2**2)
FORWARD = sum(CONVOLUTIONS) + 2 * 256 * 256 * 2


@pytest.mark.slow
def test_extraction__counts_the_forward_pass() -> None:
    figures = extraction(SMALLNET, BATCH, "float32", 0.01)

    assert figures["gflop_per_image"] * 1e9 == FORWARD
    assert figures["share"] == pytest.approx(
        figures["images_per_s"] / figures["bound_images_per_s"]
    )


@pytest.mark.slow
def test_training__counts_both_passes_without_the_gradient_of_the_images() -> None:
    figures = training(SMALLNET, BATCH, "float32", 0.01)

    head = 2 * 256 * 100
    assert figures["gflop_per_image"] * 1e9 == 3 * (FORWARD + head) - CONVOLUTIONS[0]
