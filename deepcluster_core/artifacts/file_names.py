"""The names of the files and folders in artifacts.

They stand apart from the modules that read and write them, so that declaring a stage, and with it
reading a recipe, imports none of the libraries behind those formats.
"""

INDEX = "index.parquet"
SKIPPED = "skipped.parquet"
PIXELS = "pixels"
FEATURES = "features.zarr"
LABELS = "labels.parquet"
CLUSTERING = "_clustering.safetensors"
MODEL = "model.safetensors"
MOMENTUM = "momentum.safetensors"
METRICS = "metrics.parquet"
