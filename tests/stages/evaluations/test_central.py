import pytest

from deepcluster_core.errors import ConfigError
from stages.evaluations.central import resize_for


@pytest.mark.parametrize(
    ("image_size", "expected"), [(224, 256), (112, 128), (96, 110), (64, 64), (16, 16)]
)
def test_resize_for__auto_follows_the_size_of_the_images(image_size: int, expected: int) -> None:
    assert resize_for(image_size, "auto") == expected


def test_resize_for__refuses_a_crop_that_does_not_fit() -> None:
    assert resize_for(32, 40) == 40
    with pytest.raises(ConfigError, match=r"resize: 30 px is smaller than .* 32"):
        resize_for(32, 30)
