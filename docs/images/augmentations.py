"""Draw augmentations.png for docs/how-to/augmentation.md: `python -m docs.images.augmentations`.

Suffixes: B views, S side of the view in pixels, C channels, H and W.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from deepcluster_core.data.augment import Augmentation, ViewKind, Views
from deepcluster_core.data.augment_config import BlurConfig, ColourConfig, NoiseConfig
from deepcluster_core.data.views import RandomCrop

PICTURE = Path(__file__).with_suffix(".png")
SIDE, GAP, TITLE = 72, 4, 20
"""Side of a view, distance of views, and height of a title, in pixels."""
NUM_VIEWS, COLUMNS = 4, 3
RATIO = (3 / 4, 4 / 3)
WHOLE = RandomCrop(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
V2_COLOUR = ColourConfig(
    brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8, grey=0.2
)

PANELS = {
    "crop_area: [0.3, 1], flip": (RandomCrop((0.3, 1.0), RATIO, 0.5), Augmentation()),
    "views: … area: [0.05, 0.14]": (RandomCrop((0.05, 0.14), RATIO, 0.5), Augmentation()),
    "all of DeepCluster-v2": (
        RandomCrop((0.08, 1.0), RATIO, 0.5),
        Augmentation(colour=V2_COLOUR, blur=BlurConfig()),
    ),
    "flip_vertical": (WHOLE, Augmentation(flip_vertical=0.5)),
    "turn": (WHOLE, Augmentation(turn=1.0)),
    "noise": (WHOLE, Augmentation(noise=NoiseConfig(probability=1.0, deviation=(0.02, 0.1)))),
    "colour: brightness, contrast 0.2": (
        WHOLE,
        Augmentation(colour=ColourConfig(brightness=0.2, contrast=0.2, probability=1.0)),
    ),
    "colour of DeepCluster-v2": (WHOLE, Augmentation(colour=V2_COLOUR)),
    "blur: radius 0.1 to 2 pixels": (WHOLE, Augmentation(blur=BlurConfig(probability=1.0))),
}
"""For each title, the crop and what happens to it."""


def picture() -> Image.Image:
    """Return the picture: a panel with a title and several views for each of `PANELS`."""
    photograph_HWC = np.asarray(load_sample_image("flower.jpg"))[:, 60:-40]
    width = NUM_VIEWS * (SIDE + GAP) + 2 * GAP
    height = TITLE + SIDE + 2 * GAP
    num_rows = -(-len(PANELS) // COLUMNS)
    drawn = Image.new("RGB", (COLUMNS * width, num_rows * height), "white")
    canvas = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(size=13)
    for number, (title, (crop, augmentation)) in enumerate(PANELS.items()):
        left, top = number % COLUMNS * width + GAP, number // COLUMNS * height
        canvas.text((left, top + 2), title, fill="black", font=font)
        for view_SSC in views_of(photograph_HWC, crop, augmentation):
            drawn.paste(Image.fromarray(view_SSC), (left, top + TITLE))
            left += SIDE + GAP
    return drawn


def views_of(
    image_HWC: NDArray[np.uint8], crop: RandomCrop, augmentation: Augmentation
) -> NDArray[np.uint8]:
    """Return several views of an image as training would have them, (B, S, S, C)."""
    views = Views((ViewKind(NUM_VIEWS, SIDE, crop),), augmentation, seed=5)
    (views_BSSC,) = views.of_images([image_HWC], 0, image_HWC.shape[2])
    return views_BSSC


if __name__ == "__main__":
    # A palette of 256 colours takes a third of the space.
    picture().quantize(256).save(PICTURE, optimize=True)
