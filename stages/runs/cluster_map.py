"""Write the clusters of a run of GeoTIFF scenes as maps with the coordinates of the scenes."""

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.outputs import whole_files
from deepcluster_core.artifacts.tables import label_frame, read_labels
from deepcluster_core.data.sources.geotiff import GeotiffSource
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.geotiff.cluster_map import map_of, write_map
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import SUFFIXES, Scene, read_scene
from deepcluster_core.geotiff.windows import Window, window_of
from deepcluster_core.text import printable
from stages.runs.past_run import PastRun

Clusters = Mapping[Window, int]
"""The cluster of each window."""


def write_cluster_maps(run: str, *, out: Path, epoch: int | None = None) -> None:
    """Write a GeoTIFF for each scene of a run, with a pixel for each window: its cluster.

    Args:
        run: folder of the run, or its name under `runs/`.
        out: the file to write, or a folder if the run has several scenes.
        epoch: epoch whose clusters are written; the last one if left out.

    Raises:
        ConfigError: the run does not exist, or its images are not windows of scenes; or `out` does
            not fit the number of scenes.
        ArtifactError: the labels are missing, or `out` exists.
        SourceError: a scene is missing or has changed.
    """
    past = PastRun.open(run)
    maps = _Maps.of(past, epoch)
    by_scene = maps.clusters_by_scene()
    is_single = len(by_scene) == 1
    if not is_single and out.suffix.lower() in SUFFIXES:
        raise ConfigError(
            f"--out {out}: the run has {len(by_scene)} scenes, each of which gets a file.\n"
            f"  Fix: --out {out.with_suffix('')}, a folder for them"
        )
    past.check_out(out, SUFFIXES if is_single else (out.suffix,))
    with whole_files(out) as (part,):
        for name, clusters in by_scene.items():
            maps.write(part if is_single else part / _file_name(name), name, clusters)
    num_windows = sum(map(len, by_scene.values()))
    files = "1 scene" if is_single else f"{len(by_scene):,} scenes"
    print(printable(f"{out}: {num_windows:,} windows of {files}, epoch {maps.epoch}"))  # noqa: T201


@dataclass(frozen=True)
class _Maps:
    """The scenes of a run and the clusters of an epoch."""

    past: PastRun
    source: GeotiffSource
    labels: Path
    epoch: int

    @classmethod
    def of(cls, past: PastRun, epoch: int | None) -> "_Maps":
        """Return the maps of an epoch, or of the last one if `epoch` is None."""
        dataset = past.recipe.dataset
        if not dataset.has_scenes:
            raise ConfigError(
                f"{past.folder.address}: its images are not windows of GeoTIFF scenes "
                f"(dataset.kind: {dataset.kind}), so they have no place on a map.\n"
                f"  Fix: a run with dataset.kind: geotiff has."
            )
        source = dataset.open_source()
        assert isinstance(source, GeotiffSource)
        number = past.epoch("labels", epoch)
        return cls(past, source, past.whole("labels", number), number)

    @property
    def tile(self) -> TileConfig:
        """How the scenes were cut."""
        return self.past.recipe.dataset.tile or TileConfig()

    def clusters_by_scene(self) -> dict[str, dict[Window, int]]:
        """Return the clusters of the windows of each scene that has some."""
        frame = label_frame(self.labels, self.past.folder.images(self.past.recipe.images))
        by_scene: defaultdict[str, dict[Window, int]] = defaultdict(dict)
        for path, cluster in zip(frame["path"], frame["cluster"], strict=True):
            window = window_of(path)
            if window is not None:
                by_scene[window.scene][window] = int(cluster)
        return dict(by_scene)

    def write(self, out: Path, name: str, clusters: Clusters) -> None:
        """Write the map of a scene."""
        file = self.source.file_of(name)
        scene = _read(file)
        try:
            cluster_HW, nodata = map_of(scene, self.tile, clusters, k=read_labels(self.labels).k)
        except ValueError as error:
            raise SourceError(
                f"{file}: {error}: it has changed since the run has read it.\n"
                f"  Fix: put the scene back that the run has read, or run the recipe again."
            ) from error
        out.parent.mkdir(parents=True, exist_ok=True)
        title = f"cluster of epoch {self.epoch}"
        write_map(
            out, cluster_HW, nodata, scene=scene, tile=self.tile, title=title, tags=self._tags(name)
        )

    def _tags(self, scene: str) -> dict[str, str]:
        """Return the metadata of a map: where it comes from."""
        manifest = read_manifest(self.labels)
        return {
            "deepcluster_run": self.past.folder.name,
            "deepcluster_epoch": str(self.epoch),
            "deepcluster_labels_key": manifest.key,
            "deepcluster_labels_digest": manifest.digest,
            "deepcluster_scene": scene,
            "deepcluster_tile": f"size {self.tile.size}, stride {self.tile.step}",
        }


def _read(file: Path) -> Scene:
    try:
        return read_scene(file)
    except OSError as error:
        raise SourceError(
            f"{file}: cannot be read ({error}), and the coordinates of the map are those of the "
            f"scene.\n  Fix: put it back."
        ) from error


def _file_name(scene: str) -> Path:
    """Return the path of a scene's map in the folder of maps: its own path, below that folder."""
    # A list may name scenes elsewhere.
    above = {os.sep: "root", "..": "up"}
    return Path(*(above.get(part, part) for part in PurePosixPath(scene).parts))
