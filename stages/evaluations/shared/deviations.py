"""Deviations of an evaluation from the protocol that is shipped for it."""

from collections.abc import Collection
from pathlib import Path

from deepcluster_core.config import StrictConfig
from stages.evaluations.shared.protocol import load_protocol


def changed_keys(protocol: StrictConfig, shipped: Path, *, but: Collection[str]) -> list[str]:
    """Return a sentence for each key whose value differs from the shipped file.

    Args:
        protocol: the protocol that was followed.
        shipped: the YAML file with the numbers of the paper or of its code.
        but: keys to skip, because they are reported elsewhere or do not change the result.
    """
    shipped_protocol = load_protocol(shipped, type(protocol), {})
    # Compare JSON values, because these are what the sentences show.
    shipped_values = shipped_protocol.model_dump(mode="json")
    sentences: list[str] = []
    for key, value in protocol.model_dump(mode="json").items():
        shipped_value = shipped_values[key]
        if value != shipped_value and key not in but:
            sentences.append(f"{key}: {value} instead of {shipped_value}")
    return sentences
