"""A Parquet file of pictures with classes, several of each object."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES, OBJECTS, VIEWS = 3, 4, 6
NUM_PICTURES = CLASSES * OBJECTS * VIEWS


def write_labelled_pictures(path: Path) -> None:
    """Write 72 pictures of 32 px: 3 classes of 4 objects each, in 6 views that hardly differ."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(CLASSES * OBJECTS):
        shape_SSC = generator.integers(256, size=(4, 4, 3), dtype=np.uint8)
        large_SSC = np.asarray(Image.fromarray(shape_SSC).resize((32, 32)))
        label = f"class-{number % CLASSES}"
        for view in range(VIEWS):
            noise_SSC = generator.integers(-20, 20, size=(32, 32, 3))
            pixels_SSC = np.clip(large_SSC + noise_SSC, 0, 255).astype(np.uint8)
            encoded = io.BytesIO()
            Image.fromarray(pixels_SSC).save(encoded, "png")
            name = f"{label}/thing-{number}-{view:02d}.png"
            image = {"bytes": encoded.getvalue(), "path": name}
            rows.append({"image": image, "label": label})
    pq.write_table(pa.Table.from_pylist(rows), path)
