"""The pages of a run of several tasks: how each does, and where its own pages are."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder
from luthier.explain import card, headline, report, wording
from luthier.explain.report_figures import figures
from luthier.explain.story import Score, Story, as_score, lookup
from luthier.version import __version__

SHOWN = ("accuracy", "f1_macro", "perplexity", "rougeL", "bleu", "chrf")


class Measured(NamedTuple):
    """One score of one task on one split, ready to be read."""

    task: str
    split: str
    score: str
    value: str
    interval: str
    rows: str


def write_pages(run: RunFolder) -> None:
    """Write `report.html` and `card.md` of a run of several tasks."""
    story = Story.read(run)
    shown: dict[str, Any] = {
        "story": story,
        "title": f"{headline.model_name(story)} on {len(tasks_of(story))} tasks",
        "tasks": tasks_of(story),
        "measured": list(measured(story)),
        "means": [(split, mean) for split, found in (story.metrics.get("scores") or {}).items() if (mean := _percent(found.get("score")))],
        "turned": turned(story),
        "classes": {task: auto_class(run, task) for task in tasks_of(story)},
        "path": shlex.quote(str(story.path)),
        "recipe": yaml.dump(dict(story.recipe)),
        "version": __version__,
    }
    files.write_text(
        run.report, report.page_of("several.html", figures=report.drawn(figures(story)), facts=report.facts_of(story), **shown)
    )
    head = yaml.dump({"library_name": "transformers", "tags": ["luthier", "multi-task"]})
    files.write_text(run.card, card.text_of("several.md", front_matter=head, base_model=card.base_model(story), **shown))


def tasks_of(story: Story) -> list[str]:
    """Return the names of the tasks."""
    return [str(entry["name"]) for entry in story.recipe.get("tasks") or ()]


def measured(story: Story) -> Iterator[Measured]:
    """Yield the scores of each task on each of its splits, the one that it is judged by first."""
    for task in tasks_of(story):
        primary = lookup(story.metrics, "tasks", task, "primary_metric")
        for split, found in (lookup(story.metrics, "tasks", task, "scores") or {}).items():
            rows = lookup(story.data, "tasks", task, "splits", split, "rows")
            for name in dict.fromkeys([*([primary] if primary else []), *SHOWN]):
                score = as_score(found.get(name))
                if score is not None:
                    value, between = wording.metric_value(name, score.value), _range(name, score)
                    yield Measured(task, split, wording.metric_name(name), value, between, wording.count(rows))


def turned(story: Story) -> list[str]:
    """Return the names of the tasks whose primary score counts down, so that their mean holds another number."""
    judged = {task: lookup(story.metrics, "tasks", task, "primary_metric") for task in tasks_of(story)}
    return [task for task, primary in judged.items() if primary in ("loss", "perplexity")]


def auto_class(run: RunFolder, task: str) -> str:
    """Return the class of transformers that loads the model of a task: its own, or that of any body where there is no head."""
    config = run.model / task / "config.json"
    named = (files.read_json(config).get("architectures") or []) if config.is_file() else []
    return str(named[0]) if named else "AutoModel"


def _range(name: str, score: Score) -> str:
    if not score.low < score.high:
        return ""
    return f"{wording.metric_value(name, score.low)} to {wording.metric_value(name, score.high)}"


def _percent(found: Any) -> str:
    score = as_score(found)
    return "" if score is None else wording.percent(score.value)
