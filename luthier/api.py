"""The Python interface: the verbs of the command line as functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier import flow
from luthier.core import files
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.core.work import Answer
from luthier.recipe import SHORT, Recipe

Source = str | Path | Mapping[str, Any] | Recipe | None


class Run:
    """A finished run: its scores, and a model that answers.

    Args:
        path: The run folder.

    Raises:
        SetupError: if there is no finished run.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder.open(path)
        self.folder.require_finished()
        self._predictor: Any = None

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def report(self) -> Path:
        """The page for people, report.html."""
        return self.folder.report

    @property
    def metrics(self) -> dict[str, Any]:
        """The object of `metrics.json`: scores with intervals, times, rates, memory."""
        found: dict[str, Any] = files.read_json(self.folder.metrics)
        return found

    @property
    def scores(self) -> dict[str, Any]:
        """Scores by split and name, each with `value`, `low` and `high`."""
        found: dict[str, Any] = self.metrics["scores"]
        return found

    def evaluate(self, data: str | None = None, **changes: Any) -> dict[str, Any]:
        """Score the run again, or on other labelled rows; see `luthier.evaluate`."""
        return evaluate(self.path, data, **changes)

    def task(self, name: str) -> Run:
        """Return one of several tasks, as a run of its own.

        Raises:
            ConfigError: if the run has no such task.

        Example:
            luthier.load("runs/two-tasks").task("sentiment").predict(["what a film"])
        """
        return Run(self.folder.of_task(name).path)

    def predict(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> list[Answer]:
        """Return the answer to each text: its label and the probability of every label.

        Args:
            texts: The texts.
            pairs: Second texts, where the model was trained on pairs.

        Example:
            run.predict(["where is my parcel?"])[0].label
        """
        return list(self.stream([texts] if isinstance(texts, str) else texts, pairs))

    def stream(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> Iterator[Answer]:
        """Yield the answer to each text, in constant memory."""
        if self._predictor is None:
            from luthier.serve.predictor import Predictor

            self._predictor = Predictor.open(self.path)
        yield from self._predictor.answer(texts, pairs)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


class Ticks:
    """A training to iterate over, one Tick per optimiser step; afterwards `run` is the finished run."""

    def __init__(self, training: flow.Training) -> None:
        self._training = training

    def __iter__(self) -> Iterator[Tick]:
        return iter(self._training)

    @property
    def run(self) -> Run:
        """The finished run."""
        return Run(self._training.run.path)


def train(recipe: Source = None, **changes: Any) -> Run:
    """Fine-tune, measure and document a model, and return the run.

    Args:
        recipe: A YAML file, a preset's name, plain data, or nothing but changes.
        changes: Short names (data, validation, test, text, label, model, output, epochs, batch_size, lr), whole
            sections (`training={"seed": 1}`), or single keys with two underscores for the dot (`training__seed=1`).

    Raises:
        ConfigError: with every fault of the recipe.
        DataError: if the rows cannot be used.
        SetupError: if the machine lacks something.

    Example:
        run = luthier.train(data="reviews.csv", text="review", label="stars", epochs=3)
    """
    return Run(flow.train(recipe, changes=as_changes(changes)).path)


def ticks(recipe: Source = None, **changes: Any) -> Ticks:
    """Return a training that is under way while you iterate over it; arguments as in `train`."""
    return Ticks(flow.Training.begin(recipe, changes=as_changes(changes)))


def plan(recipe: Source = None, *, hardware: Iterable[str] = (), price: float | None = None, **changes: Any) -> dict[str, Any]:
    """Say what a run will need before it is begun: memory, time, cost, and the keys to change where it does not fit.

    Args:
        recipe: As in `train`.
        hardware: Names of other machines, such as `["a100-80g"]`.
        price: Price of an hour.
        changes: As in `train`.

    Example:
        luthier.plan(data="reviews.csv", text="review", label="stars")["machines"][0]["memory"]["total"]
    """
    return flow.plan(recipe, changes=as_changes(changes), hardware=hardware, price=price)


def find_rate(recipe: Source = None, *, folder: str | Path | None = None, steps: int = 100, **changes: Any) -> dict[str, Any]:
    """Propose a learning rate by a range test on a copy of the model; nothing is trained.

    Args:
        recipe: As in `train`.
        folder: Where find-lr.json and find-lr.svg go.
        steps: Steps of the test.
        changes: As in `train`.

    Example:
        luthier.find_rate("sst2")["rate"]
    """
    return flow.find_rate(recipe, changes=as_changes(changes), folder=folder, steps=steps)


def load(path: str | Path) -> Run:
    """Return a finished run.

    Raises:
        SetupError: if there is none at `path`.
    """
    return Run(path)


def load_adapters(paths: Mapping[str, str | Path]) -> dict[str, Run]:
    """Return several finished runs with adapters on one base, which is held in memory once.

    Args:
        paths: The runs by names of your own.

    Raises:
        ConfigError: if one has no adapter, or another base.

    Example:
        runs = luthier.load_adapters({"tone": "runs/tone-001", "topic": "runs/topic-001"})
        runs["tone"].predict(["where is my parcel?"])
    """
    from luthier.serve.one_base import open_on_one_base

    runs = {name: Run(path) for name, path in paths.items()}
    for name, predictor in open_on_one_base(paths).items():
        runs[name]._predictor = predictor
    return runs


def evaluate(path: str | Path, data: str | None = None, **changes: Any) -> dict[str, Any]:
    """Score a finished run on its held-out rows, or on other labelled rows.

    Args:
        path: The run folder.
        data: Labelled rows; none scores the run's own.
        changes: Changes to the recipe, such as `text="review"`.

    Returns:
        Scores by split and name, times and rates.
    """
    return flow.evaluate(path, data=data, changes=as_changes(changes))


def predict(path: str | Path, texts: Iterable[str]) -> list[Answer]:
    """Return the answer of a run, or of any classifier folder or hub id, to each text."""
    return list(flow.predict(path, [texts] if isinstance(texts, str) else texts))


def classify(path: str | Path, texts: Iterable[str], labels: Iterable[str] = (), **given: Any) -> list[Answer]:
    """Return an answer to each text with labels that are named here, without training.

    Args:
        path: A run folder, a model folder or a hub id: any encoder, or a classifier of pairs with a label called entailment.
        texts: The texts.
        labels: Names of the labels; none: those of the examples.
        given: `examples` (pairs of text and label), `how` (auto, prototypes, entailment), `template` (such as "It is about {}.").

    Example:
        luthier.classify("all-MiniLM-L6-v2", ["my card was charged twice"], ["refund", "delivery"])[0].label
    """
    return list(flow.classify(path, [texts] if isinstance(texts, str) else texts, labels, **given))


def merge_adapters(paths: Iterable[str | Path], folder: str | Path, **mixture: Any) -> dict[str, Any]:
    """Add the LoRAs of several runs on one base up, and write the sum as one adapter.

    Args:
        paths: Finished runs, or folders with adapters.
        folder: Where the sum goes; plain peft loads it, and `predict` where the heads agree.
        mixture: `weights` (all alike), `method` (svd, cat, linear, ties, dare_linear, dare_ties), `density` (0.5).

    Example:
        luthier.merge_adapters(["runs/a-001", "runs/b-001"], "models/both", weights=[0.7, 0.3], method="ties")
    """
    return flow.merge_adapters(paths, folder, **mixture)


def as_changes(given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return keyword arguments as changes by dotted key; whole sections go before single keys."""
    changes: list[tuple[str, Any]] = []
    for name, value in given.items():
        if isinstance(value, Mapping):
            changes = [(f"{name}.{key}", inner) for key, inner in value.items()] + changes
        else:
            path = SHORT.get(name, name.replace("__", "."))
            changes.append((path, str(value) if isinstance(value, Path) else value))
    return changes
