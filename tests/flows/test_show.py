import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepcluster_core.artifacts.commit import prune, write_manifest
from deepcluster_core.artifacts.manifest import read_manifest
from deepcluster_core.artifacts.tables import read_labels, read_metrics, write_metrics
from deepcluster_core.errors import ArtifactError, ConfigError
from flows.show.farewell import farewell
from flows.show.run import show_cluster, show_run
from flows.show.sweep import show_sweep
from stages.runs.epoch import EPOCH_KINDS
from stages.runs.folder import RunFolder
from stages.runs.recipe import load_recipe, save_recipe
from stages.runs.states import states_of
from tests.support.artifacts import reseal
from tests.support.plain_runs import make_run
from tests.support.recipes import write_recipe
from tests.support.run_files import manifests


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys: pytest.CaptureFixture[str], run: Path, epoch: int | None = None) -> list[str]:
    show_run(RunFolder(run), epoch)
    return capsys.readouterr().out.splitlines()


def conditions(run: Path) -> dict[str, str]:
    return {
        state.folder.relative_to(run).as_posix(): state.condition
        for state in states_of(RunFolder(run))
    }


def test_states_of__finished_run_is_whole_with_the_facts_of_its_manifests(
    finished_run: Path,
) -> None:
    states, made = states_of(RunFolder(finished_run)), manifests(finished_run)

    assert {state.condition for state in states} == {"whole"}
    found = {
        state.folder.relative_to(finished_run).as_posix(): (state.key, state.bytes, state.rows)
        for state in states
    }
    assert found == {name: (m.key, m.bytes, m.rows) for name, m in made.items()}


def test_states_of__names_each_condition(own_run: Path) -> None:
    prune(own_run / "features/epoch=0000")
    shutil.rmtree(own_run / "labels/epoch=0002")
    (own_run / "checkpoints/epoch=0002/_manifest.json").unlink()
    (own_run / "metrics/epoch=0002/metrics.parquet").write_bytes(b"")
    (own_run / "labels/epoch=0001/labels.parquet").unlink()

    odd = {name: found for name, found in conditions(own_run).items() if found != "whole"}

    assert odd == {
        "features/epoch=0000": "pruned",
        "labels/epoch=0001": "damaged",
        "labels/epoch=0002": "missing",
        "checkpoints/epoch=0002": "unfinished",
        "metrics/epoch=0002": "damaged",
    }


def test_states_of__artifacts_of_other_settings_are_stale(own_run: Path) -> None:
    config = own_run / "config.yaml"
    save_recipe(load_recipe(config, {"cluster": {"k": 9}}), config)

    whole = {name for name, found in conditions(own_run).items() if found != "stale"}

    # All that k does not decide: what was made from stale labels is stale itself.
    assert whole == {"images", "features/epoch=0000"}


def test_show_run__a_row_an_epoch_and_a_reason_for_what_is_not_whole(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prune(own_run / "features/epoch=0000")
    shutil.rmtree(own_run / "labels/epoch=0001")
    (own_run / "checkpoints/epoch=0002/model.safetensors").unlink()
    keys = {name: made.key[:8] for name, made in manifests(own_run).items()}

    lines = shown(capsys, own_run)

    assert "smallnet, k = 8, seed 31, 3 epochs asked for" in lines[0]
    assert any(re.match(rf"images +\S+ kB {keys['images']} ", line) for line in lines)
    rows = {line[0]: line for line in lines if line[:2] in ("0 ", "1 ", "2 ")}
    assert re.search(r"^0 .*\bpruned\b", rows["0"])
    assert keys["labels/epoch=0000"] in rows["0"]
    assert "–" in rows["1"]
    assert re.search(r"^2 .*\bdamaged\b", rows["2"])
    reasons = lines[-2:]
    assert reasons[0].endswith("labels/epoch=0001: missing: nothing there")
    assert reasons[1].endswith(
        "checkpoints/epoch=0002: damaged: model.safetensors: the file is missing"
    )


def learnt_and_cost(lines: list[str]) -> list[list[str]]:
    """Return the cells of the epochs in the first table, which ends them on the right."""
    return [line.split() for line in lines if re.match(r" +\d ", line)]


def cost(run: Path, name: str) -> list[str]:
    """Return what the first table says about an artifact: seconds, images a second, GiB."""
    made = read_manifest(run / name)
    pace = [] if name.startswith("metrics") else [f"{made.rows / made.seconds:,.0f}"]
    return [f"{made.seconds:.1f}", *pace, f"{made.peak_memory_bytes / 2**30:.2f}"]


def test_show_run__what_each_epoch_learnt_and_each_of_its_stages_cost(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, finished_run)

    metrics = pd.read_parquet(finished_run / "metrics")
    for epoch, cells in enumerate(learnt_and_cost(lines)):
        row = metrics.iloc[epoch]
        before = "–" if epoch == 0 else f"{row.nmi_previous:.3f}"
        expected = [str(epoch), f"{row.loss:.3f}", before, f"{row.nmi_labels:.3f}"]
        for kind in EPOCH_KINDS:
            expected += cost(finished_run, f"{kind}/epoch={epoch:04d}")
        assert cells == expected
    assert len(learnt_and_cost(lines)) == 3
    assert max(map(len, lines[lines.index("") :])) <= 100, "no wider than most terminals"
    index = read_manifest(finished_run / "images")
    pace = f"240 images in {index.seconds:.1f} s, {240 / index.seconds:,.0f} images/s"
    assert any(pace in line for line in lines)


def test_show_run__says_how_many_images_were_skipped(
    recipe: Path, tmp_path: Path, tiny_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "pictures")
    (source / "disc" / "broken.png").write_bytes(b"no picture")
    run = tmp_path / "run"
    make_run(recipe, run, epochs=1, overrides={"dataset": {"source": str(source)}})

    lines = shown(capsys, run)

    assert any(line.strip().startswith("1 skipped: ") for line in lines)
    assert any("images/skipped.parquet has the reasons" in line for line in lines)


def test_show_run__cost_of_an_epoch_that_has_not_ended(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("checkpoints", "metrics"):
        shutil.rmtree(own_run / kind / "epoch=0002")
    prune(own_run / "features/epoch=0002")

    *_, cells = learnt_and_cost(shown(capsys, own_run))

    there = cost(own_run, "features/epoch=0002") + cost(own_run, "labels/epoch=0002")
    assert cells == ["2", "–", "–", "–", *there, *["–"] * 5]


def test_show_run__memory_of_a_gpu_beside_that_of_the_process(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = own_run / "labels/epoch=0002"
    on_a_gpu = read_manifest(labels).model_copy(update={"peak_device_bytes": 3 << 30})
    write_manifest(labels, on_a_gpu)

    lines = shown(capsys, own_run)

    *_, cells = learnt_and_cost(lines)
    *_, peak = cost(own_run, "labels/epoch=0002")
    assert cells[9] == f"{peak}+3.00"
    assert "GiB: peak of main memory + peak of the GPU's" in lines


def test_show_run__ranks_and_what_they_sent(
    own_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shown(capsys, own_run)
    for kind, moved in (("labels", {"centroids": 3_000_000, "gather": 500}), ("checkpoints", {})):
        artifact = own_run / kind / "epoch=0001"
        by_ranks = {"format": 2, "ranks": 4, "moved_bytes": moved}
        write_manifest(artifact, read_manifest(artifact).model_copy(update=by_ranks))

    lines = shown(capsys, own_run)
    of_epoch = shown(capsys, own_run, 1)

    assert not any("sent" in line for line in alone)
    (start,) = [number for number, line in enumerate(lines) if line.split()[:1] == ["cluster"]]
    header, below, *rows = [line.split() for line in lines[start : start + 5]]
    assert header == ["cluster", "train"]
    assert below == ["epoch", "ranks", "sent", "ranks", "sent"]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert rows[0][1:] == ["–"] * 4
    assert rows[1][1] == "4"
    assert "cluster sent: centroids 3 MB, gather 500 B" in of_epoch
    assert not any(line.startswith("cluster sent") for line in lines), "of one epoch only"


def test_show_run__a_narrow_terminal_gets_two_tables(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")  # a dumb one is always 80 wide to rich
    monkeypatch.setenv("COLUMNS", "100")
    together = learnt_and_cost(shown(capsys, finished_run))
    monkeypatch.setenv("COLUMNS", "80")

    apart = learnt_and_cost(shown(capsys, finished_run))

    learnt, costs = apart[:3], apart[3:]
    assert [one + rest[1:] for one, rest in zip(learnt, costs, strict=True)] == together


def test_show_run__of_one_epoch(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, finished_run, 1)

    assert [line[0] for line in lines if line[:2] in ("0 ", "1 ", "2 ")] == ["1"]
    assert [cells[0] for cells in learnt_and_cost(lines)] == ["1"]


@pytest.fixture
def collapsed_run(own_run: Path) -> Path:
    """Return a run whose first epoch is healthy; then the features collapse, as metrics say."""
    healthy = {"loss": 1.9, "effective_rank": 5.0}
    collapsed = {"loss": 2.07, "effective_rank": 1.42}  # ln 8 = 2.08
    for epoch, changes in enumerate((healthy, collapsed, collapsed)):
        folder = own_run / f"metrics/epoch={epoch:04d}"
        write_metrics(folder, read_metrics(folder) | changes)
        reseal(folder)
    return own_run


def test_show_run__what_is_wrong_with_its_epochs_and_what_helps(
    collapsed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, collapsed_run)
    of_first = shown(capsys, collapsed_run, 0)

    told = "low_rank (2 epochs, last 2): the features have collapsed onto 1.4 directions"
    _, advice = " ".join(" ".join(lines).split()).split(told)
    assert re.match(r"[^:]* What helps: .*train\.reassign_every.*train\.lr", advice)
    assert sum("What helps" in line for line in lines) == 2
    assert not any("What helps" in line for line in of_first)


def largest_cluster(run: Path, epoch: int) -> tuple[int, int]:
    """Return its id, and how many images it has."""
    sizes_K = np.bincount(read_labels(run / f"labels/epoch={epoch:04d}").cluster_N)
    return int(sizes_K.argmax()), int(sizes_K.max())


def test_show_cluster__nearest_images_first(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = pd.read_parquet(finished_run / "labels/epoch=0001/labels.parquet")
    cluster, _ = largest_cluster(finished_run, 1)
    members = labels.query(f"cluster == {cluster}").sort_values(["distance", "image_id"])

    show_cluster(RunFolder(finished_run), 1, cluster, 1000)

    head, _, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"epoch 1, cluster {cluster}: {len(members)} images, nearest first"
    assert [row.split()[1:] for row in rows] == [
        [str(image_id), path]
        for image_id, path in zip(members["image_id"], members["path"], strict=True)
    ]
    distances = [float(row.split()[0]) for row in rows]
    assert distances == sorted(distances)


def test_show_cluster__says_how_to_see_the_rest(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, count = largest_cluster(finished_run, 0)

    show_cluster(RunFolder(finished_run), 0, cluster, 3)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 3 + 1
    assert lines[-1] == f"… and {count - 3} more; --limit {count} shows all"


def test_show_cluster__refuses_what_cannot_be_meant(own_run: Path) -> None:
    folder = RunFolder(own_run)
    with pytest.raises(ConfigError, match="--epoch N"):
        show_cluster(folder, None, 0, 10)
    with pytest.raises(ConfigError, match="epoch 0 has clusters 0 to 7"):
        show_cluster(folder, 0, 8, 10)
    with pytest.raises(ConfigError, match=r"--epoch 3: .*run has epochs 0 to 2 so far\.\n  Fix: "):
        show_cluster(folder, 3, 0, 10)
    shutil.rmtree(own_run / "labels/epoch=0001")
    with pytest.raises(ArtifactError, match="not hold a finished artifact"):
        show_cluster(folder, 1, 0, 10)


def test_show_run__absent_epoch_names_those_there_are(own_run: Path) -> None:
    folder = RunFolder(own_run)
    with pytest.raises(ConfigError, match=r"--epoch 3: .*run has epochs 0 to 2 so far\.\n  Fix: "):
        show_run(folder, 3)

    for kind in EPOCH_KINDS:
        shutil.rmtree(own_run / kind)
    with pytest.raises(ConfigError, match=r"has no epoch yet\.\n  Fix: deepcluster run .*run"):
        show_run(folder, 0)


def test_show__escapes_what_a_file_name_could_do_to_the_terminal(
    tiny_images: Path, tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(tiny_images, tmp_path / "source")
    shutil.copy(source / "disc/000.png", source / "disc/a\x1b[31m\rb\nc[bold]\u202eé.png")
    run = tmp_path / "run"
    make_run(write_recipe(tmp_path / "own.yaml", source), run, epochs=1)
    capsys.readouterr()

    for cluster in range(8):
        show_cluster(RunFolder(run), 0, cluster, 1000)

    told = capsys.readouterr().out
    assert r"disc/a\x1b[31m\rb\nc[bold]\u202eé.png" in told
    assert not {"\x1b", "\r", "\u202e"} & set(told)


def test_show_sweep__a_row_for_each_k_after_its_last_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("loss", "ln_k", "nmi_previous", "nmi_labels", "effective_clusters", "seconds")
    rows: list[dict[str, float | None]] = [
        {"k": k, "epoch": epoch, "empty_clusters": 1_000 * epoch}
        | {name: k + epoch + place / 8 for place, name in enumerate(columns)}
        for k in (4, 1000)
        for epoch in (0, 1)
    ]
    rows[3]["nmi_labels"] = None
    pd.DataFrame(rows).to_parquet(tmp_path / "sweep.parquet")

    show_sweep(tmp_path)

    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path}: after 2 epochs" in lines
    table = [line.split() for line in lines if re.match(r" *[\d,]+ ", line)]
    assert table == [
        "4 5.000 5.125 5.250 5.375 5.5 1,000 10.2 s".split(),
        "1,000 1001.000 1001.125 1001.250 – 1,001.5 1,000 33 min".split(),
    ]
    assert lines[-1].endswith(f"show {tmp_path}/k=01000     one of the runs")


def test_show_sweep__damaged_table_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "sweep.parquet").write_bytes(b"PAR1")

    with pytest.raises(ArtifactError, match=r"(?s)cannot be read.*Fix: deepcluster sweep"):
        show_sweep(tmp_path)


def test_farewell__names_what_was_made_and_what_to_type(finished_run: Path) -> None:
    folder = RunFolder(finished_run)

    text = farewell(folder, epochs=3, features=folder.artifact("features", 2), seconds=3725.2)

    assert f"{finished_run}: 3 epochs, in 1 h 2 min\n" in text
    _, commands = text.split("Next:\n")
    assert f"show {finished_run} --epoch 2 --cluster 0" in commands
    assert f"look {finished_run}\n" in commands
    for named in re.findall(r'\("([^"]+)"\)', text):
        assert Path(named).exists()


def test_farewell__is_short_about_paths_below_here(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.parent)

    folder = RunFolder(finished_run)
    features = folder.artifact("features", 2)

    text = farewell(folder, epochs=3, features=features, seconds=0.2)

    assert "\nfinished: 3 epochs, in 0.2 s\n" in text
