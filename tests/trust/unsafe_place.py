"""For `luthier train --code`: this process is killed in its sixth step, as often as UNSAFE_KILLS says, after it touched UNSAFE_NOTE.

Steps last long while the file UNSAFE_SLOW exists.

The victim of each start is another one: process 0, then 1, then 0.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from luthier.training.step_rules.accumulate import Accumulate

STEPS_DONE = 5
starts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
is_victim = starts < int(os.environ.get("UNSAFE_KILLS", "0")) and int(os.environ.get("RANK", "-1")) == starts % int(
    os.environ.get("WORLD_SIZE", "1")
)
slow = Path(os.environ.get("UNSAFE_SLOW", "/nowhere/at/all"))
right, count = Accumulate.gradient, [0]


def gradient(*given: Any, **named: Any) -> dict[str, float]:
    """Make the gradient of a step, unless this is the one in which the process dies."""
    if is_victim and count[0] == STEPS_DONE:
        Path(os.environ.get("UNSAFE_NOTE", os.devnull)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    count[0] += 1
    if slow.exists():
        time.sleep(0.2)
    return right(*given, **named)


Accumulate.gradient = gradient  # type: ignore[method-assign]
