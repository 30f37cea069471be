"""Draw look.png and report.png, pages of a finished run in headless Chromium.

Usage: python -m docs.images.pages RUN, where RUN is a run of `configs/demo.yaml`. Names one of its
clusters.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.browser import Tab, browser

FOLDER = Path(__file__).parent
TICKED = 3
DECODED = "Promise.all([...document.images].slice(0, 60).map((one) => one.decode()))"
"""Wait until the images that are in view can be painted."""


def main() -> None:
    """Write both pictures."""
    run = Path(sys.argv[1])
    with browser() as tab:
        _write(_report(tab, run / "report.html"), "report.png")
        with _served(run) as address:
            _write(_look(tab, address), "look.png")


@contextmanager
def _served(run: Path) -> Iterator[str]:
    """Serve the run with `deepcluster look`, and yield the address."""
    program = "from flows.cli.start import main; main()"
    command = [sys.executable, "-c", program, "look", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("Open"))
        finally:
            process.terminate()


def _report(tab: Tab, page: Path) -> bytes:
    """Return a picture of the first clusters of the report."""
    tab.open(page, width=1320, height=830)
    tab.evaluate("document.querySelector('#clusters').scrollIntoView({behavior: 'instant'})")
    tab.evaluate(DECODED)
    return tab.picture()


def _look(tab: Tab, address: str) -> bytes:
    """Return a picture of the largest cluster, with a name and some images ticked."""
    tab.open(address)
    first = "document.querySelector('.card a').href"
    tab.open(tab.evaluate(first), width=1200, height=760)
    tab.evaluate("document.querySelector('#name').value = 'ones, upright'")
    tab.evaluate("document.querySelector('#naming').requestSubmit()")
    for number in range(TICKED):
        tab.evaluate(f"document.querySelectorAll('.grid .tick')[{number * 4}].click()")
    tab.evaluate(DECODED)
    return tab.picture()


def _write(png: bytes, name: str) -> None:
    """Write a picture with 128 colours, which has a third of the size."""
    file = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        picture.convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    (FOLDER / name).write_bytes(file.getvalue())


if __name__ == "__main__":
    main()
