"""What is read of a source."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.geotiff.config import TileConfig
from deepcluster_core.store_urls import Location


@dataclass(frozen=True)
class Wanted:
    """What is read of a source; the arguments of `open_source`."""

    with_labels: bool = True
    """Whether to look for labels."""
    image_key: Sequence[str] | None = None
    """Extensions or the column of the pictures to take."""
    label_key: str | None = None
    """Key in JSON, or column, of the labels."""
    tile: TileConfig | None = None
    """How GeoTIFF scenes are cut."""

    def check_has_effect(self, location: Location, kind: str, *, has_samples: bool) -> None:
        """Raise ConfigError for an option that sources of a kind do not read, so a mistake."""
        if self.image_key and not has_samples:
            keys = ", ".join(self.image_key)
            raise ConfigError(
                f"dataset.image_key: {keys} chooses among the pictures of a sample in tar or "
                f"Parquet files, but {location} is of kind {kind}.\n"
                f"  Fix: remove dataset.image_key."
            )
        if self.label_key is not None and not has_samples:
            raise ConfigError(
                f"dataset.label_key: {self.label_key} names the label of a sample in tar or "
                f"Parquet files, but {location} is of kind {kind}.\n"
                f"  Fix: remove dataset.label_key."
            )
        if self.tile is not None and kind != "geotiff":
            raise ConfigError(
                f"dataset.tile cuts GeoTIFF scenes, but dataset.kind is {kind}.\n"
                f"  Fix: dataset.kind: geotiff, or remove dataset.tile."
            )


def several_kinds(location: Location, holds: str, kinds: Sequence[str]) -> SourceError:
    """Return the error for a folder with files of several kinds.

    Args:
        location: the folder.
        holds: summary of its files.
        kinds: the kinds that it could be.
    """
    return SourceError(
        f"{location}: holds {holds}, so it could be of kind {' or '.join(kinds)}.\n"
        f"  Fix: choose one (dataset.kind in a recipe, --kind of assign and embed), or give a "
        f"folder with files of one kind only."
    )
