"""Artifact formats on disk. Only these modules use Zarr, Parquet, Arrow and safetensors."""
