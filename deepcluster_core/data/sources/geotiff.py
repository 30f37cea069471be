"""Windows of GeoTIFF scenes as a source of images."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from deepcluster_core.data.sources.base import Source, SourceImage, fingerprint_files
from deepcluster_core.errors import ConfigError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.geotiff.scenes import Scene, import_rasterio, is_scene_name, read_scene
from deepcluster_core.geotiff.windows import Grid, Window, read_window
from deepcluster_core.text import counted


class GeotiffSource:
    """The windows of scenes, in the order of the scenes' names, of the rows and of the columns.

    The scenes are the .tif and .tiff files of a folder or list, or a single file; a window has the
    label of its scene. A scene that cannot be opened, or is smaller than a window, is yielded as an
    image that cannot be read. Windows without data are yielded too, and left out when read.
    """

    def __init__(self, files: Source, folder: Path, tile: TileConfig) -> None:
        """Store the arguments; no scene is opened yet.

        Args:
            files: the source that finds the scenes, whose files are files on disk.
            folder: the folder to which its paths are relative.
            tile: how scenes are cut.

        Raises:
            ConfigError: rasterio cannot be imported.
        """
        import_rasterio()
        self._files = files
        self._folder = folder
        self._tile = tile
        self._others = 0
        self._edge = 0

    @property
    def originals(self) -> None:
        """None: images are parts of files."""
        return None

    def file_of(self, scene: str) -> Path:
        """Return the file of a scene, given its path in tables."""
        return self._folder / scene

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        self._others = self._edge = 0
        for image in self._files.images():
            if not is_scene_name(image.path):
                self._others += 1
                continue
            file = self.file_of(image.path)
            scene = self._scene(file)
            if isinstance(scene, str):
                yield SourceImage(image.path, image.label, _unreadable(scene))
                continue
            grid = Grid.of(scene, self._tile)
            self._edge = max(self._edge, _uncovered(scene, grid, self._tile))
            for row, col in grid.corners():
                window = Window(image.path, row, col, self._tile.size)
                read = partial(read_window, file, window, self._tile)
                yield SourceImage(window.path, image.label, read)

    def fingerprint(self) -> str:
        """See `Source`. Labels count too."""
        scenes = self._scenes()
        files = ((f"{image.path}\0{image.label}", self.file_of(image.path)) for image in scenes)
        return fingerprint_files("geotiff", files)

    def count(self) -> int:
        """Add up the windows of the scenes, whose headers alone are read."""
        count = 0
        for image in self._scenes():
            scene = self._scene(self.file_of(image.path))
            # What cannot be cut is one image that cannot be read.
            count += 1 if isinstance(scene, str) else Grid.of(scene, self._tile).num_windows
        return count

    def notes(self) -> list[str]:
        """See `Source`."""
        notes = self._files.notes()
        if self._edge:
            notes.append(
                f"at the right and lower edges of scenes up to {self._edge} pixels are in no window"
            )
        if self._others:
            others = counted(self._others, "image")
            notes.append(f"left out: {others} whose name ends in neither .tif nor .tiff")
        return notes

    def check_channels(self, channels: int) -> None:
        """Raise ConfigError unless the first scene that can be read has as many bands to use."""
        bands = self._tile.bands
        for image in self._scenes():
            scene = self._scene(self.file_of(image.path))
            if isinstance(scene, str):
                continue
            if bands is not None and max(bands) > max(scene.bands):
                raise ConfigError(
                    f"dataset.tile.bands: {list(bands)}: {image.path} has the bands "
                    f"{list(scene.bands)}.\n  Fix: choose among these."
                )
            chosen = bands or scene.bands
            if len(chosen) != channels:
                raise ConfigError(
                    f"dataset.channels: {channels}, but windows of {image.path} have the bands "
                    f"{list(chosen)}.\n"
                    f"  Fix: dataset.channels: {len(chosen)}, or choose bands with "
                    f"dataset.tile.bands."
                )
            return

    def _scenes(self) -> Iterator[SourceImage]:
        return (image for image in self._files.images() if is_scene_name(image.path))

    def _scene(self, file: Path) -> Scene | str:
        """Return what the header of a scene says, or the reason why it cannot be cut."""
        try:
            scene = read_scene(file)
        except OSError as error:
            return str(error)
        if Grid.of(scene, self._tile).num_windows == 0:
            return (
                f"the scene of {scene.width} x {scene.height} pixels is smaller than a window "
                f"(dataset.tile.size: {self._tile.size})"
            )
        return scene


def _unreadable(reason: str) -> Callable[[], bytes]:
    """Return a function that raises OSError with a reason."""

    def read() -> NoReturn:
        raise OSError(reason)

    return read


def _uncovered(scene: Scene, grid: Grid, tile: TileConfig) -> int:
    """Return how many pixels at the right or the lower edge are in no window, the larger number."""
    bottom = (grid.num_rows - 1) * grid.step + tile.size
    right = (grid.num_cols - 1) * grid.step + tile.size
    return max(scene.height - bottom, scene.width - right)
