"""The part of docs/results.md on ways of tuning: what was asked of each, what was reached, and the table of methods."""

from __future__ import annotations

import statistics
from typing import Any

WAYS_ASKED = "best way beats plain, intervals apart"
HEAD = """\
## Ways of tuning

all-MiniLM-L6-v2. Intervals are of 95 %; those over several seeds or draws allow for other rows, and where it says so for other seeds.

| what | command | asked | reached | seeds or draws | measured |
|---|---|---|---|---|---|"""
METHODS = """\

### Methods side by side

`python bench/methods.py`, which is `luthier sweep compare-methods` with what its file says; every head learns at the same rate.
Trained is the share of the numbers that are ever trained, the head among them. Time is that of the steps alone."""


def ways_of_tuning(stored: dict[str, Any], beside: dict[str, Any]) -> str:
    """Return the section.

    Args:
        stored: What was measured of each kind, by the name of its file.
        beside: The content of speed.json.
    """
    rows = [
        *_lora_beside_full(stored.get("methods", {})),
        *_few_labels(stored.get("few-labels", {})),
        *_robustness(stored.get("robustness", {})),
        *_distillation(stored.get("distillation", {})),
        *_forgetting(stored.get("forgetting", {})),
        *_lora_beside_peft(beside.get("sst2-lora")),
    ]
    parts = [HEAD, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([*parts, *_methods(stored.get("methods", {})), ""])


def _lora_beside_full(stored: dict[str, Any]) -> list[list[str]]:
    found = stored.get("compare-methods")
    if found is None:
        return []
    of = {(row["recipe"], row["variant"]): row for row in found["rows"]}
    rows = []
    for recipe in dict.fromkeys(row["recipe"] for row in found["rows"]):
        full, lora = of.get((recipe, "full")), of.get((recipe, "lora"))
        if full and lora:
            less = 100 * (full["score"]["value"] - lora["score"]["value"])
            said = f"LoRA {_share(lora['score']['value'])}, full {_share(full['score']['value'])}: {less:.1f} points less"
            rows.append(
                [f"{recipe}: LoRA beside full", "`bench/methods.py`", "1.5 points less at most", said, _seeds(lora), found["measured"]]
            )
    return rows


def _few_labels(stored: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, found in stored.items():
        plain, ways = found["ways"]["plain"], {way: facts for way, facts in found["ways"].items() if "more" in facts}
        best = max(ways, key=lambda way: ways[way]["accuracy"]["value"])
        said = (
            f"{best} {_interval(ways[best]['accuracy'])}, plain {_interval(plain['accuracy'])}; paired {_points(ways[best]['more'])} points"
        )
        rows.append([name, "`bench/few_labels.py`", WAYS_ASKED, said, str(found["draws"]), found["measured"]])
    return rows


def _robustness(stored: dict[str, Any]) -> list[list[str]]:
    rows = []
    for recipe, found in stored.items():
        for kind in ("character swaps", "synonyms"):
            less = {rule: of[kind]["less"] for rule, of in found["rules"].items() if "less" in of[kind]}
            plain = found["rules"]["accumulate"][kind]["fall"]
            best, share = max(less.items(), key=lambda item: item[1]["value"])
            said = f"plain loses {_points(plain)} points; {best} {share['value']:.0%} less ({share['low']:.0%} to {share['high']:.0%})"
            rows.append([f"{recipe}, {kind}", "`bench/robustness.py`", "falls 25 % less", said, str(found["seeds"]), found["measured"]])
    return rows


def _distillation(stored: dict[str, Any]) -> list[list[str]]:
    rows = []
    for recipe, found in stored.items():
        best = max(found["students"], key=lambda way: found["students"][way]["kept"]["value"])
        kept, pace = (found["students"][best][key] for key in ("kept", "speed"))
        said = f"{best}: {kept['value']:.1%} ({kept['low']:.1%} to {kept['high']:.1%}) at {pace['median']:.2f} times the speed"
        what = f"{recipe}: 6 to {found['layers']} layers"
        rows.append([what, "`bench/distillation.py`", "97 % at 1.8 times the speed", said, str(found["seeds"]), found["measured"]])
    return rows


def _forgetting(stored: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, found in stored.items():
        lost = {
            way: statistics.fmean(100 * (one["before"] - one["after"]) for one in facts["seeds"]) for way, facts in found["ways"].items()
        }
        said = ", ".join(f"{way} loses {points:.1f}" for way, points in lost.items())
        seeds = str(max(len(facts["seeds"]) for facts in found["ways"].values()))
        rows.append([f"{name}, points", "`bench/forgetting.py`", "a third of plain at most", said, seeds, found["measured"]])
    return rows


def _lora_beside_peft(found: dict[str, Any] | None) -> list[list[str]]:
    if found is None:
        return []
    (_, ours), (name, theirs) = found["sides"].items()
    scores = [[one["score"] for one in side["readings"] if one.get("score") is not None] for side in (ours, theirs)]
    if not all(scores):
        return []
    said = f"{statistics.fmean(scores[0]):.3f} against {statistics.fmean(scores[1]):.3f}"
    what = "sst2: the same LoRA by plain peft and Trainer"
    return [[what, "`bench/speed.py --works sst2-lora`", "within the interval (±0.014)", said, str(len(scores[0])), found["measured"]]]


def _methods(stored: dict[str, Any]) -> list[str]:
    found = stored.get("compare-methods")
    if found is None:
        return []
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    lines = [METHODS, f"{found['hardware']}; {packages}; {found['measured']}. {found['note']}".rstrip(), ""]
    lines += ["| recipe | method | score | trained | time | peak memory | epochs | seeds |", "|---|---|---|---:|---:|---:|---:|---|"]
    for row in found["rows"]:
        score = _interval(row["score"])
        memory = f"{row['peak_memory_bytes'] / 2**20:,.0f} MiB"
        cells = [
            score,
            _trained(row["trained_share"]),
            f"{row['training_seconds']:.0f} s",
            memory,
            f"{row['settings']['epochs']:g}",
            _seeds(row),
        ]
        lines.append(f"| {row['recipe']} | {row['variant']} | {' | '.join(cells)} |")
    return lines


def _seeds(row: dict[str, Any]) -> str:
    return str(len(row["seeds"]))


def _trained(share: float) -> str:
    return f"{100 * share:.{3 if share < 0.01 else 2}f} %"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(score: dict[str, float]) -> str:
    return f"{100 * score['value']:.1f} % ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def _points(found: dict[str, float]) -> str:
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
