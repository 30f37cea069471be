"""An existing run, for commands that only read it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepcluster_core.artifacts.checkpoints import restore_network
from deepcluster_core.artifacts.manifest import Condition, Manifest, read_manifest
from deepcluster_core.context import Context
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.local_paths import check_is_local, ending_in
from deepcluster_core.models.build import feature_dim_of
from deepcluster_core.models.config import PROJECTION
from deepcluster_core.models.network import Network
from deepcluster_core.text import shell_words
from stages.runs.epoch import EPOCH_STAGES
from stages.runs.folder import RunFolder
from stages.runs.locate import existing_run
from stages.runs.machine import num_cores, num_gpus, usable_device
from stages.runs.recipe import Recipe, load_own_recipe
from stages.runs.run_images import clustered_by
from stages.runs.states import STALE, ArtifactState, states_of
from stages.score import score

ArtifactKind = Literal["features", "labels", "checkpoints"]
MADE_BY = {stage.kind: name for name, stage in EPOCH_STAGES.items()}
"""The stage that makes each kind of artifact."""
USABLE = {
    "features": (Condition.WHOLE,),
    "labels": (Condition.WHOLE,),
    "checkpoints": (Condition.WHOLE, STALE),
}
"""Conditions in which an artifact can be used. Stale labels or features do not belong to the
network beside them, but a stale checkpoint still is a usable network."""


@dataclass(frozen=True)
class PastRun:
    """An existing run, with the states that its artifacts had when it was opened."""

    folder: RunFolder
    recipe: Recipe
    states: dict[tuple[str, int | None], ArtifactState]

    @classmethod
    def open(cls, run: str) -> "PastRun":
        """Open a run by its folder, or its name under `runs/`.

        Raises:
            ConfigError: the run does not exist, or its configuration cannot be read.
        """
        folder = existing_run(run)
        # Look at the artifacts once, because their keys take time to compute.
        states = {(state.kind, state.epoch): state for state in states_of(folder)}
        return cls(folder, load_own_recipe(folder.config), states)

    @property
    def device(self) -> str:
        """The torch device of the run; raises ConfigError if it is not available."""
        try:
            return usable_device(self.recipe.compute.device)
        except ConfigError as error:
            # The commands that read a run have no `--set`.
            about, _, _ = str(error).partition("\n  Fix:")
            raise ConfigError(
                f"{about}\n  Fix: write `device: auto` in the section `compute` of "
                f"{self.folder.config}; no artifact depends on it."
            ) from error

    @property
    def is_fed_on_device(self) -> bool:
        """Whether images are cropped and resized on the device."""
        recipe = self.recipe
        context = Context(recipe.seed, device=self.device, feed=recipe.compute.feed)
        return context.is_fed_on_device(recipe.dataset.shorter_side)

    @property
    def workers(self) -> int:
        """The number of threads that read images, in a single process."""
        return self.recipe.compute.workers or num_cores()

    @property
    def asks_for_many_ranks(self) -> bool:
        """Whether the recipe asks for several ranks, on a machine such as this one."""
        ranks = self.recipe.compute.ranks
        if ranks == "auto":
            return self.device == "cuda" and num_gpus() > 1
        return ranks > 1

    def epoch(self, kind: ArtifactKind, wanted: int | None) -> int:
        """Return the wanted epoch, or the last one with a usable artifact if `wanted` is None.

        Raises:
            ConfigError: the run does not have the epoch.
            ArtifactError: `wanted` is None, and no epoch has a usable artifact of this kind.
        """
        if wanted is None:
            return self._last(kind)
        # Whether the artifact of this epoch can be used is checked by `whole`.
        num_epochs = self.recipe.num_epochs
        if not 0 <= wanted < num_epochs:
            raise ConfigError(
                f"--epoch {wanted}: the run has epochs 0 to {num_epochs - 1}.\n"
                f"  Fix: name one of them, or leave --epoch out for the last."
            )
        return wanted

    def trained(self, wanted: int | None) -> tuple[int, Path | None]:
        """Return an epoch and the checkpoint after its training: the last one if `wanted` is None.

        The checkpoint is None in a run with `epochs: 0`, whose network is the one it begins with.

        Raises:
            ConfigError: the run does not have the epoch, or clusters features from a file.
            ArtifactError: the checkpoint is missing or cannot be used.
        """
        self.check_has_network()
        if not self.recipe.trains:
            return self.epoch("labels", wanted), None
        epoch = self.epoch("checkpoints", wanted)
        return epoch, self.whole("checkpoints", epoch)

    def check_has_network(self) -> None:
        """Raise ConfigError if the features of the run come from a file, and not from a network."""
        given = self.recipe.extract.from_file
        if given is not None:
            raise ConfigError(
                f"{self.folder.address}: has no network of its own: its features come from "
                f"extract.from = {given}.\n"
                f"  Fix: use the program that made them, or a run without extract.from."
            )

    def scored(self) -> list[int]:
        """Return the finished epochs: those that have metrics."""
        return self._epochs_with(score.kind, (Condition.WHOLE, STALE))

    def whole(self, kind: ArtifactKind, epoch: int) -> Path:
        """Return the folder of an artifact that can be used.

        Raises:
            ArtifactError: the artifact is missing, pruned, damaged or stale. The message names the
                command that makes it.
        """
        state = self.states.get((kind, epoch))
        if state is None:
            why = "missing"
        elif state.condition in USABLE[kind]:
            return state.folder
        else:
            why = f"{state.condition}: {state.reason}"
        run = shell_words(self.folder.address)
        fix = f"deepcluster stage {MADE_BY[kind]} --run {run} --epoch {epoch}"
        # What was deleted to save space counts as made, so that a run does not make it again.
        if state is None or state.condition != Condition.PRUNED:
            fix = f"{fix}, or {self._continue_command()} for all that is missing"
        raise ArtifactError(
            f"{self.folder.artifact(kind, epoch)}: is needed, but is {why}.\n  Fix: {fix}."
        )

    def clustered(self, epoch: int) -> Path:
        """Return the folder of the artifact with the features that an epoch clustered.

        Raises:
            ArtifactError: the features are missing or damaged, or were deleted to save space.
        """
        return self.whole(*clustered_by(self.recipe, epoch))

    def network(self, checkpoint: Path | None, *, averaged: bool = True) -> Network:
        """Return the network of a checkpoint, or the network as initialised if it is None.

        Args:
            checkpoint: folder of the checkpoint.
            averaged: whether to use averaged weights if the checkpoint has them.

        Raises:
            ArtifactError: the checkpoint is damaged.
        """
        recipe = self.recipe
        return restore_network(
            recipe.network,
            channels=recipe.dataset.channels,
            seed=recipe.seed,
            checkpoint=checkpoint,
            averaged=averaged,
        )

    def exported_layer(self, wanted: str | None) -> str | None:
        """Return the layer whose feature is given to other programs.

        It is the layer that the run clusters unless another one is wanted; but if that is the
        projection, it is the backbone's feature, which serves other tasks better (None).
        """
        if wanted is not None:
            return wanted
        clustered = self.recipe.extract.layer
        return None if clustered == PROJECTION else clustered

    def dim(self, layer: str | None) -> int:
        """Return the width of a layer's feature.

        Raises:
            ConfigError: the network does not have the layer.
        """
        recipe = self.recipe
        return feature_dim_of(recipe.network, channels=recipe.dataset.channels, layer=layer)

    def about(self, **artifacts: Path | None) -> dict[str, Any]:
        """Return the origin of a result: the run, its recipe, and the given artifacts by name."""
        about: dict[str, Any] = {"run": self.folder.name}
        for name, path in artifacts.items():
            about[name] = None if path is None else _origin(read_manifest(path))
        about["recipe"] = self.recipe.model_dump(mode="json")
        return about

    def check_out(self, out: Path, suffixes: Collection[str]) -> None:
        """Raise ConfigError if `out` has a wrong suffix, or lies among the artifacts of the run."""
        check_is_local(out, "--out")
        if out.suffix not in suffixes:
            raise ConfigError(
                f"--out {out}: must end in {' or '.join(suffixes)}.\n"
                f"  Fix: --out {ending_in(out, next(iter(suffixes)))}"
            )
        # The folder of the run itself is allowed, but none of the folders inside it.
        place = out.absolute().parent.resolve()
        root = self.folder.root.resolve()
        if place != root and place.is_relative_to(root):
            raise ConfigError(
                f"--out {out}: lies among the artifacts of the run.\n  Fix: give another folder."
            )

    def _last(self, kind: ArtifactKind) -> int:
        """Return the last epoch with a usable artifact of a kind."""
        found = self._epochs_with(kind, USABLE[kind])
        if not found:
            raise ArtifactError(
                f"{self.folder.address}: has no whole {kind} yet.\n"
                f"  Fix: {self._continue_command()}"
            )
        return max(found)

    def _epochs_with(self, kind: str, conditions: Collection[str]) -> list[int]:
        """Return the epochs whose artifact of a kind is in one of the conditions, in order.

        Those after the last epoch of the recipe, from an earlier call with more, do not count.
        """
        found: list[int] = []
        for (state_kind, epoch), state in self.states.items():
            if epoch is None or state_kind != kind:  # the images belong to no epoch
                continue
            if state.condition in conditions and epoch < self.recipe.num_epochs:
                found.append(epoch)
        return found

    def _continue_command(self) -> str:
        """Return the command that makes all missing artifacts of the run."""
        config = shell_words(self.folder.config)
        run = shell_words(self.folder.address)
        return f"deepcluster run {config} --run {run}"


def _origin(manifest: Manifest) -> dict[str, Any]:
    """Return what identifies an artifact, and how it was made."""
    return {
        "epoch": manifest.epoch,
        "key": manifest.key,
        "digest": manifest.digest,
        **manifest.provenance.model_dump(mode="json"),
    }
