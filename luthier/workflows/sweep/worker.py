"""One of several processes that do the trials of a sweep: `python -m luthier.workflows.sweep.worker FOLDER ORDERS`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from luthier.core import yaml
from luthier.core.allocator import share_freed_memory
from luthier.core.errors import LuthierError
from luthier.core.registry import load_user_file
from luthier.workflows.launch import follow_launcher
from luthier.workflows.sweep.section import read_sweep
from luthier.workflows.sweep.study import SETTINGS
from luthier.workflows.sweep.sweep import Share, Sweep


def main(folder: str, orders: dict[str, Any]) -> int:
    """Do trials of the sweep in a folder until none is left or the time is over; returns an exit code.

    Args:
        folder: The sweep's folder, begun.
        orders: `keys` of the sweep file that the folder does not say, files of `code`, and what of the trials is this process's `share`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    follow_launcher()
    share_freed_memory()
    try:
        for path in orders["code"]:
            load_user_file(path)
        plan = read_sweep({**yaml.load_file(Path(folder) / SETTINGS), **orders["keys"], "output": folder}, {})
        for trial in Sweep(plan, Share(**orders["share"])):
            for _ in trial:
                pass
    except LuthierError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
