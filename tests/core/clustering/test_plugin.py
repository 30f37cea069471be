"""Clusterers of scikit-learn and of modules that tests write. Suffixes: N rows, Q dimensions."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import JsonValue
from sklearn.cluster import MiniBatchKMeans

from deepcluster_core.clustering.fit import Fit
from deepcluster_core.clustering.nearest import assign
from deepcluster_core.clustering.plugin import Plugin
from deepcluster_core.clustering.plugin_loading import PATTERN, load_callable
from deepcluster_core.clustering.rows import InMemory
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.metrics import nmi
from tests.support.clustering_rows import blobs

ROWS_NQ, TRUE_N = blobs(600, k=8, noise=0.05)
MINI_BATCH = "python:sklearn.cluster:MiniBatchKMeans"

Write = Callable[[str], str]


def fit(algorithm: str, *, k: int = 8, seed: int = 0, **options: JsonValue) -> Fit:
    return Plugin(algorithm, k, options).fit(InMemory(ROWS_NQ), seed=seed)


@pytest.fixture(autouse=True)
def own_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a module into the working directory and says its name."""
    monkeypatch.chdir(tmp_path)
    name = f"written_for_{abs(hash(tmp_path))}"

    def write_module(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{text}")
        return name

    return write_module


def returning(labels: str, more: str = "") -> str:
    """Return a module whose clusterer gives these labels, an expression in `rows`."""
    return f"""
class Clusterer:
    def fit(self, rows):
        {more or "pass"}
        self.labels_ = {labels}
        return self

def make():
    return Clusterer()
"""


# Taken


def test_plugin__mini_batch_k_means_of_scikit_learn() -> None:
    found = fit(MINI_BATCH, seed=2**63 - 1, batch_size=200, n_init=3)

    reference = MiniBatchKMeans(
        n_clusters=8, random_state=(2**63 - 1) % 2**32, batch_size=200, n_init=cast(Any, 3)
    ).fit(ROWS_NQ)
    assert reference.labels_ is not None
    np.testing.assert_array_equal(found.cluster_N, reference.labels_)
    np.testing.assert_allclose(found.centroids_KQ, cast(Any, reference.cluster_centers_), atol=1e-6)
    assert (found.num_clusters, found.fitted_on) == (8, 600)
    assert (found.cluster_N.dtype, found.centroids_KQ.dtype) == (np.int32, np.float32)
    near_N, distance_N = assign(InMemory(ROWS_NQ), found.centroids_KQ)
    assert np.mean(near_N == found.cluster_N) > 0.99
    np.testing.assert_allclose(found.distance_N, distance_N, atol=1e-5)


def test_plugin__seed_decides() -> None:
    once, again, other = (fit(MINI_BATCH, seed=seed, k=30, n_init=1) for seed in (1, 1, 2))

    np.testing.assert_array_equal(once.cluster_N, again.cluster_N)
    assert not np.array_equal(once.cluster_N, other.cluster_N)


def test_plugin__without_centres_the_means_of_the_members_are_taken() -> None:
    found = fit("python:sklearn.cluster:AgglomerativeClustering", linkage="ward")

    assert nmi(found.cluster_N, TRUE_N) == pytest.approx(1.0)
    for cluster in range(8):
        mean_Q = ROWS_NQ[found.cluster_N == cluster].mean(axis=0)
        np.testing.assert_allclose(found.centroids_KQ[cluster], mean_Q, atol=1e-6)


def test_plugin__number_of_clusters_is_an_outcome() -> None:
    found = fit("python:sklearn.cluster:MeanShift", k=100, bandwidth=0.6)

    assert found.num_clusters == 8


def test_plugin__a_function_of_ones_own_gets_k_seed_and_options(write: Write) -> None:
    module = write("""
class Clusterer:
    def fit_predict(self, rows):
        return np.arange(len(rows)) % self.k

def make(k, seed, *, shift=0):
    clusterer = Clusterer()
    clusterer.k = k + seed + shift
    return clusterer
""")

    assert fit(f"python:{module}:make", k=5, seed=2, shift=3).num_clusters == 10


def test_plugin__a_module_in_a_folder_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("with_init", "without_init"):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "deep" / "own.py").write_text(
            "import numpy as np\n" + returning("np.arange(len(rows)) % 7")
        )
    (tmp_path / "with_init" / "__init__.py").touch()

    assert fit("python:with_init.deep.own:make").num_clusters == 7
    assert fit("python:without_init.deep.own:make").num_clusters == 7


def test_plugin__empty_clusters_keep_their_ids_where_there_are_centres(write: Write) -> None:
    module = write(
        returning("np.arange(len(rows)) % 2 * 3", "self.cluster_centers_ = rows[:5].astype(float)")
    )

    found = fit(f"python:{module}:make")

    assert (found.num_clusters, found.num_empty) == (5, 3)
    assert np.unique(found.cluster_N).tolist() == [0, 3]


# What may be called


@pytest.mark.parametrize(
    "algorithm", ["python:a:b", "python:a.b.c:D", "python:sklearn.cluster:KMeans", "python:_a1:_b"]
)
def test_pattern__takes_names(algorithm: str) -> None:
    assert PATTERN.fullmatch(algorithm)


@pytest.mark.parametrize(
    "algorithm",
    [
        "python:",
        "python:a",
        "python:a:",
        "python::b",
        "python:a:b.c",
        "python:../a:b",
        "a:b",
        "python:1a:b",
        "python:a..b:c",
        "python:.a:b",
        "python:a b:c",
        "python:a:b\n",
    ],
)
def test_pattern__refuses_what_is_no_name(algorithm: str) -> None:
    assert not PATTERN.fullmatch(algorithm)


@pytest.mark.parametrize(
    "algorithm",
    [
        "python:os:system",
        "python:subprocess:Popen",
        "python:shutil:rmtree",
        "python:builtins:exec",
        "python:torch.hub:load",
        "python:sklearn.cluster:k_means",
    ],
)
def test_load_callable__calls_nothing_installed_that_is_no_clusterer(algorithm: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)is not a class with fit or fit_predict.*Fix: "):
        load_callable(algorithm)


def test_load_callable__calls_nothing_that_a_module_here_has_only_imported(write: Write) -> None:
    module = write("from shutil import rmtree\nimport os\nmake = os.system\nvalue = 5\n")

    for name in ("rmtree", "make", "value"):
        with pytest.raises(ConfigError, match=f"{name} is not a class with fit"):
            load_callable(f"python:{module}:{name}")


def test_load_callable__a_file_here_replaces_no_installed_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "colorsys.py").write_text("def make(): raise AssertionError\n")  # a library's name

    with pytest.raises(ConfigError, match="module colorsys has no make"):
        load_callable("python:colorsys:make")


# Refused, in words that name the key, the cause and the way out


def test_load_callable__no_such_module() -> None:
    with pytest.raises(ConfigError) as error:
        load_callable("python:nowhere.deep:make")
    assert str(error.value) == (
        "cluster.algorithm python:nowhere.deep:make: the module nowhere does not exist, neither "
        f"installed nor in {Path.cwd()}.\n"
        "  Fix: start in the folder that contains the module, or install it."
    )


def test_load_callable__no_such_name_lists_some_that_are_there(write: Write) -> None:
    module = write(returning("0"))
    with pytest.raises(ConfigError, match=rf"{module} has no mak\.\n  Fix: .*Clusterer, make"):
        load_callable(f"python:{module}:mak")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import not_there_either", "imports not_there_either, which is not installed"),
        ("def make(:", "cannot be imported.\n  Cause: SyntaxError"),
        ("1 / 0", "cannot be imported.\n  Cause: ZeroDivisionError: division by zero"),
    ],
)
def test_load_callable__a_module_that_does_not_import(write: Write, text: str, words: str) -> None:
    module = write(text)
    with pytest.raises(ConfigError) as error:
        load_callable(f"python:{module}:make")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"batch": 5},
            r"called with batch, n_clusters, random_state.*unexpected.*options",
        ),
        ({"n_clusters": 5}, r"cluster\.options\.n_clusters: is set from cluster\.k"),
        ({"random_state": 5}, r"options\.random_state: is set from the seed of the run"),
    ],
)
def test_plugin__wrong_options(options: dict[str, JsonValue], words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        Plugin(MINI_BATCH, 8, options).fit(InMemory(ROWS_NQ), seed=0)


def test_plugin__options_that_the_clusterer_refuses_when_it_fits() -> None:
    with pytest.raises(FeatureError, match=r"(?s)failed on 600 rows.*batch_size.*cluster\.options"):
        fit(MINI_BATCH, batch_size=-5)


def test_plugin__what_is_made_is_no_clusterer(write: Write) -> None:
    module = write("def make(): return 5\n")
    with pytest.raises(ConfigError, match="returned int, which has neither fit_predict nor fit"):
        fit(f"python:{module}:make")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("np.zeros(5, int)", r"labels of shape \(5,\) for 600 images"),
        ("np.zeros((len(rows), 2), int)", r"labels of shape \(600, 2\)"),
        ("np.full(len(rows), np.nan)", "labels of type float64"),
        ("['a'] * len(rows)", "labels of type <U1"),
        ("np.arange(len(rows)) - 1", "labels from -1 to 598, not within 0 to 599"),
        ("np.arange(len(rows)) * 2", "labels from 0 to 1198, not within 0 to 599"),
        ("np.arange(len(rows)) % 2 * 2", "labels up to 2, but none of 1"),
        ("np.zeros(len(rows), int)", "all 600 images are in one cluster"),
    ],
)
def test_plugin__labels_that_are_none(write: Write, labels: str, words: str) -> None:
    module = write(returning(labels))
    with pytest.raises(FeatureError, match=f"(?s){words}.*Fix: "):
        fit(f"python:{module}:make")


@pytest.mark.parametrize(
    ("centres", "words"),
    [
        ("rows[:4, :3]", r"cluster_centers_ has shape \(4, 3\), not \(clusters, 16\)"),
        ("rows[0]", r"cluster_centers_ has shape \(16,\)"),
        ("rows[:4] * np.nan", "cluster_centers_ has values that are not finite"),
        ("rows[:3]", "labels from 0 to 3, not within 0 to 2"),
    ],
)
def test_plugin__centres_that_do_not_fit(write: Write, centres: str, words: str) -> None:
    module = write(returning("np.arange(len(rows)) % 4", f"self.cluster_centers_ = {centres}"))
    with pytest.raises(FeatureError, match=f"(?s){words}.*Fix: "):
        fit(f"python:{module}:make")


def test_plugin__what_fits_but_clusters_nothing() -> None:
    with pytest.raises(FeatureError, match=r"(?s)labels of shape \(0,\) for 600.*labels_ is after"):
        fit("python:sklearn.decomposition:PCA")


def test_plugin__a_bug_in_it_keeps_its_traceback(write: Write) -> None:
    module = write(returning("rows.nothing_like_it"))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        fit(f"python:{module}:make")
