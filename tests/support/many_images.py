"""Make and read the tables of very many images; run as a program under a limit of memory.

Usage: python -m tests.support.many_images FOLDER NUMBER
"""

import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.generated_index import NUM_CLASSES, path_of, write_generated_index
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.tables import read_cluster, read_index, read_labels, write_labels

NUM_CLUSTERS = 10_000


def main() -> None:
    """Make an index and labels, read them in all ways, and delete them."""
    folder, num = Path(sys.argv[1]), int(sys.argv[2])
    images, labels = folder / "images", folder / "labels"
    labels.mkdir(parents=True)
    image_id_N = np.arange(num, dtype=np.int32)

    def write() -> None:
        cluster_N, distance_N = image_id_N % NUM_CLUSTERS, (image_id_N % 977).astype(np.float32)
        centroids = np.zeros((NUM_CLUSTERS, 1), np.float32)
        write_labels(
            labels,
            images=images,
            cluster_N=cluster_N,
            distance_N=distance_N,
            clustering={"centroids": centroids},
        )

    try:
        _step("index", lambda: write_generated_index(images, num))
        _step("write_labels", write)
        _step("read_labels", lambda: _check_labels(labels, image_id_N))
        _step("read_cluster", lambda: _check_cluster(labels, num))
        _step("true_labels", lambda: _check_true_labels(images, image_id_N))
        _step("named_labels", lambda: _check_named_labels(images, image_id_N))
        _step("read_index", lambda: _check_index(images, num))
    finally:
        shutil.rmtree(folder)  # gigabytes


def _step(name: str, work: Callable[[], None]) -> None:
    work()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stderr.write(f"{name}: peak of the process until here {peak_mib} MiB\n")


def _check_labels(labels: Path, image_id_N: NDArray[np.int32]) -> None:
    found = read_labels(labels)
    for start in range(0, len(image_id_N), 1 << 20):  # the check itself needs little memory
        part = slice(start, start + (1 << 20))
        assert np.array_equal(found.cluster_N[part], image_id_N[part] % NUM_CLUSTERS)
        assert np.array_equal(found.distance_N[part], image_id_N[part] % 977)


def _check_cluster(labels: Path, num: int) -> None:
    rows = read_cluster(labels, 123, labels.parent / "images")
    assert len(rows) == len(range(123, num, NUM_CLUSTERS))
    assert all(row["path"] == path_of(row["image_id"]) for row in rows)


def _check_true_labels(images: Path, image_id_N: NDArray[np.int32]) -> None:
    truth_N = Images(images).true_labels()
    assert truth_N is not None
    for start in range(0, len(image_id_N), 1 << 20):
        part = slice(start, start + (1 << 20))
        assert np.array_equal(truth_N[part], image_id_N[part] % NUM_CLASSES)


def _check_named_labels(images: Path, image_id_N: NDArray[np.int32]) -> None:
    class_N, names = Images(images).named_labels()
    assert len(names) == min(NUM_CLASSES, len(image_id_N))
    for image_id in (0, len(image_id_N) // 2, len(image_id_N) - 1):
        assert names[class_N[image_id]] == f"class {image_id % NUM_CLASSES}"


def _check_index(images: Path, num: int) -> None:
    (first, last) = read_index(images, ["path"], [0, num - 1])
    assert (first["path"], last["path"]) == (path_of(0), path_of(num - 1))


if __name__ == "__main__":
    main()
