"""Runs on an object store, named by a URL: find or make the local mirror that stands for one."""

import re
from pathlib import Path

from deepcluster_core.artifacts.mirrored import forget
from deepcluster_core.artifacts.remote.urls import is_url, normal_url
from deepcluster_core.errors import ConfigError
from stages.runs.compute import ComputeConfig, scratch_folder

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/+")
_WITH_SECRET = re.compile(r"^[^/]+://[^/]*@|[?&]", re.ASCII)
_OPENED: dict[tuple[str, Path], tuple[ComputeConfig, Path]] = {}
"""The mirrors that this process has opened, by URL and usual scratch folder."""


def url_of(run: str) -> str | None:
    """Return the URL of a run on an object store; None if the text is a path or a name.

    Raises:
        ConfigError: the URL holds credentials, or is incomplete.
    """
    text = _SCHEME.sub(r"\1://", run)  # `Path` turns `s3://bucket` into `s3:/bucket`
    if text.startswith("file://"):
        text = text.replace("file://", "file:///", 1)
    if not is_url(text):
        return None
    if _WITH_SECRET.search(text):
        raise ConfigError(
            f"{_SCHEME.match(text)[0]}…: the URL of a run must not hold credentials.\n"  # pyright: ignore[reportOptionalSubscript]
            f"  Cause: it is shown, stored and sent to Prefect\n"
            f"  Fix:   set them in the environment, such as AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY"
        )
    return normal_url(text)


def mirror_root(url: str, compute: ComputeConfig | None = None) -> Path:
    """Return the local folder of a run on an object store, with what is small in it up to date.

    Args:
        url: normal URL of the run.
        compute: where the run computes; None for what its own recipe says, if it has one.

    Raises:
        ConfigError: the URL is not one of an object store.
        StoreError: the store is not available.
    """
    place = (url, scratch_folder(ComputeConfig()))
    opened = _OPENED.get(place)
    if opened is not None and compute in (None, opened[0]):
        return opened[1]
    if compute is None:
        compute = _own_compute(url)
    root = _open(url, compute)
    _OPENED[place] = compute, root
    return root


def look_again(run: str) -> None:
    """Find out anew what an object store has of a run, when the run is next opened."""
    url = url_of(run)
    for place in [place for place in _OPENED if place[0] == url]:
        _, root = _OPENED.pop(place)
        forget(root)


def _own_compute(url: str) -> ComputeConfig:
    """Return where the run itself says that it computes, as far as that is possible here."""
    # Imported here, because a recipe imports what most runs do not need.
    from stages.runs.recipe import load_own_recipe  # noqa: PLC0415

    usual = ComputeConfig()
    config = _open(url, usual) / "config.yaml"
    if not config.exists():
        return usual
    own = load_own_recipe(config).compute
    # The folder may be one of another machine.
    is_here = own.scratch is None or own.scratch.is_dir()
    return own if is_here else own.model_copy(update={"scratch": None})


def _open(url: str, compute: ComputeConfig) -> Path:
    from deepcluster_core.artifacts.remote.opening import open_mirror  # noqa: PLC0415

    scratch = scratch_folder(compute).absolute()
    mirror = open_mirror(url, scratch, compute.scratch_bytes)
    mirror.pull_small()
    return mirror.root
