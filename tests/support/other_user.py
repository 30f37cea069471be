"""Another user of the machine: the answers that commands give them, and code that runs as them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.timeouts import WITHIN_S

UID, GID = 12345, 12345
"""A user and a group that do not exist."""
ROOT = Path(__file__).parents[2]
COMMANDS = """
import contextlib, io, json, os, sys, traceback
from flows.cli import main as cli
answers = []
for umask, arguments in json.loads(sys.argv[1]):
    os.umask(umask)
    sys.argv = ["deepcluster", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Answer:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user for a moment")


@contextmanager
def another_user(uid: int = UID, gid: int = GID) -> Iterator[None]:
    """Run the block with the permissions of another user, in this process."""
    group_before, groups_before = os.getegid(), os.getgroups()
    # The user comes last, and first on the way back: only root can change groups.
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group_before)
        os.setgroups(groups_before)


def answers(
    commands: Sequence[tuple[int, Sequence[str]]],
    *,
    home: Path,
    server: str,
    uid: int = UID,
    gid: int = GID,
) -> list[Answer]:
    """Run commands one after the other in one process, as another user if this user is root.

    Args:
        commands: umask and arguments of each command.
        home: home folder of the user and of their Prefect; it is created.
        server: URL of Prefect's API.
        uid: number of the user.
        gid: number of the user's only group.
    """
    home.mkdir(exist_ok=True)
    environment = os.environ | {
        "HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": server,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    python = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    if os.geteuid() == 0:
        os.chown(home, uid, gid)
        python = _as(uid, gid, python)
    done = subprocess.run(
        python,
        check=False,
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    assert done.returncode == 0, done.stderr
    # What the commands print is in the answers; the last line is the list of all answers.
    last_line = done.stdout.splitlines()[-1]
    return [Answer(*found) for found in json.loads(last_line)]


def _as(uid: int, gid: int, command: list[str]) -> list[str]:
    """Return a command that runs as another user.

    If the interpreter is in a folder that only root may enter, the process gets its own view of
    that folder, in a mount namespace that ends with the process.
    """
    user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    interpreter = Path(sys.executable).resolve()
    closed = [path for path in reversed(interpreter.parents) if not path.stat().st_mode & 0o001]
    if closed:
        inside = interpreter.relative_to(closed[0]).parts[0]
        script = (
            f"set -e; v=$(mktemp -d); chmod 755 $v; mkdir $v/{inside}; mount --make-rprivate /; "
            f"mount --bind {closed[0]}/{inside} $v/{inside}; mount --rbind $v {closed[0]}; "
            f'exec "$@"'
        )
        user = ["unshare", "--mount", "bash", "-c", script, "_", *user]
    # Neither program is everywhere, and containers often forbid mounts.
    try:
        subprocess.run([*user, sys.executable, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the interpreter cannot run as another user here")
    return [*user, *command]


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a new folder that others may enter; pytest's own are for one user alone."""
    with tempfile.TemporaryDirectory(prefix="shared-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
