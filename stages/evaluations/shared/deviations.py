"""What an evaluation did otherwise than the protocol that is shipped for it."""

from collections.abc import Collection
from pathlib import Path

from deepcluster_core.config import StrictConfig
from stages.evaluations.shared.protocol import load_protocol


def changed_keys(protocol: StrictConfig, shipped: Path, *, but: Collection[str]) -> list[str]:
    """Return a sentence for each key whose value is another one than in the shipped file.

    Args:
        protocol: that was followed.
        shipped: the YAML file with the numbers of the paper or of its code.
        but: keys that are told otherwise, or do not change the result.
    """
    theirs = load_protocol(shipped, type(protocol), {}).model_dump(mode="json")
    ours = protocol.model_dump(mode="json")
    return [
        f"{key}: {ours[key]} instead of {theirs[key]}"
        for key in ours
        if ours[key] != theirs[key] and key not in but
    ]
