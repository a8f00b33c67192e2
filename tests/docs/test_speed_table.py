"""What `make bench` makes of its readings: turns, ratios, spreads and the table, and that a side that fails stops no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from race import run as race_run  # noqa: E402
from race.table import BEGIN, END, rows, section, table  # noqa: E402
from race.work import OURS, Side, Spread, Turn, Work, in_turns, mean_of, ratios, shares  # noqa: E402


def reading(pair: int, value: float, peak: int = 100, **more: Any) -> dict[str, Any]:
    return {"pair": pair, "value": value, "peak_bytes": peak * 2**20, **more}


def script(folder: Path, name: str, text: str) -> Side:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return Side(name, lambda turn: [str(path), str(turn.number), str(turn.threads)])


def test_sides_take_turns() -> None:
    sides = [Side(name, lambda _: []) for name in "abc"]
    assert [(number, side.name) for number, side in in_turns(2, sides)] == [(0, "a"), (0, "b"), (0, "c"), (1, "a"), (1, "b"), (1, "c")]


def test_ratios_are_of_the_same_pair_and_above_one_where_ours_is_better() -> None:
    ours, theirs = [reading(0, 10), reading(1, 30), reading(2, 40)], [reading(2, 10), reading(0, 5)]
    assert ratios(ours, theirs) == [2, 4]
    assert ratios(ours, theirs, more_is_better=False) == [0.5, 0.25]


def test_a_share_of_memory_is_ours_over_theirs() -> None:
    assert shares([reading(0, 1, peak=50)], [reading(0, 1, peak=200)]) == [0.25]


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert Spread.of([3, 1, 10]) == Spread(3, 1, 10)
    assert Spread.of([]) is None


def test_the_mean_leaves_out_what_has_no_score() -> None:
    assert mean_of([reading(0, 1, score=0.8), reading(1, 1, score=None), reading(2, 1, score=0.9)], "score") == pytest.approx(0.85)
    assert mean_of([reading(0, 1)], "score") is None


def facts() -> dict[str, Any]:
    ours = {"asked_ratio": None, "asked_memory": None, "readings": [reading(0, 200, score=0.9), reading(1, 300, score=0.8)]}
    slow = {"asked_ratio": 2.0, "asked_memory": 0.25, "readings": [reading(0, 100, 400, score=0.7), reading(1, 100, 400, score=0.8)]}
    broken = {"asked_ratio": 8.0, "asked_memory": None, "readings": [], "failed": "no such | thing"}
    about = {"hardware": "a machine", "packages": {"torch": "2"}, "measured": "today", "threads": 2, "steps": None}
    sides = {OURS: ours, "slow": slow | {"packages": {"slow": "1.0"}}, "broken": broken}
    return about | {"title": "a work", "unit": "rows/s", "more_is_better": True, "limit": None, "sides": sides}


def test_a_row_says_ratio_scores_memory_and_what_was_asked() -> None:
    slow, broken = rows(facts())
    assert slow[3] == "100 rows/s"
    assert slow[4:8] == ["2.5 (2 to 3)", ">= 2, memory <= 0.25", "0.850, 0.750", "100 MiB, 400 MiB (0.25)"]
    assert broken[3:5] == ["failed: no such | thing", ""]


def test_every_row_has_the_same_number_of_cells() -> None:
    lines = table({"a": facts(), "b": facts() | {"limit": 0.35}})
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert len(lines) == 2 + 2 + 3


def test_the_section_stands_between_its_markers() -> None:
    page = section({"a": facts()})
    assert page.startswith(BEGIN) and page.rstrip().endswith(END)
    assert "slow 1.0" in page and "a machine, 2 threads" in page


def test_a_side_that_fails_is_said_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_run, "MADE", tmp_path)
    ours = script(tmp_path, OURS, "import os, sys\nprint('{\"value\": %d}' % (int(sys.argv[1]) + int(os.environ['OMP_NUM_THREADS'])))")
    broken = script(tmp_path, "broken", "raise SystemExit('no such thing')")
    silent = script(tmp_path, "silent", "print('done')")
    absent = Side("absent", lambda _: [], venv="of-nobody")
    work = Work("w", "a work", "rows/s", ours, (broken, silent, absent))
    found = race_run.run(work, num_pairs=2, threads=3, steps=None)["sides"]
    assert [one["value"] for one in found[OURS]["readings"]] == [3, 4]
    assert found["broken"]["failed"] == "no such thing"
    assert found["silent"]["failed"] == "it printed no reading"
    assert "make bench-setup" in found["absent"]["failed"]
    assert not list(tmp_path.glob("turn-*"))


def test_peak_memory_is_that_of_the_child_with_its_children(tmp_path: Path) -> None:
    """A process begins with the peak of the one that starts it, so a fresh small one starts them, as bench/speed.py is."""
    grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(200 * 2**20)'], check=True); "
    (tmp_path / "large.py").write_text(grandchild + "print('{\"value\": 1}')", encoding="utf-8")
    (tmp_path / "small.py").write_text("print('{\"value\": 1}')", encoding="utf-8")
    code = "import os, sys; from pathlib import Path; from race.run import watched; "
    code += "print(*[watched([sys.executable, name], dict(os.environ), Path('.'))[2] for name in ('large.py', 'small.py')])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "bench")},
    )
    large, small = map(int, done.stdout.split())
    assert large > 200 * 2**20
    assert large - small > 150 * 2**20


def test_a_wall_time_is_that_of_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_run, "MADE", tmp_path)
    side = script(tmp_path, "sleeper", "import time; time.sleep(0.3)")
    work = Work("w", "t", "s", side, more_is_better=False, wall=True)
    assert race_run.take(work, side, number=0, threads=1, steps=None)["value"] > 0.3


def test_every_work_names_its_commands_without_running_them(tmp_path: Path) -> None:
    from race.works import WORKS

    turn = Turn(1, tmp_path, threads=2, steps=5)
    for work in WORKS:
        for side in work.sides:
            command = side.command(turn)
            assert command and all(isinstance(word, str) for word in command)
            assert not command[0].endswith(".py") or Path(command[0]).is_file(), command[0]
        assert all(not peer.venv or (ROOT / "bench" / "peers" / f"{peer.venv}.txt").is_file() for peer in work.peers)
