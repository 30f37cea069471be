"""The board of a run on several machines: which launch is in progress, and that the run lives.

The first machine writes it, in one file that is always read anew: see `messages` for the reason.
"""

import atexit
import json
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stages.runs.launch.launcher import Launch

BOARD = "board.json"
BEAT_EVERY_S = 2.0


@dataclass(frozen=True)
class Notice:
    """What is written on the board."""

    beats: int = 0
    """A number that grows while the run lives."""
    has_ended: bool = False
    launch: str | None = None
    """Name of the folder of messages of the current launch."""
    num_ranks: int = 0
    nodes: int = 1
    address: str | None = None


def read_board(folder: Path) -> Notice | None:
    """Return what is on the board of a run; None if there is none, or it cannot be read now."""
    try:
        return Notice(**json.loads((folder / BOARD).read_text()))
    except OSError:
        return None


class Board:
    """The board, as the first machine writes it until its process ends."""

    def __init__(self, folder: Path) -> None:
        """Continue from what is on the board, and show from now on that the run lives."""
        self._folder = folder
        before = read_board(folder)
        self._notice = Notice(beats=before.beats if before else 0)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="board", daemon=True).start()
        atexit.register(self.end)

    def announce(self, launch: Launch) -> None:
        """Write which launch is in progress, so that the other machines take part in it."""
        compute = launch.compute
        with self._lock:
            self._notice = replace(
                self._notice,
                launch=launch.folder.name,
                num_ranks=launch.num_ranks,
                nodes=compute.nodes,
                address=compute.address,
            )
            self._write()

    def end(self) -> None:
        """Write that the run has ended."""
        self._ended.set()
        with self._lock:
            if not self._notice.has_ended and self._folder.exists():
                self._notice = replace(self._notice, has_ended=True, launch=None)
                self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_EVERY_S):
            with self._lock, suppress(OSError):  # such as a network file system that is away
                self._write()

    def _write(self) -> None:
        self._notice = replace(self._notice, beats=self._notice.beats + 1)
        part = self._folder / f".{BOARD}"
        part.write_text(json.dumps(asdict(self._notice)))
        part.replace(self._folder / BOARD)


_BOARDS: dict[Path, Board] = {}


def board_of(folder: Path) -> Board:
    """Return the board of a run of this process; the first call makes it."""
    folder = folder.absolute()
    if folder not in _BOARDS:
        folder.mkdir(parents=True, exist_ok=True)
        _BOARDS[folder] = Board(folder)
    return _BOARDS[folder]
