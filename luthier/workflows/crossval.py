"""Cross-validation: a training on all but one part of the rows, for each part, and how the scores vary."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from luthier.core import files, yaml
from luthier.core.errors import ConfigError, Fault
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.flow import Training
from luthier.metrics import metrics
from luthier.metrics.intervals import score_keys
from luthier.recipe import Changes, Recipe, resolve
from luthier.tasks.text_classification import TextClassification

log = logging.getLogger("luthier")
USUAL_FOLDS = 5
SETTINGS, FINDINGS, FOLDS = "crossval.yaml", "crossval.json", "folds"
COLUMNS = ("text", "text_pair", "label", "slice", "group")


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
        """Resolve the recipe and write the rows of each fold into the folder, which is the recipe's output.

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
        if not isinstance(recipe.task, TextClassification):
            what = f"'{recipe.task.registered_name}' has no classes to hold apart"
            raise ConfigError([Fault("task", what, "a cross-validation takes task=text-classification")])
        name = Path(recipe.data.train or "rows").name.partition(".")[0]
        made = cls(recipe.changed(evaluate={"folds": None}), num_folds, Path(recipe.output or f"crossval/{name}"))
        made._set_up()
        return made

    def __iter__(self) -> Iterator[Fold]:
        """Yield each fold, to be iterated over before the next."""
        self._lock.take()
        try:
            for number in range(1, self.num_folds + 1):
                yield Fold(number, Training.begin(self._recipe_of(number), again=True))
        finally:
            self._lock.leave()

    def findings(self) -> dict[str, Any]:
        """Return the scores of each fold, their mean and its interval, after writing them into the folder."""
        runs = []
        for number in range(1, self.num_folds + 1):
            stored = files.read_json(self._run(number) / "metrics.json")
            scores = {key: score["value"] for key, score in stored["scores"]["test"].items()}
            runs.append({"fold": number, "run": str(self._run(number)), "seconds": stored["seconds"], "scores": scores})
        confidence = self.recipe.evaluate.confidence
        by_key = {key: [run["scores"][key] for run in runs] for key in runs[0]["scores"]}
        rows = files.read_json(self.folder / FOLDS / "rows.json")
        found = {
            "crossval": str(self.folder),
            "num_folds": self.num_folds,
            **rows,
            "confidence": confidence,
            "scores": {key: over_folds(values, key, confidence=confidence) for key, values in by_key.items()},
            "runs": runs,
        }
        files.write_json(self.folder / FINDINGS, found)
        return found

    def _set_up(self) -> None:
        """Write what is done and the rows of each fold, once; refuse a folder with something else."""
        wanted = {"folds": self.num_folds, "recipe": {key: value for key, value in self.recipe.as_dict().items() if key != "output"}}
        path = self.folder / SETTINGS
        if path.is_file():
            if yaml.load_file(path) != wanted:
                what = f"the cross-validation in '{self.folder}' has another recipe or number of folds"
                raise ConfigError([Fault("output", what, "name another folder with --output")])
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(one.name != FOLDS for one in self.folder.iterdir())):
            raise ConfigError([Fault("output", f"'{self.folder}' exists and holds no cross-validation", "name another --output")])
        files.make_folder(self.folder / FOLDS, self._write_folds)
        files.write_text(path, yaml.dump(wanted))

    def _write_folds(self, folder: Path) -> None:
        from luthier.data.collect import collect
        from luthier.data.labels import require_classes
        from luthier.data.locate import find_sources
        from luthier.data.split import folds

        data, task = self.recipe.data, self.recipe.task
        assert isinstance(task, TextClassification)
        sources = find_sources(data)
        read = {
            name: collect(source, data, split=name, multi_label=task.is_multi_label(data))
            for name, source in sources.items()
            if name != "test"
        }
        table = read["train"].table
        require_classes(table, source=sources["train"])
        fold_N = folds(table, self.num_folds, seed=data.split.seed, stratify=data.split.stratify)
        for fold in range(self.num_folds):
            _write(folder / f"train-{fold + 1}.jsonl", table.filter(pa.array(fold_N != fold)))
            _write(folder / f"test-{fold + 1}.jsonl", table.filter(pa.array(fold_N == fold)))
        if "validation" in read:
            _write(folder / "validation.jsonl", read["validation"].table)
        files.write_json_lines(folder / "quarantine.jsonl", (bad.as_dict() for one in read.values() for bad in one.bad))
        sizes = [int((fold_N == fold).sum()) for fold in range(self.num_folds)]
        facts = {"rows": table.num_rows, "rows_of_folds": sizes, "always_trained": int((fold_N < 0).sum())}
        files.write_json(folder / "rows.json", facts)
        _say(facts, [note for one in read.values() for note in one.notes], Counter(bad.kind for one in read.values() for bad in one.bad))
        if "test" in sources:
            log.info("the rows of '%s' are left alone: each fold is measured on its own rows", sources["test"])
        if data.split.test not in ("auto", 0):
            log.info("data.split.test=%s is left out: each fold is measured on its own rows", data.split.test)

    def _recipe_of(self, number: int) -> dict[str, Any]:
        """Return the recipe of one fold: the same, on the fold's rows."""
        recipe, folder = self.recipe.as_dict(), self.folder / FOLDS
        with (folder / f"train-{number}.jsonl").open(encoding="utf-8") as lines:
            columns = json.loads(lines.readline())
        data = {key: value for key, value in recipe["data"].items() if key not in ("format", "header", "quoting", "delimiter", "encoding")}
        data |= {"train": str(folder / f"train-{number}.jsonl"), "test": str(folder / f"test-{number}.jsonl"), "encoding": "utf-8"}
        data |= {"text": "text", "label": "label", "text_pair": "text_pair" if "text_pair" in columns else None}
        data["slice_by"] = "slice" if "slice" in columns else None
        data["split"] = {**data["split"], "test": 0.0, "group_by": "group" if "group" in columns else None}
        if (folder / "validation.jsonl").is_file():
            data["validation"] = str(folder / "validation.jsonl")
        return {**recipe, "data": data, "output": str(self._run(number))}

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
    least, greatest = metrics.get(score_keys()[key]).bounds
    return {
        "value": mean,
        "low": max(least, mean - half),
        "high": min(greatest, mean + half),
        "deviation": deviation,
        "folds": len(defined),
    }


def _write(path: Path, table: pa.Table) -> None:
    names = [name for name in COLUMNS if name in table.column_names]
    files.write_json_lines(path, table.select(names).to_pylist())


def _say(facts: Mapping[str, Any], notes: list[str], bad: Counter[str]) -> None:
    for note in notes:
        log.info(note)
    log.info("%d rows in folds of %s", facts["rows"], ", ".join(map(str, facts["rows_of_folds"])))
    if facts["always_trained"]:
        log.info("%d rows are the only ones of their label: they train in every fold and measure none", facts["always_trained"])
    if bad:
        log.info("%d bad rows left out: %s", bad.total(), ", ".join(f"{reason} {count}" for reason, count in bad.most_common()))
