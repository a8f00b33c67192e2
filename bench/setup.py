"""Make the virtual environments of the peers: bench/.venvs/<peer> from bench/peers/<peer>.txt.

    make bench-setup                              all of them
    python bench/setup.py transformers trl        these
    python bench/setup.py --again trl             from nothing, even if it is there

torch comes first, from the version that constraints.txt names, so that no peer brings another build of it. A peer that cannot be
installed is named at the end; the others are made all the same.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "bench" / "peers"
VENVS = ROOT / "bench" / ".venvs"
ESSENTIAL = ("transformers", "sentence-transformers", "trl")
PROBES = {
    "transformers": "from transformers import Trainer, pipeline; import peft",
    "sentence-transformers": "import sentence_transformers, setfit",
    "trl": "from trl import SFTTrainer; import peft",
    "llamafactory": "import llamafactory.train.tuner",
    "ms-swift": "import swift",
    "axolotl": "import axolotl.cli.main",
    "litgpt": "import litgpt.__main__",
    "torchtune": "import torchtune",
}
FIND = "import importlib.util as u; print(*[(s.origin if (s := u.find_spec(n)) else '') for n in ('torchvision', 'torchaudio')], sep='\\n')"
VISION_OPS = """
import torch as _torch  # a CPU build of torch lacks these two operators, and nothing here calls them

_torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class Failed(Exception):
    """A step of a set-up failed; the text is the last thing that it said."""


def main() -> int:
    known = [*ESSENTIAL, *sorted(path.stem for path in PEERS.glob("*.txt") if path.stem not in ESSENTIAL)]
    parser = argparse.ArgumentParser(description="Make the virtual environments of the peers.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"which: {', '.join(known)}; none: all")
    parser.add_argument("--again", action="store_true", help="make them from nothing")
    asked = parser.parse_args()
    unknown = sorted(set(asked.peers) - set(known))
    if unknown:
        parser.error(f"no such peer: {', '.join(unknown)}; known: {', '.join(known)}")
    failed = {}
    for peer in asked.peers or known:
        started = time.perf_counter()
        try:
            print(f"{peer}: {set_up(peer, again=asked.again)} ({time.perf_counter() - started:.0f} s)", flush=True)
        except Failed as error:
            failed[peer] = str(error)
            print(f"{peer}: failed ({time.perf_counter() - started:.0f} s): {error}", flush=True)
    if failed:
        print(f"\nnot made: {', '.join(failed)}; rows of `make bench` that need them will say so")
    return 1 if set(failed) & set(ESSENTIAL) else 0


def set_up(peer: str, *, again: bool = False) -> str:
    """Make one environment, or find that it is there; return what was done.

    Raises:
        Failed: if it could not be made, or cannot import what it is for.
    """
    venv, wanted = VENVS / peer, PEERS / f"{peer}.txt"
    stamp = venv / "made.txt"
    if again:
        shutil.rmtree(venv, ignore_errors=True)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8"):
        return "is there"
    python = venv / "bin" / "python"
    if not python.exists():
        step([sys.executable, "-m", "venv", str(venv)])
    pinned = next(line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))
    limits = venv / "constraints.txt"
    limits.write_text(pinned + "\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "-c", str(limits)]
    step([*pip, pinned, "setuptools", "wheel"])
    step([*pip, "-r", str(wanted)])
    mend(python)
    step([str(python), "-c", PROBES[peer]])
    stamp.write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")
    return "made"


def mend(python: Path) -> None:
    """Make torchvision and torchaudio importable beside a CPU build of torch: their wheels are made for CUDA."""
    vision, audio = subprocess.run([str(python), "-c", FIND], capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    if vision:
        extension = Path(vision).with_name("extension.py")
        text = extension.read_text(encoding="utf-8")
        if VISION_OPS not in text:
            before, line, after = text.partition("from __future__ import annotations\n")
            extension.write_text(before + line + VISION_OPS + after if line else VISION_OPS + text, encoding="utf-8")
    if audio:
        for library in (Path(audio).parent / "lib").glob("*.so"):
            library.unlink()


def step(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Failed(said[-1] if said else f"exit code {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
