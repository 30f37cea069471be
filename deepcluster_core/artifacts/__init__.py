"""What stages leave on disk. Only these modules know Zarr, Parquet, Arrow and safetensors."""
