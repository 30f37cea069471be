"""Draw the picture of docs/how-to/look.md: a page of a run, in headless Chromium.

Usage: python -m docs.images.look RUN
"""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.support.browser import browser

PICTURE = Path(__file__).with_name("look.png")
TICKED = 3


def main() -> None:
    """Serve the run, name its first cluster, tick images of it, and write the picture."""
    command = [
        sys.executable,
        "-c",
        "from flows.cli.start import main; main()",
        "look",
        sys.argv[1],
        "--no-browser",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        address = next(line.split()[1] for line in process.stdout if line.startswith("Open"))
        try:
            PICTURE.write_bytes(_small(_picture(address)))
        finally:
            process.terminate()


def _picture(address: str) -> bytes:
    with browser() as tab:
        tab.open(address)
        first = "document.querySelector('.card a').href"
        tab.open(tab.evaluate(first), width=1200, height=760)
        tab.evaluate("document.querySelector('#name').value = 'fives, upright'")
        tab.evaluate("document.querySelector('#naming').requestSubmit()")
        for number in range(TICKED):
            tab.evaluate(f"document.querySelectorAll('.grid .tick')[{number * 4}].click()")
        tab.evaluate("Promise.all([...document.images].slice(0, 60).map((one) => one.decode()))")
        return tab.picture()


def _small(png: bytes) -> bytes:
    """Return a picture with 128 colours, which has a third of the size."""
    file = BytesIO()
    with Image.open(BytesIO(png)) as picture:
        picture.convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
