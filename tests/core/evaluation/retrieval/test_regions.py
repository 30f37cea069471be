"""The grids of R-MAC."""

import pytest

from deepcluster_core.evaluation.retrieval.regions import Region, grid_regions


@pytest.mark.parametrize(
    ("height", "width", "number"),
    [(64, 64, 14), (48, 64, 20), (64, 48, 20), (43, 64, 20), (30, 64, 26), (1, 1, 14)],
)
def test_grid_regions__numbers_of_table_5(height: int, width: int, number: int) -> None:
    regions = grid_regions(height, width, levels=3, overlap=0.4)

    assert len(regions) == number
    assert all(
        0 <= top <= height - side and 0 <= left <= width - side and side >= 1
        for top, left, side in regions
    )


def test_grid_regions__by_hand() -> None:
    assert grid_regions(6, 8, levels=2, overlap=0.4) == [
        # Two of side 6: they overlap by 1 - 2 / 6, three would by 1 - 1 / 6, farther from 0.4.
        *(Region(0, 0, 6), Region(0, 2, 6)),
        # Side 2 · 6 / 3 = 4: two rows of three.
        *(Region(0, 0, 4), Region(0, 2, 4), Region(0, 4, 4)),
        *(Region(2, 0, 4), Region(2, 2, 4), Region(2, 4, 4)),
    ]
    assert grid_regions(5, 5, levels=2, overlap=0.4) == [
        Region(0, 0, 5),
        *(Region(0, 0, 3), Region(0, 2, 3), Region(2, 0, 3), Region(2, 2, 3)),
    ]


def test_grid_regions__upright_is_lying_turned() -> None:
    lying = grid_regions(31, 47, levels=3, overlap=0.4)

    upright = grid_regions(47, 31, levels=3, overlap=0.4)

    assert {Region(left, top, side) for top, left, side in lying} == set(upright)


@pytest.mark.parametrize(("width", "along"), [(161, 2), (220, 3), (280, 4), (700, 11)])
def test_grid_regions__neighbours_overlap_as_nearly_as_can_be(width: int, along: int) -> None:
    regions = grid_regions(100, width, levels=1, overlap=0.4)

    assert len(regions) == along, "(width / 100 - 1) / (1 - 0.4) + 1"
    assert regions[-1].left + regions[-1].side == width, "the last ends where the map does"


def test_grid_regions__a_panorama_of_one_row() -> None:
    regions = grid_regions(1, 40, levels=3, overlap=0.4)

    assert {side for _, _, side in regions} == {1}
    assert {left for _, left, _ in regions} == set(range(40))
