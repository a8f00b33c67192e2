"""The table of docs/results.md, from what docs/speed.json keeps."""

from __future__ import annotations

from typing import Any

from race.work import OURS, Spread, mean_of, ratios, shares

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
HEADINGS = ("work", "against", "ours", "theirs", "ratio (min to max)", "asked", "score: ours, theirs", "peak memory: ours, theirs", "runs")
INTRO = """\
## Beside its peers

Written by `make bench`; `bench/README.md` says how to read it. A ratio is the median over pairs of runs that followed one another; above
1 ours is better. Scores are means over the pairs, whose seeds differ. Runs with a number of steps were cut short: they compare speed only.
"""

OUTRO = """\
**Where less was reached than asked.** The ratios asked were set on a machine with matrix units (AMX), where products are quick and what
surrounds them is most of a peer's step. Here products near the machine's best rate (about 380 GFLOP/s in bfloat16, two cores) are most of
a step on both sides, and nobody can save them. From profiles (LOG.md), the most that any program could reach against the same peer:

| work | products at the machine's best rate, share of our time | so at most |
|---|---|---|
| sst2, full fine-tuning | 62 % of a step | 1.6 times our ratio |
| LoRA, decoder | 1.1 of 1.7 s, three quarters of it with the vocabulary of 151,936 | 1.5 times |
| GPT-2 from nothing | 0.6 of 1.0 s | 1.7 times |
| prediction | 0.46 GFLOP a text, done at about 300 GFLOP/s | 1.3 times: 2.5 is out of reach here |

What was tried for the rest stands in LOG.md.
Memory: ours holds what it frees (`training.speed.keep_memory`), and where nothing is learned each core has a batch of its own.
"""


def section(stored: dict[str, Any]) -> str:
    """Return the section of docs/results.md, between its markers.

    Args:
        stored: The content of docs/speed.json.
    """
    lines = [BEGIN, INTRO, *table(stored), "", *_footnotes(stored), "", OUTRO, END, ""]
    return "\n".join(lines)


def table(stored: dict[str, Any]) -> list[str]:
    """Return the lines of the table."""
    lines = [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
    return lines + [_line(cells) for facts in stored.values() for cells in rows(facts)]


def rows(facts: dict[str, Any]) -> list[list[str]]:
    """Return the cells of each row of a work: one row for what is asked of ours alone, and one for each peer."""
    ours = facts["sides"][OURS]
    found = []
    if facts["limit"] is not None:
        asked = f"{'>=' if facts['more_is_better'] else '<='} {facts['limit']:g}"
        found.append([facts["title"], "", _value(ours, facts), "", "", asked, _scores(ours, None), _memory(ours, None), _runs(ours, facts)])
    for name, theirs in facts["sides"].items():
        if name == OURS:
            continue
        ratio = Spread.of(ratios(ours["readings"], theirs["readings"], more_is_better=facts["more_is_better"]))
        share = Spread.of(shares(ours["readings"], theirs["readings"]))
        cells = [facts["title"], name, _value(ours, facts), _value(theirs, facts), _ratio(ratio), _asked(theirs), _scores(ours, theirs)]
        found.append([*cells, _memory(ours, theirs) + (f" ({share.median:.2f})" if share else ""), _runs(theirs, facts)])
    return found


def _value(side: dict[str, Any], facts: dict[str, Any]) -> str:
    spread = Spread.of([reading["value"] for reading in side["readings"]])
    if spread is None:
        return f"failed: {side['failed']}" if "failed" in side else "not run"
    return f"{_number(spread.median)} {facts['unit']}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{_number(spread.median)} ({_number(spread.low)} to {_number(spread.high)})"


def _asked(side: dict[str, Any]) -> str:
    ratio = [f">= {side['asked_ratio']:g}"] if side["asked_ratio"] else []
    return ", ".join(ratio + ([f"memory <= {side['asked_memory']:g}"] if side["asked_memory"] else []))


def _scores(ours: dict[str, Any], theirs: dict[str, Any] | None) -> str:
    for key, form in (("score", "{:.3f}"), ("loss", "loss {:.3f}")):
        means = [mean_of(side["readings"], key) for side in (ours, theirs) if side is not None]
        if any(mean is not None for mean in means):
            return ", ".join("-" if mean is None else form.format(mean) for mean in means)
    return ""


def _memory(ours: dict[str, Any], theirs: dict[str, Any] | None) -> str:
    peaks = [mean_of(side["readings"], "peak_bytes") for side in (ours, theirs) if side is not None]
    return ", ".join("-" if peak is None else f"{peak / 2**20:,.0f} MiB" for peak in peaks)


def _runs(side: dict[str, Any], facts: dict[str, Any]) -> str:
    return f"{len(side['readings'])}" + (f" of {facts['steps']} steps" if facts["steps"] else "")


def _footnotes(stored: dict[str, Any]) -> list[str]:
    lines = []
    for name, facts in stored.items():
        packages = {package: version for side in facts["sides"].values() for package, version in side.get("packages", {}).items()}
        own, peers = _listed(facts["packages"]), _listed(packages)
        where = f"{facts['measured']}; {facts['hardware']}, {facts['threads']} threads; ours on {own}"
        lines.append(f"- `{name}`: {where}{f'; peers on {peers}' if peers else ''}.")
    return lines


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in sorted(packages.items()))


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
