"""The folders of a run and of its artifacts."""

from dataclasses import dataclass
from pathlib import Path

from deepcluster_core.artifacts.mirrored import address_of, mirror_of


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which has a folder for each artifact, by kind and epoch."""

    root: Path

    @property
    def name(self) -> str:
        """The name of the run: the last part of its path."""
        return self.root.resolve().name

    @property
    def config(self) -> Path:
        """The file with the whole resolved configuration."""
        return self.root / "config.yaml"

    @property
    def address(self) -> str:
        """What names the run in a command: its folder or, if it is on an object store, its URL."""
        return address_of(self.root)

    @property
    def task_results(self) -> Path:
        """The folder in which Prefect keeps the records of finished tasks."""
        return self.root / ".prefect"

    @property
    def messages(self) -> Path:
        """The folder in which a run and its ranks on other machines exchange messages."""
        return self.root / ".ranks"

    def artifact(self, kind: str, epoch: int | None) -> Path:
        """Return the folder of an artifact, in Hive style if it belongs to an epoch."""
        folder = self.root / kind
        return folder if epoch is None else folder / _epoch_name(epoch)

    def images(self, shared: Path | None) -> Path:
        """Return the folder of the images artifact: `shared`, if several runs have one together."""
        return shared or self.artifact("images", None)

    def epochs(self, kind: str) -> list[int]:
        """Return the epochs for which there is a folder of this kind, in order.

        The folder is on disk or, for a run on an object store, there.
        """
        mirror = mirror_of(self.root)
        found: set[int] = set()
        if mirror is not None:
            place = self.root.relative_to(mirror.root) / kind
            found.update(mirror.epochs(place.as_posix()))
        for path in (self.root / kind).glob("epoch=*"):
            epoch = epoch_of(path.name)
            if epoch is not None:
                found.add(epoch)
        return sorted(found)


def _epoch_name(epoch: int) -> str:
    return f"epoch={epoch:04d}"


def epoch_of(name: str) -> int | None:
    """Return the epoch that a folder's name stands for; None if the name is not one of ours."""
    _, _, digits = name.partition("epoch=")
    # isdigit alone would accept digits such as superscripts, which int rejects.
    if not (digits.isascii() and digits.isdigit()):
        return None
    epoch = int(digits)
    # Only the spelling that `artifact` uses is accepted.
    return epoch if name == _epoch_name(epoch) else None
