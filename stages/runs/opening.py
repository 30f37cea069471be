"""Begin or continue a run. Everything is checked before anything that takes long begins."""

from contextlib import suppress
from typing import Any

from deepcluster_core.artifacts.manifest import Condition, dump_sections, inspect, read_manifest
from deepcluster_core.artifacts.mirrored import publish_small
from deepcluster_core.errors import ArtifactError, ConfigError
from deepcluster_core.store_urls import StoreUrl
from stages.runs.epoch import EPOCH_STAGES
from stages.runs.folder import RunFolder
from stages.runs.recipe import save_recipe
from stages.runs.run import Run
from stages.runs.settings_changes import changed_values, check_settings


def begin(run: Run[Any], *, update: bool, anyway: bool) -> None:
    """Check a run that is to be made as a whole, and write its configuration to its folder.

    Args:
        run: a run in progress, of which no stage has run yet.
        update: replace what was made with different settings.
        anyway: continue even if the run does not seem to fit on this machine.

    Raises:
        ConfigError: the folder holds a run with different settings or images, the run does not fit
            on this machine, or its folder cannot be written.
    """
    try:
        run.claim.begin()  # until `run_epochs` ends
        _begin(run, update=update, anyway=anyway)
    except BaseException:
        run.claim.end()
        raise


def _begin(run: Run[Any], *, update: bool, anyway: bool) -> None:
    # Changed settings or images would replace existing artifacts, so these checks come first.
    changed = check_settings(run.folder, run.recipe, update=update)
    if changed:
        run.report.info(f"changed settings: {changed}; what depends on them is made again")
    _warn_inside_source(run)
    _check_images(run, update=update)
    _check_versions(run.folder, update=update)
    # Then what the run needs. If the images cannot be counted yet, the run checks this later.
    run.anyway = anyway
    if run.num_images is not None and not run.is_finished:
        run.check_fits_machine(run.num_images)
    _write_config(run)


def _warn_inside_source(run: Run[Any]) -> None:
    """Warn if the folder of a run lies among its own images, after following links."""
    source = run.recipe.dataset.source
    if isinstance(source, StoreUrl):
        return
    source = source.resolve()
    root = run.folder.root.resolve()
    if source.is_dir() and root.is_relative_to(source):
        run.report.warn(
            f"{run.folder.root}: the run lies in the folder of its own images, "
            f"{run.recipe.dataset.source}; files that it writes are not used as images"
        )


def _check_images(run: Run[Any], *, update: bool) -> None:
    """Check that the images, if they are packed already, are those of this source and recipe.

    Without this check, the images and everything made from them would be replaced.

    Raises:
        ConfigError: files of the source have changed, or another recipe with the same `images`
            folder has packed them differently; and `update` is false.
    """
    if update:
        return
    out = run.images
    condition, _ = inspect(out)
    if condition is not Condition.WHOLE:
        return
    manifest = read_manifest(out)
    if manifest.inputs["source"] != run.source_fingerprint:
        raise ConfigError(
            f"{run.recipe.dataset.source}: its files have changed since {out} was made.\n"
            f"  Fix: another --run keeps both; --update (the flow's parameter `update`) indexes "
            f"them again and replaces what was made from them."
        )
    job = run.plan_until(0).job(out)
    assert job is not None
    changes = changed_values(
        {**manifest.config, "seed": manifest.seed},
        {**dump_sections(job.config), "seed": run.recipe.seed},
    )
    if changes:
        raise ConfigError(
            f"{out}: holds images that were packed with other settings.\n"
            f"  Changed: {', '.join(changes)}\n"
            f"  Fix: another folder for `images` keeps both; --update (the flow's parameter "
            f"`update`) packs them again, for every run that uses them."
        )


def _check_versions(folder: RunFolder, *, update: bool) -> None:
    """Raise ConfigError if stages of earlier versions made artifacts, unless `update` is true.

    They would be made again, differently, and replaced together with all that depends on them.
    """
    if update:
        return
    counts: list[str] = []
    for stage in EPOCH_STAGES.values():
        num_earlier = 0
        for epoch in folder.epochs(stage.kind):
            with suppress(ArtifactError):  # not finished, or damaged
                manifest = read_manifest(folder.artifact(stage.kind, epoch))
                num_earlier += manifest.version < stage.identity.version
        if num_earlier:
            counts.append(f"{num_earlier} {stage.kind}")
    if counts:
        raise ConfigError(
            f"{folder.address}: was made by an earlier version of this program, which computes "
            f"some stages differently.\n"
            f"  Artifacts that would be made again, and replaced with all that depends on them: "
            f"{', '.join(counts)}.\n"
            f"  Fix: another --run keeps both; --update (the flow's parameter `update`) replaces "
            f"them; the earlier version continues the run as it is."
        )


def _write_config(run: Run[Any]) -> None:
    """Write the recipe to the folder of the run; raise ConfigError if that is not allowed."""
    folder = run.folder
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        save_recipe(run.recipe, folder.config)
        publish_small(folder.config)
    except OSError as error:
        raise ConfigError(
            f"{folder.root}: cannot be written to ({error.strerror}).\n"
            f"  Fix: give another --run, or have the folder's permissions changed."
        ) from error
