"""Luthier beside its peers on this machine, in turns: `make bench`.

    LUTHIER_DATA=... python bench/speed.py                                  every work, three pairs, trained to the end
    python bench/speed.py --works sst2 predict --pairs 2 --steps 60         some of them, cut short: speed only
    python bench/speed.py --list                                            what there is

Readings go to docs/speed.json (a work that is run again replaces its own), the table to docs/results.md and to the terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from race import table
from race.run import run
from race.works import WORKS

from luthier.core.machine import available_cores, environment

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "speed.json"


def main() -> int:
    known = {work.name: work for work in WORKS}
    parser = argparse.ArgumentParser(description="Compare Luthier with its peers, in turns, on this machine.")
    parser.add_argument("--works", nargs="+", metavar="WORK", choices=known, default=list(known), help=f"which: {', '.join(known)}")
    parser.add_argument("--peers", nargs="+", metavar="PEER", default=[], help="take only these peers, by the table's names")
    parser.add_argument("--pairs", type=int, default=3, help="how often each side runs (3); pair n has seed n")
    parser.add_argument("--steps", type=int, help="stop trainings after so many steps: compares speed, gives no scores")
    parser.add_argument("--threads", type=int, default=available_cores(), help="threads of the matrix library, the same for all")
    parser.add_argument("--store", type=Path, default=STORE, help="where the readings are kept; another place leaves docs/results.md alone")
    parser.add_argument("--list", action="store_true", help="list the works and their peers, and run nothing")
    asked = parser.parse_args()
    if asked.list:
        for work in WORKS:
            print(f"{work.name:<14} {work.title}; against: {', '.join(peer.name for peer in work.peers) or 'nobody'}")
        return 0
    for name in asked.works:
        print(f"{name}: {known[name].title}", flush=True)
        found = run(known[name], num_pairs=asked.pairs, threads=asked.threads, steps=asked.steps, peers=asked.peers)
        keep(asked.store, name, found)
    stored = json.loads(asked.store.read_text(encoding="utf-8"))
    print("\n" + "\n".join(table.table({name: stored[name] for name in asked.works})))
    if asked.store.resolve() == STORE:
        from results import write_page

        write_page()
    return 0


def keep(store: Path, name: str, facts: dict[str, Any]) -> None:
    """Store what was measured, with hardware and time, in the order of the works."""
    stored = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    machine = environment()
    hardware = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    packages = {package: machine["packages"][package] for package in ("torch", "transformers")}
    measured = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    stored[name] = {"hardware": hardware, "packages": packages, "measured": measured, **facts}
    in_order = {work.name: stored[work.name] for work in WORKS if work.name in stored}
    store.write_text(json.dumps(in_order, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
