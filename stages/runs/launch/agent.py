"""torchrun, as a process that ends with the run and that reports which of its ranks failed.

python -m stages.runs.launch.agent FOLDER PARENT [torchrun's arguments…]
"""

import os
import sys
from pathlib import Path

from stages.runs.launch.lifetime import PARENT, end_with_parent
from stages.runs.launch.messages import Messages


def main(folder: Path, parent: int, arguments: list[str]) -> None:
    """Start the ranks by torchrun and wait for them; exit with 1 if one of them failed.

    Args:
        folder: folder of messages.
        parent: the process that has started this one.
        arguments: torchrun's arguments.
    """
    end_with_parent(parent)
    os.environ[PARENT] = str(os.getpid())
    # Imported here because they take seconds, in which the parent could end.
    from torch.distributed import run  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import (  # noqa: PLC0415
        ChildFailedError,
    )

    try:
        run.main(arguments)
    except ChildFailedError as error:
        first_to_end = sorted(error.failures.items(), key=lambda failed: failed[1].timestamp)
        codes = {rank: failed.exitcode for rank, failed in first_to_end}
        messages = Messages(folder)
        messages.report_exits({**messages.exits(), **codes})  # after those of other machines
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
