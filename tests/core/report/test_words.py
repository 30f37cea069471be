import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deepcluster_core.clustering.stability import Stability
from deepcluster_core.report.cluster_measures import measure_clusters
from deepcluster_core.report.words import remarks


def row(epoch: int, **changes: object) -> dict[str, Any]:
    """Return metrics like the demo's."""
    return {
        "epoch": epoch,
        "k": 100,
        "loss": 4.161 - 0.25 * epoch,
        "ln_k": 4.605,
        "nmi_previous": 0.55 + 0.02 * epoch if epoch else None,
        "nmi_labels": 0.524 + 0.01 * epoch,
        "moved_fraction": 0.38 if epoch else None,
        "effective_clusters": 95.9,
        "largest_fraction": 0.0168,
        "empty_clusters": 0,
        "effective_rank": 6.7,
    } | changes


def tones(rows: list[dict[str, Any]]) -> dict[str, str]:
    return {remark.title: remark.tone for remark in remarks(rows)}


def texts(rows: list[dict[str, Any]]) -> str:
    return "\n".join(remark.text for remark in remarks(rows))


def test_remarks__of_a_healthy_run_read_its_numbers() -> None:
    rows = [row(epoch) for epoch in range(10)]

    assert tones(rows) == {
        "The loss falls": "good",
        "The clusters settle": "good",
        "The clusters agree more with the true labels": "good",
        "Sizes of the clusters": "plain",
    }
    said = texts(rows)
    for expected in (
        "it is 1.911",
        "it was 4.161",
        "ln k = 4.605",
        "NMI 0.730",
        "saturates below 0.8",
    ):
        assert expected in said
    assert "It still rises" in said
    assert "the network as initialised, epoch 0, have 0.524" in said


def test_remarks__a_settled_run_is_not_told_to_go_on() -> None:
    rows = [row(epoch, nmi_previous=0.77 + 0.001 * epoch) for epoch in range(10)]

    assert "It still rises" not in texts(rows)


@pytest.mark.parametrize(
    ("column", "value", "title"),
    [
        ("loss", 4.7, "The loss does not fall"),
        ("loss", 4.6, "The loss does not fall"),  # at chance, though below that of the first epoch
        ("nmi_previous", 0.3, "The clusters become less stable"),
        ("nmi_labels", 0.4, "The clusters agree less with the true labels"),
    ],
)
def test_remarks__what_goes_wrong_is_said(column: str, value: float, title: str) -> None:
    rows = [row(0, loss=4.65), row(1), row(2, **{column: value})]

    assert tones(rows)[title] == "bad"


def test_remarks__signs_of_trouble_come_first_with_epochs_and_advice() -> None:
    rows = [row(0), row(1, effective_rank=1.16), row(2), row(3, effective_rank=1.3)]

    first = remarks(rows)[0]
    assert (first.tone, first.title) == ("bad", "Low rank")
    assert "1.3 directions" in first.text
    assert "(2 epochs, last 3). What helps: use larger batches" in first.text


def test_remarks__what_was_true_of_the_first_epochs_only_comes_last() -> None:
    rows = [row(epoch, effective_rank=2.0 if epoch < 2 else 6.5) for epoch in range(6)]

    found = remarks(rows)

    assert found[0].title == "The loss falls"
    assert (found[-1].tone, found[-1].title) == ("plain", "Low rank, in the past")
    assert "Of epochs 0, 1 only, and no longer true" in found[-1].text
    assert "the network as initialised" in found[-1].text


def test_remarks__the_participation_ratio_is_compared_with_the_first() -> None:
    rows = [row(0, rankme=50.0, effective_rank=18.0), row(1, rankme=40.0, effective_rank=7.0)]

    assert "the participation ratio fell from 18.0 in epoch 0 to 7.0" in texts(rows)


def test_remarks__measures_name_clusters_to_look_at() -> None:
    centroids_KQ = np.array([[0, 0], [0, 1], [9, 0], [9, 9]], np.float32)
    cluster_N = np.repeat(np.arange(4), 10)
    measures = measure_clusters(
        cluster_N,
        np.repeat([0.1, 0.2, 0.5, 0.3], 10),
        centroids_KQ,
        stayed_N=np.repeat([2, 2, 0, 1], 10),
        stayed_epochs=2,
    )

    by_title = {remark.title: remark for remark in remarks([row(0)], measures=measures)}

    assert "The nearest pairs: 0 and 1" in by_title["Tight or wide, near or far"].text
    assert by_title["The widest clusters"].clusters[0] == 2
    assert by_title["The least stable clusters"].clusters == (2, 3, 0, 1)
    assert "in as few as 0.0% of the 2 epochs before" in by_title["The least stable clusters"].text


def test_remarks__one_epoch_without_labels_has_nothing_to_compare() -> None:
    rows = [row(0, nmi_labels=None)]

    assert tones(rows) == {"Loss": "plain", "Sizes of the clusters": "plain"}
    assert "It should fall" in texts(rows)


def test_remarks__rank_is_compared_with_the_untrained_network() -> None:
    rows = [row(0, rankme=90.2), row(1), row(2, rankme=41.25)]

    assert tones(rows)["Rank of the features"] == "plain", "neither good nor bad by itself"
    said = texts(rows)
    assert "RankMe 41.2 in epoch 2, 90.2 in epoch 0, that of the network as initialised" in said
    assert "A high rank alone means little, because a random network has one, too." in said


def test_remarks__agreement_without_labels_says_what_was_compared() -> None:
    rows = [row(0, view_agreement=0.5), row(1, view_agreement=0.75, head_agreement=0.625)]

    said = texts(rows)
    assert "have the same nearest prototype for 75% of the images (epoch 1)" in said
    assert "have an NMI of 0.625 (epoch 1)" in said
    assert "Agreement without labels" not in tones([row(0), row(1)])


def test_remarks__stability_needs_several_epochs() -> None:
    found = Stability(epochs=4, mean=0.8, always=0.6, never=0.05)

    said = " ".join(remark.text for remark in remarks([row(0)], found))
    assert "in 80% of the last 4 epochs: 60% of the images in all of them, 5.0% in none" in said
    only_one = remarks([row(0)], replace(found, epochs=1))
    assert all(remark.title != "How long images stay" for remark in only_one)


def test_remarks__unknown_numbers_are_no_remarks() -> None:
    assert remarks([]) == []
    unknown = dict.fromkeys(row(0), None) | {"epoch": 0}
    assert remarks([unknown, row(1, loss=math.nan) | {"effective_clusters": math.nan}]) != []
    assert remarks([unknown]) == []
