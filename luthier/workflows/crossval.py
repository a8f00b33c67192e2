"""Cross-validation: a training on all but one part of the rows, for each part, and how the scores vary."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core import files, yaml
from luthier.core.errors import ConfigError, Fault
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.flow import Training
from luthier.metrics import metrics
from luthier.metrics.intervals import score_keys
from luthier.recipe import Changes, Recipe, resolve

log = logging.getLogger("luthier")
USUAL_FOLDS = 5
SETTINGS, FINDINGS = "crossval.yaml", "crossval.json"
BOUNDS = {
    ("mae", "rmse", "loss", "bleu", "chrf", "rouge", "length"): (0.0, math.inf),
    ("perplexity",): (1.0, math.inf),
    ("pearson", "spearman"): (-1.0, 1.0),
    ("f1", "precision", "recall", "accuracy", "mrr", "ndcg", "exact"): (0.0, 1.0),
}
"""Ends of the scores that a task has of its own, by what their names say."""


@dataclass
class Fold:
    """One training of a cross-validation: iterate over it for its ticks.

    Args:
        number: Number of the fold, from 1.
        training: The training on all rows but those of the fold.
    """

    number: int
    training: Training

    def __iter__(self) -> Iterator[Tick]:
        """Train and measure on the rows of the fold."""
        yield from self.training


class CrossValidation:
    """A cross-validation under way: iterate over it for its folds; one that was stopped goes on.

    Args:
        recipe: What is trained.
        num_folds: Number of folds.
        folder: Where the folds, the runs and the scores go.
    """

    def __init__(self, recipe: Recipe, num_folds: int, folder: Path) -> None:
        self.recipe, self.num_folds, self.folder = recipe, num_folds, folder
        self._lock = RunFolder(folder)

    @classmethod
    def begin(cls, source: Any = None, *, changes: Changes = (), num_folds: int | None = None) -> CrossValidation:
        """Resolve the recipe, cut its rows into folds, and write down what is done in the folder, which is the recipe's output.

        Args:
            source: A recipe: a file, a preset's name, or plain data.
            changes: Values by dotted key.
            num_folds: Number of folds, at least 2; none: `evaluate.folds` of the recipe, else 5.

        Raises:
            ConfigError: if the recipe is wrong, or the folder holds something else.
            DataError: if the rows cannot be used, or are too few.
        """
        recipe = resolve(source, changes)
        recipe.require_one_task("luthier crossval")
        num_folds = recipe.evaluate.folds or USUAL_FOLDS if num_folds is None else num_folds
        if num_folds < 2:
            raise ConfigError([Fault("--folds", f"got {num_folds}, wanted 2 or more", "--folds 5")])
        name = Path(recipe.data.train or "rows").name.partition(".")[0]
        made = cls(recipe.changed(evaluate={"folds": None}), num_folds, Path(recipe.output or f"crossval/{name}"))
        made._set_up()
        return made

    def __iter__(self) -> Iterator[Fold]:
        """Yield each fold, to be iterated over before the next."""
        self._lock.take()
        try:
            for number in range(1, self.num_folds + 1):
                yield Fold(number, Training.begin(self.recipe_of(number), again=True))
        finally:
            self._lock.leave()

    def findings(self) -> dict[str, Any]:
        """Return the scores of each fold, their mean and its interval, and those of all rows, after writing them into the folder."""
        from luthier.workflows.out_of_fold import out_of_fold_scores

        runs = []
        for number in range(1, self.num_folds + 1):
            stored = files.read_json(self._run(number) / "metrics.json")
            scores = {key: score["value"] for key, score in stored["scores"]["test"].items()}
            runs.append({"fold": number, "run": str(self._run(number)), "seconds": stored["seconds"], "scores": scores})
        confidence = self.recipe.evaluate.confidence
        by_key = {key: [run["scores"].get(key) for run in runs] for key in runs[0]["scores"]}
        rows = files.read_json(self._run(1) / "data.json")["folds"]
        found = {
            "crossval": str(self.folder),
            "num_folds": self.num_folds,
            **{key: rows[key] for key in ("rows", "rows_of_folds", "always_trained")},
            "confidence": confidence,
            "scores": {key: over_folds(values, key, confidence=confidence) for key, values in by_key.items()},
            "out_of_fold": out_of_fold_scores([self._run(number) for number in range(1, self.num_folds + 1)]),
            "runs": runs,
        }
        files.write_json(self.folder / FINDINGS, found)
        return found

    def _set_up(self) -> None:
        """Write what is done, once; refuse a folder with something else."""
        from luthier.data.cache import source_hashes

        wanted = {"folds": self.num_folds, "recipe": {key: value for key, value in self.recipe.as_dict().items() if key != "output"}}
        wanted["rows"] = [source_hashes(source) for source in (self.recipe.data.train, self.recipe.data.validation)]
        path = self.folder / SETTINGS
        if path.is_file():
            unlike = _unlike(yaml.load_file(path), wanted)
            if unlike:
                what = f"the cross-validation in '{self.folder}' has {unlike}"
                raise ConfigError([Fault("output", what, "name another folder with --output")])
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ConfigError([Fault("output", f"'{self.folder}' exists and holds no cross-validation", "name another --output")])
        first = resolve(self.recipe_of(1))
        _say(first.task.prepare(first.data, first.model).facts["folds"], self.recipe)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(path, yaml.dump(wanted))

    def recipe_of(self, number: int) -> dict[str, Any]:
        """Return the recipe of one fold: the same, but for which rows measure.

        Args:
            number: Number of the fold, from 1.
        """
        recipe = self.recipe.as_dict()
        split = {**recipe["data"]["split"], "test": "auto", "fold": f"{number}/{self.num_folds}"}
        return {**recipe, "data": {**recipe["data"], "test": None, "split": split}, "output": str(self._run(number))}

    def _run(self, number: int) -> Path:
        return self.folder / f"fold-{number}"


def cross_validate(source: Any = None, *, changes: Changes = (), num_folds: int | None = None) -> dict[str, Any]:
    """Do a cross-validation to its end and return what was found; the arguments are those of `CrossValidation.begin`."""
    begun = CrossValidation.begin(source, changes=changes, num_folds=num_folds)
    for fold in begun:
        for _ in fold:
            pass
    return begun.findings()


def folds_of(path: str | Path) -> list[Path]:
    """Return the runs of a cross-validation's folds; a path that is none is returned alone."""
    folder = Path(path)
    if not (folder / SETTINGS).is_file():
        return [folder]
    return [folder / f"fold-{number}" for number in range(1, yaml.load_file(folder / SETTINGS)["folds"] + 1)]


def over_folds(values: list[float | None], key: str, *, confidence: float) -> dict[str, Any]:
    """Return mean and spread of a score over folds, and the interval of the mean by Student's t.

    The trainings share most of their rows, so the interval is narrower than that of trainings on rows of their own.

    Args:
        values: The score of each fold; None where it is undefined.
        key: Name of the score, for its bounds.
        confidence: Share of cases in which such an interval holds the mean, in (0, 1).

    Reference: Y. Bengio and Y. Grandvalet, No Unbiased Estimator of the Variance of K-Fold Cross-Validation, 2004.
    """
    from scipy.stats import t

    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if len(defined) < 2:
        return {"value": float(defined[0]) if len(defined) else None, "low": None, "high": None, "deviation": None, "folds": len(defined)}
    mean, deviation = float(defined.mean()), float(defined.std(ddof=1))
    half = float(t.ppf((1 + confidence) / 2, len(defined) - 1)) * deviation / len(defined) ** 0.5
    least, greatest = _bounds(key)
    return {
        "value": mean,
        "low": max(least, mean - half),
        "high": min(greatest, mean + half),
        "deviation": deviation,
        "folds": len(defined),
    }


def _bounds(key: str) -> tuple[float, float]:
    """Return the least and the greatest value of a score."""
    known = score_keys()
    if key in known:
        return metrics.get(known[key]).bounds
    ends = (bounds for names, bounds in BOUNDS.items() if any(name in key for name in names))
    return next(ends, (-math.inf, math.inf))


def _unlike(begun: dict[str, Any], wanted: dict[str, Any]) -> str | None:
    """Return what a cross-validation that was begun has otherwise."""
    if any(begun.get(key) != wanted[key] for key in ("recipe", "folds")):
        return "another recipe or number of folds"
    return "other rows: a file was changed since" if begun.get("rows") != wanted["rows"] else None


def _say(facts: Mapping[str, Any], recipe: Recipe) -> None:
    log.info("%d rows in folds of %s", facts["rows"], ", ".join(map(str, facts["rows_of_folds"])))
    if facts["always_trained"]:
        log.info("%d rows are the only ones of their label: they train in every fold and measure none", facts["always_trained"])
    if recipe.data.test is not None:
        log.info("the rows of '%s' are left alone: each fold is measured on its own rows", recipe.data.test)
    if recipe.data.split.test not in ("auto", 0):
        log.info("data.split.test=%s is left out: each fold is measured on its own rows", recipe.data.split.test)
