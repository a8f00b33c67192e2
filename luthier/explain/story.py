"""What a run folder tells: its files as plain data, tolerant of what is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder

Plain = Mapping[str, Any]


class Score(NamedTuple):
    """A score with the interval that holds it; without an interval all three are equal."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Story:
    """Everything a report, a card or a diagnosis is made from.

    Args:
        path: The run folder.
        ticks: One mapping per optimiser step, in order.
        recipe: The resolved recipe.
        metrics: `metrics.json`.
        evaluation: `evaluation.json`.
        data: `data.json`.
        environment: `environment.json`.
    """

    path: Path = Path("run")
    ticks: Sequence[Plain] = ()
    recipe: Plain = field(default_factory=dict)
    metrics: Plain = field(default_factory=dict)
    evaluation: Plain = field(default_factory=dict)
    data: Plain = field(default_factory=dict)
    environment: Plain = field(default_factory=dict)

    @classmethod
    def read(cls, run: RunFolder) -> Story:
        """Read a run folder; a file that is missing counts as empty."""
        return cls(
            path=run.path,
            ticks=read_ticks(run.events),
            recipe=_mapping(yaml.load_file(run.recipe)) if run.recipe.is_file() else {},
            metrics=_read(run.metrics),
            evaluation=_read(run.evaluation),
            data=_read(run.data),
            environment=_read(run.environment),
        )

    def setting(self, key: str, default: Any = None) -> Any:
        """Return a recipe value by its dotted key, or `default` where it is absent or null."""
        found = lookup(self.recipe, *key.split("."))
        return default if found is None else found

    @property
    def split(self) -> str | None:
        """The split the headline is about: test where there is one, else validation, else whatever was measured."""
        measured = [name for name, scores in _mapping(self.metrics.get("scores")).items() if scores]
        return next((name for name in ("test", "validation") if name in measured), measured[0] if measured else None)

    @property
    def sheet(self) -> Plain:
        """The evaluation of the headline split."""
        return _mapping(self.evaluation.get(self.split)) if self.split else {}

    @property
    def num_measured(self) -> int:
        """Rows of the headline split."""
        return int(self.sheet.get("num_rows") or 0)

    def score(self, metric: str, *, split: str | None = None) -> Score | None:
        """Return a score of a split (the headline split where none is named), or None where it was not measured."""
        return as_score(lookup(self.metrics, "scores", split or self.split or "", metric))

    @property
    def writes(self) -> bool:
        """Whether the model writes text: it has a loss and a perplexity, and no classes."""
        return self.score("perplexity") is not None or self.task == "text-generation"

    @property
    def asking(self) -> str:
        """What the model is asked, in words, for the commands that pages show."""
        return "a [MASK]" if self.task == "fill-mask" else "a prompt" if self.writes else "a text"

    @property
    def answers_rows(self) -> bool:
        """Whether each row has an answer of its own: neither a class nor a text that was written."""
        return self.metrics.get("answers_with") == "rows"

    @property
    def primary(self) -> str:
        """Key of the score that the run is judged by."""
        return str(self.metrics.get("primary_metric") or ("perplexity" if self.writes else "accuracy"))

    @property
    def task(self) -> str:
        """Name of the task."""
        given = self.recipe.get("task") or self.metrics.get("task")
        return str(lookup(given, "type") or given or "run")

    def num_rows(self, split: str) -> int:
        """Return how many rows a split has."""
        return int(lookup(self.data, "splits", split, "rows") or 0)

    def unknown_shares(self) -> dict[str, float]:
        """Return the share of tokens that the tokenizer does not know, by split, and by slice where it is known."""
        tokens = _mapping(self.data.get("tokens"))
        found = {**_mapping(tokens.get("unknown_share_by_split")), **_mapping(tokens.get("by_slice"))}
        return {str(name): float(share or 0) for name, share in found.items()}

    def classes(self, split: str = "train") -> dict[str, int]:
        """Return how many rows each class has in a split."""
        return {str(name): int(count) for name, count in _mapping(lookup(self.data, "splits", split, "classes")).items()}


def lookup(data: Any, *keys: str) -> Any:
    """Follow keys into nested mappings; None where one is absent."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def as_score(found: Any) -> Score | None:
    """Read `{"value", "low", "high"}` or a bare number; None where there is no value."""
    value = found.get("value") if isinstance(found, Mapping) else found
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    edges = [found.get(name) if isinstance(found, Mapping) else None for name in ("low", "high")]
    low, high = (float(value) if edge is None else float(edge) for edge in edges)
    return Score(float(value), low, high)


def read_ticks(path: Path) -> list[Plain]:
    """Read the ticks of `events.jsonl`; a step that was repeated after a resume counts once, as it went last.

    Args:
        path: The file; a missing one has no ticks, a line cut by a kill is passed over.
    """
    if not path.is_file():
        return []
    by_step: dict[int, Plain] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            event = _parse(line)
            if isinstance(event.get("step"), int) and "event" not in event:
                by_step[event["step"]] = event
    return [by_step[step] for step in sorted(by_step)]


def _parse(line: str) -> Plain:
    try:
        return _mapping(json.loads(line))
    except json.JSONDecodeError:
        return {}


def _read(path: Path) -> Plain:
    return _mapping(files.read_json(path)) if path.is_file() else {}


def _mapping(data: Any) -> Plain:
    return data if isinstance(data, Mapping) else {}
