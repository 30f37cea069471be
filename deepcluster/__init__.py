"""DeepCluster as a Python library: what the command `deepcluster` does, for notebooks and scripts.

    import deepcluster

    run = deepcluster.run_epochs("demo", epochs=2)
    run.labels()                # a pandas frame: which cluster each image is in
    run.embed("photos/")        # features of images that the run has never seen

Nothing here uses Prefect. Importing this package is cheap and changes nothing in the process; the
modules behind a name are imported when the name is first used. Every error that you can fix
yourself is a `DeepClusterError`, whose message names the problem and the fix.

The command also calls `keep_freed_memory` once, for the whole process. A script that trains or
embeds many images is faster if it calls it too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepcluster.arrays import Projection, fit_pca, kmeans
    from deepcluster.frames import images_from_frame
    from deepcluster.networks import build_network
    from deepcluster.recipes import load_recipe, run_epochs
    from deepcluster.runs import Embedding, Run, open_run
    from deepcluster_core.errors import DeepClusterError
    from deepcluster_core.memory import keep_freed_memory

__all__ = [
    "DeepClusterError",
    "Embedding",
    "Projection",
    "Run",
    "build_network",
    "fit_pca",
    "images_from_frame",
    "keep_freed_memory",
    "kmeans",
    "load_recipe",
    "open_run",
    "run_epochs",
]

_MODULES = {
    "deepcluster.arrays": ("Projection", "fit_pca", "kmeans"),
    "deepcluster.frames": ("images_from_frame",),
    "deepcluster.networks": ("build_network",),
    "deepcluster.recipes": ("load_recipe", "run_epochs"),
    "deepcluster.runs": ("Embedding", "Run", "open_run"),
    "deepcluster_core.errors": ("DeepClusterError",),
    "deepcluster_core.memory": ("keep_freed_memory",),
}
"""The public names by the module that each is imported from on first use."""


def __getattr__(name: str) -> Any:  # noqa: ANN401  any of the names above
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
