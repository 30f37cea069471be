"""Where images come from: a folder, a list, Parquet files, tar shards or GeoTIFF scenes."""

from deepcluster_core.data.sources.base import Source, SourceImage
from deepcluster_core.data.sources.opening import Kind, has_samples, has_scenes, open_source

__all__ = ["Kind", "Source", "SourceImage", "has_samples", "has_scenes", "open_source"]
