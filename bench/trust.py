"""Write docs/trust.md from what the full trust tests reached (docs/trust.json).

make trust      runs the tests with the promised counts, then this
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# What is promised about a run, and what was reached

A run should not be lost, whatever happens to it, and a resumed run should be the run that was never stopped, bit for bit. Each promise
below has a test that breaks something on purpose (kills the process, fills the disk, flips bits, puts NaN into a gradient) and counts
what survives. `asked` is what the promise says, `reached` is what the last full run of its test counted on the machine named under the
table.

```bash
make trust                     # every test with the promised counts, then this page; the column of seconds says how long
pytest tests/trust             # the same tests with small counts, as in `make test`
LUTHIER_TRUST=full pytest tests/trust/test_bit_exact.py && python bench/trust.py     # one of them in full
```

How to read it:

- The tests train a BERT of two layers on a few hundred short rows, so that thousands of runs fit into hours. They prove that nothing is
  forgotten or torn; they say nothing about how long a save of a large model takes.
- "Bit for bit" holds on one machine with the same versions and the same number of threads, in float32. Elsewhere the last bits may differ.
- A killed process is not a power cut: the order of writing and flushing is tested, the disk's own honesty cannot be.
- Running out of memory is simulated on the CPU, by raising torch's own error above a batch size.
- A promise without a figure was not measured; one that was not kept says so.
"""
PROMISED = {
    "1": "SIGKILL at random times never loses a run",
    "2": "every file-system call of a save may fail",
    "3": "a resumed run is the uninterrupted one, bit for bit",
    "4": "no sample is seen twice or missed in an epoch",
    "5": "damaged checkpoints are detected and passed over",
    "6": "rotation keeps two valid checkpoints and the best",
    "7": "a resume onto something else is refused",
    "8": "every released checkpoint format stays loadable",
    "9": "SIGTERM and Ctrl-C save and exit at any time",
    "10": "NaN and infinity never reach the weights",
    "11": "a full disk pauses a run and destroys nothing",
    "12": "out of memory halves the micro-batch, not the step",
    "13": "any split of a step gives the same gradient",
    "14": "several processes compute what one does",
    "15": "a lost worker loses no sample",
    "16": "the same recipe runs on a Ray cluster",
}


def page(proofs: list[dict[str, Any]]) -> str:
    """Return docs/trust.md."""
    machines = list(dict.fromkeys(machine_of(proof) for proof in proofs))
    lines = [HEAD, "| no. | promise | asked | reached | kept | seconds | machine |", "|---|---|---|---|---|---|---|"]
    for item, title in PROMISED.items():
        found = [proof for proof in proofs if proof["item"] == item]
        for proof in found:
            cells = (
                item,
                proof["promise"],
                proof["asked"],
                proof["reached"],
                "yes" if proof["ok"] else "**no**",
                f"{proof['seconds']:,.0f}",
            )
            lines.append(f"| {' | '.join(cell_of(cell) for cell in cells)} | {machines.index(machine_of(proof)) + 1} |")
        if not found:
            lines.append(f"| {item} | {title} | | not measured | | | |")
    lines += ["", *(f"{number}. {machine}" for number, machine in enumerate(machines, start=1)), ""]
    return "\n".join(lines)


def cell_of(text: str) -> str:
    """Return text as it may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def machine_of(proof: dict[str, Any]) -> str:
    """Return where and when something was measured, in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in proof["packages"].items())
    return f"{proof['hardware']}; Python {proof['python']}, {packages}; {proof['measured']}"


if __name__ == "__main__":
    store = DOCS / "trust.json"
    known = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    (DOCS / "trust.md").write_text(page(list(known.values())), encoding="utf-8")
