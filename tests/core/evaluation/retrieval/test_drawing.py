"""The picture of what was found."""

import numpy as np

from deepcluster_core.evaluation.retrieval.drawing import COLOUR, Shown, draw_retrieved


def test_draw_retrieved__frames_tell_the_verdict() -> None:
    flat = np.full((30, 40, 3), 77, np.uint8)
    grey = np.full((300, 20, 1), 77, np.uint8)
    found = [(flat, "right"), (grey, "wrong"), (flat, "junk")]

    picture_HWC = draw_retrieved([Shown(flat[:5, :9], 0.5, found), Shown(grey, 1.0, found)])  # pyright: ignore[reportArgumentType]  a list of pairs

    pixels, counts = np.unique(picture_HWC.reshape(-1, 3), axis=0, return_counts=True)
    number = {tuple(map(int, p)): int(n) for p, n in zip(pixels, counts, strict=True)}
    # Four pixels around 112 x 84 and 7 x 112; captions have some grey, too.
    assert number[COLOUR["right"]] == 2 * (120 * 92 - 112 * 84)
    assert number[COLOUR["wrong"]] == 2 * (15 * 120 - 7 * 112)
    assert number[COLOUR["junk"]] >= number[COLOUR["right"]]
    # Four columns of at most 112 + 8 px and three gaps of 8; two rows as high as the tall image.
    assert picture_HWC.shape == (2 * (112 + 8 + 14) + 8, 4 * 120 + 24, 3)
