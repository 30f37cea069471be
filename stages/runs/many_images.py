"""Settings that save space in a run of very many images, which its recipe has to ask for.

They are no defaults: a default that followed the number of images would change the artifacts of
runs that exist.
"""

from deepcluster_core.text import readable_size
from stages.runs.estimate import LABEL_BYTES, LABEL_BYTES_WITHOUT_PATH
from stages.runs.recipe import Recipe

MANY = 10_000_000
"""Number of images from which on there is advice: the paths of an epoch then take half a gigabyte,
and AlexNet's features 80 GB."""


def advice(recipe: Recipe, num_images: int) -> list[str]:
    """Return a sentence for each setting that would save much space with so many images."""
    if num_images < MANY:
        return []
    found: list[str] = []
    if recipe.cluster.paths is not False:
        saved = (LABEL_BYTES - LABEL_BYTES_WITHOUT_PATH) * num_images
        found.append(
            f"cluster.paths: false saves about {readable_size(saved)} an epoch: the tables of "
            f"labels then leave out the paths, which the index of the images has"
        )
    wants_pca = recipe.cluster.pca_dim != "none" and recipe.extract.from_file is None
    if wants_pca and recipe.extract.pca is None:
        found.append(
            "extract.pca: {} stores the features reduced to 256 values an image, by a PCA of a "
            "million images"
        )
    return found
