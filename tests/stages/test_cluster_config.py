"""The cluster section of a recipe: which keys fit together."""

from pathlib import Path

import pytest

from deepcluster_core.artifacts.manifest import dump_sections
from deepcluster_core.errors import ConfigError
from stages.cluster import ClusterConfig, Sizes
from stages.runs.estimate import needs_of
from stages.runs.recipe import load_recipe, parse_overrides, save_recipe
from tests.support.recipes import PLAIN, write


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{algorithm: kmean}",
            "cluster.algorithm: unknown algorithm 'kmean'; known: kmeans, spherical, pic, "
            "python:MODULE:NAME; did you mean kmeans? (got 'kmean')",
        ),
        ("{algorithm: 'python:a'}", "cluster.algorithm: unknown algorithm 'python:a'"),
        ("{algorithm: pic, k: 50}", "cluster.k: pic finds the number of clusters itself: leave k"),
        ("{k: 50, algorithm: pic}", "cluster.k: pic finds the number of clusters itself: leave k"),
        (
            "{algorithm: pic, max_points_per_centroid: 9}",
            "cluster.max_points_per_centroid: pic does not read it, only kmeans and spherical",
        ),
        ("{algorithm: pic, warm_start: true}", "cluster.warm_start: pic does not read it"),
        ("{algorithm: pic, k: [50, 60]}", "cluster.k: pic finds the number of clusters itself"),
        (
            "{algorithm: 'python:a:b', k: [50, 60]}",
            "cluster.k: python:a:b does not take a list, only kmeans and spherical",
        ),
        ("{k: [50, 1]}", "cluster.k.1: Input should be greater than or equal to 2"),
        ("{algorithm: pic, least_size: 0.5}", "cluster.least_size: pic does not read it, only kme"),
        ("{least_size: 1.5}", "cluster.least_size: Input should be less than or equal to 1"),
        ("{pca_dim: none}", "cluster.pca_dim: none leaves out the PCA, without which nothing can"),
        (
            "{pca_dim: none, whiten: zca, algorithm: spherical}",
            "cluster.pca_dim: none leaves out the PCA, without which nothing can",
        ),
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


@pytest.mark.parametrize("text", ["[3000,3000]", " [3000, 3000] "])
def test_cluster_config__k_may_be_set_to_a_list(text: str, path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, parse_overrides(["epochs=0", f"cluster.k={text}"]))

    save_recipe(recipe, tmp_path / "saved.yaml")

    assert recipe.cluster.k == recipe.cluster.all_k == (3000, 3000)
    assert load_recipe(tmp_path / "saved.yaml") == recipe


def test_cluster_config__a_list_may_hold_auto(path: Path) -> None:
    recipe = load_recipe(path, parse_overrides(["epochs=0", "cluster.k=[auto, 20]"]))

    assert recipe.cluster.all_k == ("auto", 20)


@pytest.mark.parametrize(
    ("k", "words"),
    [
        ("[5]", "k = 5 (48 images a cluster), "),
        ("[5,5]", "k = 5 twice (48 images a cluster), "),
        ("[5,5,5]", "k = 5 three times (48 images a cluster), "),
        ("[5,10,20]", "k = 5, 10 and 20 (48, 24 and 12 images a cluster), "),
        ("[auto,5]", "k = 10 and 5 (24 and 48 images a cluster), "),
        ("[5,fine]", "k = 5 and 12 (48 and 20 images a cluster), "),
    ],
)
def test_suited_to__names_the_clusters_of_each_entry(k: str, words: str, path: Path) -> None:
    recipe = load_recipe(path, parse_overrides(["epochs=0", f"cluster.k={k}"]))

    summary = recipe.suited_to(240)

    assert summary.startswith(words)
    assert ("auto follows" in summary) == ("auto" in k)
    assert ("fine follows" in summary) == ("fine" in k)


@pytest.mark.parametrize(
    ("num_images", "auto", "fine"),
    [
        (10, 2, 2),
        (60, 6, 6),
        (150, 10, 10),
        (1_000, 10, 50),
        (7_700, 77, 385),
        (500_000, 5_000, 10_000),
        (2_000_000, 10_000, 10_000),
    ],
)
def test_sizes__words_follow_the_number_of_images(num_images: int, auto: int, fine: int) -> None:
    cluster = ClusterConfig(k=("auto", "fine"), algorithm="spherical", pca_dim="none", whiten=False)

    assert Sizes.of(cluster, num_images=num_images, dim=128).all_k == (auto, fine)


def test_suited_to__names_the_dimensions_without_a_pca(path: Path) -> None:
    settings = ["cluster.pca_dim=none", "cluster.whiten=false"]

    summary = load_recipe(path, parse_overrides(settings)).suited_to(240)

    assert "dimensions without a PCA, " in summary


def test_cluster_config__no_image_is_needed_for_a_dimension_without_a_pca() -> None:
    config = ClusterConfig(k=(2, 3), pca_dim="none", whiten=False)

    sizes = Sizes.of(config, num_images=5, dim=256)

    assert sizes == Sizes(2, 256, (3,))


@pytest.mark.parametrize(
    ("key", "value"), [("least_size", 0.5), ("pca_sample", 1000), ("paths", False)]
)
def test_cluster_config__new_keys_are_in_the_key_only_if_they_are_set(
    key: str, value: float
) -> None:
    plain, changed = ClusterConfig(k=8), ClusterConfig.model_validate({"k": 8, key: value})

    assert key not in dump_sections({"cluster": plain})["cluster"]
    assert dump_sections({"cluster": changed})["cluster"][key] == value


def test_sizes__auto_follows_the_images_that_the_pca_is_fitted_to() -> None:
    config = ClusterConfig(pca_dim="auto", pca_sample=100)

    assert Sizes.of(config, num_images=20_000, dim=256).pca_dim == 10


def test_needs_of__counts_every_clustering(path: Path) -> None:
    def disk(k: str) -> int:
        recipe = load_recipe(path, parse_overrides(["epochs=0", f"cluster.k={k}"]))
        return needs_of(recipe, num_images=100_000, device="cpu").disk["labels"]

    assert disk("[50]") == disk("50")
    assert disk("50") < disk("[50,50]") < disk("[50,50,50]") < 2 * disk("50")


def test_cluster_config__paths_true_is_the_default() -> None:
    assert ClusterConfig(paths=True) == ClusterConfig()
