from typing import Any

import pytest

from deepcluster_core.health import names, signs

DEMO: dict[str, Any] = {
    "k": 100,
    "effective_clusters": 95.9,
    "largest_fraction": 0.0168,
    "empty_clusters": 0,
    "nmi_previous": 0.773,
    "loss": 1.849,
    "effective_rank": 6.7,
    "dead_features": 0.0,
}
"""The demo after its tenth epoch."""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Its first two epochs: the network is new, then it has learnt little.
        {"nmi_previous": None, "loss": 4.161, "effective_rank": 18.0, "effective_clusters": 96.7},
        {"nmi_previous": 0.568, "loss": 3.035, "effective_rank": 4.76, "effective_clusters": 93.2},
        # ImageNet's first epoch: 10,000 clusters are not learnt in one.
        {"nmi_previous": None, "k": 10_000, "effective_clusters": 8_000, "loss": 9.2},
        # Two clusters, told apart well: features on a line, one cluster with most images.
        {
            "k": 2,
            "effective_clusters": 1.9,
            "largest_fraction": 0.6,
            "loss": 0.1,
            "effective_rank": 1.2,
        },
        # Labels that were made before these were counted.
        {"effective_rank": None, "dead_features": None},
    ],
)
def test_signs__healthy_epochs_have_none(changes: dict[str, Any]) -> None:
    assert signs(DEMO | changes) == []
    assert names([]) == ""


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({"effective_clusters": 12.34}, "few_clusters", "12.3 equal clusters, of k = 100"),
        ({"largest_fraction": 0.62}, "one_cluster", "62% of the images"),
        ({"empty_clusters": 11}, "empty_clusters", "11 of 100 clusters are empty"),
        ({"loss": 4.59}, "loss_at_chance", "the loss is 4.590; with nothing learnt it is ln k"),
        ({"loss": 7.0}, "loss_at_chance", "ln k = 4.605"),
        ({"effective_rank": 1.16}, "low_rank", "1.1 directions"),
        ({"dead_features": 0.5}, "dead_features", "50% of the dimensions"),
        ({"k": 2, "effective_clusters": 1.5, "largest_fraction": 0.8}, "one_cluster", "80%"),
    ],
)
def test_signs__each_says_its_numbers_and_what_to_do(
    changes: dict[str, Any], name: str, said: str
) -> None:
    (sign,) = signs(DEMO | {"loss": 0.1} | changes)

    assert sign.name == name
    assert said in sign.sentence
    assert sign.advice.endswith(".")


def test_signs__a_rank_just_below_the_limit_does_not_read_as_the_limit() -> None:
    (sign,) = signs(DEMO | {"k": 5, "effective_rank": 1.97, "effective_clusters": 5.0, "loss": 0.1})

    assert "onto 1.9 directions (participation ratio); healthy ones keep 2.0" in sign.sentence


def test_signs__chance_is_that_of_the_clusters_that_have_images() -> None:
    # Uniform over 50 populated clusters a head that knows nothing has ln 50 = 3.91, not ln 100.
    row = DEMO | {"empty_clusters": 50, "effective_clusters": 50.0, "loss": 3.9}

    assert names(signs(row)) == "empty_clusters, loss_at_chance"


def test_signs__of_images_that_are_all_in_one_cluster() -> None:
    row = DEMO | {"empty_clusters": 99, "effective_clusters": 1.0, "largest_fraction": 1.0}

    assert names(signs(row | {"loss": 0.0})) == "few_clusters, one_cluster, empty_clusters"


@pytest.mark.parametrize("missing", [{"effective_rank"}, {"dead_features"}])
def test_signs__metrics_of_earlier_versions_lack_columns(missing: set[str]) -> None:
    assert signs({name: value for name, value in DEMO.items() if name not in missing}) == []
