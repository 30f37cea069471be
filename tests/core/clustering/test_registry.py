"""What the registry of clusterers says of itself, and what importing it costs."""

import subprocess
import sys

import pytest

from deepcluster_core.clustering.registry import CLUSTERERS, PLUGIN, find_clusterer


def test_find_clusterer__knows_a_plugin_by_its_form() -> None:
    assert find_clusterer("python:sklearn.cluster:KMeans") is CLUSTERERS[PLUGIN]
    assert find_clusterer("kmeans") is CLUSTERERS["kmeans"]


@pytest.mark.parametrize("algorithm", ["", "kmean", "python:sklearn"])
def test_find_clusterer__lists_the_known_ones(algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"known: kmeans, spherical, pic, python:MODULE:NAME"):
        find_clusterer(algorithm)


def test_registry__importing_it_imports_no_implementation() -> None:
    code = "import sys, deepcluster_core.clustering.registry; print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert {"torch", "faiss", "numpy", "scipy"}.isdisjoint(done.stdout.split())


def test_find_clusterer__only_k_means_runs_on_many_ranks() -> None:
    many = {name for name, found in CLUSTERERS.items() if found.runs_on_many_ranks}
    assert many == {"kmeans", "spherical"}
    assert not find_clusterer("python:some.module:name").runs_on_many_ranks
