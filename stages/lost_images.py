"""Images that could not be read: whether there are too many of them to go on."""

from pathlib import Path

from deepcluster_core.artifacts.images_writer import ImagesWriter
from deepcluster_core.errors import SourceError
from deepcluster_core.store_urls import Location


def check_losses(
    writer: ImagesWriter, *, source: Location, max_skipped_fraction: float, listed_in: Path
) -> None:
    """Raise SourceError if no image, or too small a share of the images, could be read.

    Args:
        writer: has written all images that could be read.
        source: source of the images.
        max_skipped_fraction: `dataset.max_skipped_fraction`.
        listed_in: the table of the skipped images.
    """
    skipped = writer.skipped
    num_skipped = skipped.num_images - skipped.num_left_out
    total = writer.num_images + num_skipped
    if total == 0 and skipped.num_left_out:
        raise SourceError(
            f"{source}: all {skipped.num_left_out} windows are left out: they have "
            f"no data, or too little.\n  Fix: see dataset.tile.skip_empty."
        )
    if total == 0:
        raise SourceError(f"{source}: holds no images.\n  Fix: see dataset.source.")
    max_skipped = max_skipped_fraction * total
    if num_skipped <= max_skipped and writer.num_images > 0:
        return
    num_missing = skipped.num_missing
    missing = f" ({num_missing} of them do not exist)" if num_missing else ""
    # Without a single readable image, a higher limit would not help.
    alternative = ", or raise dataset.max_skipped_fraction" if writer.num_images else ""
    raise SourceError(
        f"{source}: {num_skipped} of {total} images cannot be read{missing}, more than "
        f"dataset.max_skipped_fraction = {max_skipped_fraction} allows.{skipped.listed()}"
        f"{skipped.reasons.most_common()}\n"
        f"  The whole list: {listed_in}\n"
        f"  Fix: {_cure(skipped.listed())}convert, repair or remove them{alternative}."
    )


def _cure(reasons: str) -> str:
    """Return the settings that read skipped files of other numbers of bands or pages, if any."""
    if "dataset.pages: channels joins" in reasons:
        return "set dataset.pages: channels; otherwise "
    if "dataset.channels: " not in reasons:
        return ""
    return (
        "set dataset.channels, and for GeoTIFF scenes dataset.tile.size, which cuts them into "
        "windows; otherwise "
    )
