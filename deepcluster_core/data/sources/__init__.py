"""Where images come from: a folder, a list, Parquet files or tar shards."""

from deepcluster_core.data.sources.base import Source, SourceImage
from deepcluster_core.data.sources.opening import Kind, has_samples, open_source

__all__ = ["Kind", "Source", "SourceImage", "has_samples", "open_source"]
