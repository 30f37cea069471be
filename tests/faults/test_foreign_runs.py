"""Runs that belong to somebody else: they can be read, and only their owner changes them."""

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcluster_core.artifacts import commit, locks
from deepcluster_core.artifacts.commit import lock, prune, tidy
from deepcluster_core.artifacts.manifest import Condition, inspect
from deepcluster_core.artifacts.permissions import why_not_writable
from deepcluster_core.errors import ArtifactError, ConfigError
from flows.prefect_.crashed_runs import ALIVE, mark_crashed_runs
from flows.prefect_.task_records import usable_place
from stages.runs.access import check_readable, check_run_writable
from stages.runs.folder import RunFolder
from stages.runs.locate import existing_run
from tests.support.other_user import (
    GID,
    UID,
    Answer,
    another_user,
    answers,
    needs_root,
    open_folder,
)
from tests.support.prefect_servers import running_server
from tests.support.recipes import write_small_recipe
from tests.support.refusals import make
from tests.support.run_files import contents

pytestmark = pytest.mark.slow  # starts servers or whole runs, minutes in all

OWN, GROUP = 0o022, 0o002
"""Umasks."""
FORBIDDEN = "cannot be written to (Permission denied)"


@pytest.fixture(scope="module")
def server(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server of Prefect for all commands of this file; yield its URL."""
    with running_server(prefect_database, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def theirs(place: Path, small_source: Path) -> Path:
    """Return a run of one epoch that others may only read, with a mark of a process that died."""
    shutil.copytree(small_source, place / "pictures")
    make(write_small_recipe(place / "recipe.yaml", place / "pictures"), place / "theirs")
    alive = place / "theirs/.prefect" / ALIVE
    alive.mkdir(parents=True, exist_ok=True)
    (alive / "5c2cd5c2-3c5e-4c5e-8c5e-3c5e4c5e8c5e").touch()
    return place / "theirs"


@pytest.fixture(scope="module")
def said(theirs: Path, place: Path, server: str) -> Iterator[dict[str, Answer]]:
    """Return what commands say to another user, by name; the run must stay as it is."""
    before, home = _everything(theirs), place / "home"
    commands = {
        "stage": ["stage", "cluster", *_run(theirs, 0), "--set", "cluster.k=3", "--out", "k3"],
        "again": ["stage", "cluster", *_run(theirs, 0), "--set", "cluster.k=3", "--out", "k3"],
        "evaluate": ["evaluate", "knn", str(theirs), "--out", "knn"],
        "evaluate in it": ["evaluate", "knn", str(theirs)],
        "stage in it": ["stage", "train", *_run(theirs, 0), "--force"],
        "run": ["run", str(place / "recipe.yaml"), "--run", str(theirs)],
        "report": ["report", str(theirs), "--out", "page.html"],
        "report in it": ["report", str(theirs)],
        "show": ["show", str(theirs)],
        "assign": ["assign", str(theirs), str(place / "pictures"), "--out", "labels.parquet"],
    }
    with _read_only(theirs):
        found = answers([(OWN, asked) for asked in commands.values()], home=home, server=server)
        yield dict(zip(commands, found, strict=True))
        assert _everything(theirs) == before


@pytest.mark.parametrize("name", ["stage", "again", "evaluate", "report", "show", "assign"])
def test_commands__that_only_read_a_run_work(name: str, said: dict[str, Answer]) -> None:
    assert said[name].code == 0, said[name].err


def test_stage__elsewhere_is_cached_by_records_of_ones_own(said: dict[str, Answer]) -> None:
    assert "cluster epoch 0: Cached" in said["again"].out


def test_evaluate__elsewhere_leaves_a_whole_result(said: dict[str, Answer], place: Path) -> None:
    assert said["evaluate"].code == 0, said["evaluate"].err
    assert inspect(place / "home/knn")[0] is Condition.WHOLE


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("evaluate in it", "--out FOLDER writes elsewhere"),
        ("stage in it", "--out FOLDER writes elsewhere"),
        ("run", "give another --run"),
        ("report in it", "--out FILE.html"),
    ],
)
def test_commands__that_write_say_whose_folder_it_is(
    name: str, fix: str, said: dict[str, Answer], theirs: Path
) -> None:
    answer = said[name]
    assert answer.code == 2, answer.err
    assert FORBIDDEN in answer.err
    assert f"belongs to {_owner(theirs)}" in answer.err
    assert "Traceback" not in answer.err
    assert fix in answer.err


def test_run__a_group_shares_with_umask_002_alone(
    place: Path, small_source: Path, server: str
) -> None:
    needs_root()
    group, colleague = 23456, 12346
    pictures = shutil.copytree(small_source, place / "of-group")
    recipe = write_small_recipe(place / "group.yaml", pictures, keep="{features: 1}")
    for run, umask in ((shared := place / "shared", GROUP), (own := place / "own", OWN)):
        run.mkdir()
        os.chown(run, -1, group)
        run.chmod(0o2777 & ~umask)  # setgid
        before = os.umask(umask)
        make(recipe, run)
        os.umask(before)
    _all_are(shared, stat.S_IRGRP | stat.S_IWGRP)
    _all_are(own, stat.S_IRGRP | stat.S_IROTH)

    asked = ["run", str(recipe), "--epochs", "2", "--run"]
    commands = [(GROUP, [*asked, str(run)]) for run in (shared, own)]
    home = place / "home-of-colleague"
    one, two = answers(commands, home=home, server=server, uid=colleague, gid=group)

    assert one.code == 0, one.err
    assert inspect(shared / "metrics/epoch=0001")[0] is Condition.WHOLE
    assert inspect(shared / "features/epoch=0000")[0] is Condition.PRUNED, "of the other user"
    _all_are(shared, stat.S_IRGRP | stat.S_IWGRP)
    assert two.code == 2, two.err
    assert "root (uid 0)" in two.err
    assert "umask 002" in two.err


def test_lock__of_another_user_who_lets_it_be_read(folder: Path) -> None:
    needs_root()
    (folder / ".images.lock").touch(0o644)
    with another_user(), lock(folder / "images"):
        with (folder / ".images.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock__in_a_sticky_folder(folder: Path) -> None:
    needs_root()
    folder.chmod(0o1777)
    (folder / ".images.lock").touch(0o666)
    os.chown(folder / ".images.lock", UID + 1, GID)
    (folder / ".images.lock").chmod(0o666)
    with another_user(), lock(folder / "images"):
        pass


def test_lock__of_a_folder_of_ones_own_in_somebody_elses(folder: Path) -> None:
    needs_root()
    (folder / "mine").mkdir()
    os.chown(folder / "mine", UID, GID)
    with another_user(), lock(folder / "mine"):
        pass
    assert [path.name for path in folder.iterdir()] == ["mine"]


def test_lock__that_may_not_be_opened_says_whose_it_is(folder: Path) -> None:
    needs_root()
    (folder / ".images.lock").touch(0o600)
    with (
        another_user(),
        pytest.raises(ArtifactError, match=r"belongs to root \(uid 0\)[\s\S]*Fix:"),
        lock(folder / "images"),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_lock__where_the_file_system_has_none(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    for _ in range(2):
        with lock(tmp_path / "images"):
            pass
    assert caplog.text.count("no file locks") == 1


def test_tidy__leaves_what_is_another_users(theirs: Path, folder: Path) -> None:
    needs_root()
    copy = shutil.copytree(theirs / "labels/epoch=0000", folder / "labels")
    (copy / commit.UNFINISHED).touch()
    before = _everything(folder)
    with another_user():
        tidy(copy)
    assert _everything(folder) == before


def test_prune__deletes_nothing_unless_all_of_it_may_go(theirs: Path, folder: Path) -> None:
    needs_root()
    copy = shutil.copytree(theirs / "features/epoch=0000", folder / "features")
    os.chown(copy, UID, GID)  # but not the array in it
    with another_user(), pytest.raises(PermissionError):
        prune(copy)
    assert inspect(copy)[0] is Condition.WHOLE


@pytest.mark.parametrize("hidden", ["_manifest.json", "labels.parquet", "."])
def test_artifact__that_may_not_be_read_is_not_called_damaged_nor_replaced(
    hidden: str, theirs: Path, folder: Path
) -> None:
    needs_root()
    out = shutil.copytree(theirs / "labels/epoch=0000", folder / "labels")
    (out / hidden).chmod(0)
    with another_user():
        condition, reason = inspect(out)
    assert condition is Condition.UNREADABLE
    assert "belongs to root (uid 0)" in reason

    (out / hidden).chmod(0o700 if hidden == "." else 0o600)
    os.chown(out, UID, GID)
    if hidden != ".":
        with another_user(), pytest.raises(ArtifactError, match="you may not read"):
            commit._begin(out, commit.Stage("cluster", 1, "labels", ()))  # pyright: ignore[reportPrivateUsage]
    assert inspect(out)[0] is Condition.WHOLE


def test_existing_run__that_may_not_be_entered(theirs: Path, folder: Path) -> None:
    needs_root()
    run = shutil.copytree(theirs, folder / "closed/run")
    for closed in (folder / "closed", run):
        closed.chmod(0o700)
        with another_user(), pytest.raises(ConfigError, match=r"cannot be read[\s\S]*uid 0"):
            existing_run(str(run))
        with another_user(), pytest.raises(ConfigError, match="Fix:"):
            check_readable(run)
        closed.chmod(0o755)


def test_check_run_writable__of_mixed_ownership(folder: Path) -> None:
    needs_root()
    os.chown(folder, UID, GID)
    (folder / "labels").mkdir(mode=0o755)  # made with sudo
    with another_user(), pytest.raises(ConfigError, match=r"labels belongs to root \(uid 0\)"):
        check_run_writable(RunFolder(folder))


def test_mark_crashed_runs__leaves_marks_of_other_users(folder: Path) -> None:
    needs_root()
    mark = folder / ALIVE / "5c2cd5c2-3c5e-4c5e-8c5e-3c5e4c5e8c5e"
    mark.parent.mkdir()
    mark.touch()
    os.chown(mark, UID, GID)
    assert mark_crashed_runs(folder) == 0
    assert mark.exists()


def test_usable_place__of_a_record_that_another_user_wrote(folder: Path) -> None:
    needs_root()
    folder.chmod(0o777)
    (folder / "key").write_text("no record")
    (folder / "key").chmod(0o600)
    with another_user():
        assert usable_place(folder, "key", is_done=True) == folder
    assert not (folder / "key").exists()
    folder.chmod(0o1777)
    (folder / "key").write_text("no record")
    with another_user():
        assert usable_place(folder, "key", is_done=True) != folder, "it may not be deleted"


def test_why_not_writable__names_what_is_in_the_way(folder: Path) -> None:
    needs_root()
    with another_user():
        assert "belongs to root (uid 0), group root" in why_not_writable(folder / "new/file")
        folder_of_root = why_not_writable(Path("/proc/sys/new"))
    assert "/proc" in folder_of_root


@contextlib.contextmanager
def _read_only(run: Path) -> Iterator[None]:
    """Forbid writing to this user, where the reader is not another one."""
    if os.geteuid() == 0:
        yield
        return
    modes = {path: path.stat().st_mode for path in [run, *run.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def _everything(run: Path) -> dict[str, object]:
    """Return all names, and the digests of all files; locks too."""
    names = {str(path.relative_to(run)): None for path in sorted(run.rglob("*"))}
    return {**names, **contents(run, records=True)}


def _run(run: Path, epoch: int) -> list[str]:
    return ["--run", str(run), "--epoch", str(epoch)]


def _owner(run: Path) -> str:
    return f"{run.owner()} (uid {run.stat().st_uid})"


def _all_are(run: Path, mode: int) -> None:
    for path in [run, *run.rglob("*")]:
        assert path.stat().st_mode & mode == mode, f"{stat.filemode(path.stat().st_mode)} {path}"
