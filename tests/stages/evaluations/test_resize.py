import pytest

from deepcluster_core.errors import ConfigError
from stages.evaluations.shared.resize import resize_for


@pytest.mark.parametrize(
    ("image_size", "around_the_centre", "anywhere"),
    [(224, 256, 256), (112, 128, 128), (96, 110, 110), (64, 64, 73), (32, 32, 37), (16, 16, 18)],
)
def test_resize_for__auto_leaves_a_margin_where_crops_move_or_images_are_large(
    image_size: int, around_the_centre: int, anywhere: int
) -> None:
    assert resize_for(image_size, "auto", only_centre=True) == around_the_centre
    assert resize_for(image_size, "auto", only_centre=False) == anywhere


def test_resize_for__refuses_a_crop_that_does_not_fit() -> None:
    assert resize_for(32, 40, only_centre=True) == 40
    with pytest.raises(ConfigError, match=r"resize: 30 px is smaller than .* 32"):
        resize_for(32, 30, only_centre=True)
