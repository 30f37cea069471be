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
    shipped_values = load_protocol(shipped, type(protocol), {}).model_dump(mode="json")
    values = protocol.model_dump(mode="json")
    return [
        f"{key}: {value} instead of {shipped_values[key]}"
        for key, value in values.items()
        if value != shipped_values[key] and key not in but
    ]
