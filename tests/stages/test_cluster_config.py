"""The cluster section of a recipe: which keys fit together."""

from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from stages.cluster import ClusterConfig
from stages.runs.recipe import load_recipe, parse_overrides, save_recipe
from tests.support.recipes import PLAIN, write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{algorithm: kmean}",
            "cluster.algorithm: unknown algorithm 'kmean'; known: kmeans, spherical, pic, "
            "python:MODULE:NAME (got 'kmean')",
        ),
        ("{algorithm: 'python:a'}", "cluster.algorithm: unknown algorithm 'python:a'"),
        ("{algorithm: pic, k: 50}", "cluster.k: pic finds the number of clusters itself: leave k"),
        ("{k: 50, algorithm: pic}", "cluster.k: pic finds the number of clusters itself: leave k"),
        (
            "{algorithm: pic, max_points_per_centroid: 9}",
            "cluster.max_points_per_centroid: pic does not read it, only kmeans and spherical",
        ),
        ("{algorithm: pic, warm_start: true}", "cluster.warm_start: pic does not read it"),
        ("{options: {a: 1}}", "cluster.options: kmeans does not read it, only python:MODULE:NAME"),
        ("{algorithm: pic, pic: {sgima: 1}}", "cluster.pic.sgima: unknown key; known"),
        ("{algorithm: pic, pic: {sigma: 0}}", "cluster.pic.sigma: Input should be greater than 0"),
    ],
)
def test_cluster_config__tells_settings_that_no_algorithm_would_read(
    path: Path, text: str, words: str
) -> None:
    write(path, PLAIN.replace("cluster: {k: 5, pca_dim: 4}", f"cluster: {text}"))

    with pytest.raises(ConfigError) as error:
        load_recipe(path)

    assert words in str(error.value)


def test_cluster_config__pic_has_no_k_and_comes_back_from_its_file(
    path: Path, tmp_path: Path
) -> None:
    write(path, PLAIN.replace("{k: 5, pca_dim: 4}", "{algorithm: pic, pca_dim: 4}"))
    recipe = load_recipe(path)

    save_recipe(recipe, tmp_path / "saved.yaml")

    assert recipe.cluster.k == "auto"
    assert load_recipe(tmp_path / "saved.yaml") == recipe
    assert recipe.suited_to(1000).startswith("as many clusters as pic finds, pca_dim = 4")


def test_cluster_config__k_stays_the_papers_where_it_is_left_out(path: Path) -> None:
    write(path, PLAIN.replace("k: 5, ", ""))

    assert load_recipe(path).cluster.k == ClusterConfig().k == 10_000


def test_cluster_config__a_clusterer_is_looked_for_before_a_run_but_not_imported_by_reading(
    path: Path,
) -> None:
    write(path, PLAIN.replace("{k: 5,", "{algorithm: 'python:nowhere:make', k: 5,"))

    recipe = load_recipe(path)

    with pytest.raises(ConfigError, match="the module nowhere does not exist"):
        recipe.suited_to(1000)


def test_cluster_config__options_can_be_set_one_by_one(path: Path) -> None:
    text = "{algorithm: 'python:sklearn.cluster:KMeans', options: {tol: 0.1}, k: 5,"
    write(path, PLAIN.replace("{k: 5,", text))

    recipe = load_recipe(path, parse_overrides(["cluster.options.n_init=3"]))

    assert recipe.cluster.options == {"tol": 0.1, "n_init": 3}
