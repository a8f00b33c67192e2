"""The report of a run: one page that needs no network, reads well on a phone, and can be printed."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder
from luthier.explain import headline, wording
from luthier.explain.confusion import confusion_file, focus
from luthier.explain.diagnosis import diagnose_story
from luthier.explain.finding import Finding
from luthier.explain.forgotten import forgetting_sentence, forgetting_table
from luthier.explain.report_data import data_account
from luthier.explain.report_figures import figures
from luthier.explain.report_tables import class_rows, mistakes, score_sheets, slice_heads, slice_rows
from luthier.explain.story import Story
from luthier.explain.svg import DARK, LIGHT, STYLE
from luthier.version import __version__


def write_report(run: RunFolder) -> Path:
    """Write `report.html`, and `confusion.svg` where there is one label per row.

    Args:
        run: A run folder; files that are missing leave their part of the report out.

    Returns:
        Where the report stands.
    """
    story = Story.read(run)
    matrix = story.sheet.get("confusion")
    if matrix:
        files.write_text(run.confusion, confusion_file(focus(story.sheet.get("labels") or [], matrix)))
    files.write_text(run.report, report_page(story))
    return run.report


def report_page(story: Story) -> str:
    """Return the report of a run as HTML; every text of the user's is escaped."""
    findings = diagnose_story(story)
    return (
        templates()
        .get_template("report.html")
        .render(
            title=f"{story.task} · {headline.model_name(story)}",
            story=story,
            headline=headline,
            findings=findings,
            figures=drawn(figures(story)),
            scores=score_sheets(story),
            classes=class_rows(story),
            slices=slice_rows(story),
            slice_heads=slice_heads(story),
            forgotten=forgetting_sentence(story.metrics.get("forgetting")),
            before_and_after=forgetting_table(story.metrics.get("forgetting")),
            samples=story.sheet.get("samples") or [],
            mistakes=mistakes(story),
            data=data_account(story),
            facts=facts_of(story),
            recipe=yaml.dump(dict(story.recipe)) if story.recipe else "",
            command=shlex.join(story.environment.get("command") or []),
            environment=_environment(story),
            next_commands=_next_commands(story, findings),
            version=__version__,
        )
    )


def page_of(template: str, **shown: Any) -> str:
    """Return a page of HTML; every text of the user's is escaped."""
    return templates().get_template(template).render(**shown)


def drawn(pictures: Mapping[str, str]) -> Mapping[str, str]:
    """Return pictures by name as they stand in a page; one that is not there is empty."""
    return defaultdict(str, {name: Markup(svg) for name, svg in pictures.items()})


@cache
def templates() -> jinja2.Environment:
    """Return the templates, with every value escaped and every name that is missing an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("luthier.explain"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("percent", "count", "duration", "size", "cut", "plain")
    environment.filters["breakable"] = _breakable
    environment.filters["metric"] = lambda value, metric: wording.metric_value(metric, value)
    environment.filters["metric_name"] = wording.metric_name
    environment.filters |= {name: getattr(wording, name) for name in names}
    environment.globals |= {"style": Markup(STYLE), "light": _colours(LIGHT), "dark": _colours(DARK)}
    return environment


def _breakable(text: str) -> Markup:
    """Let a name such as `card_payment_declined` break after its underscores."""
    return Markup("_<wbr>").join(escape(part) for part in str(text).split("_"))


def _colours(colours: dict[str, str]) -> Markup:
    return Markup("; ".join(f"--{name}: {value}" for name, value in colours.items()))


def facts_of(story: Story) -> list[tuple[str, str]]:
    """Return what the training took, as names and values."""
    metrics = story.metrics
    speed = metrics.get("samples_per_second")
    found = [
        ("Training", wording.duration(metrics.get("training_seconds"))),
        ("Whole command" if metrics.get("resumed_from_step") is None else "Since the resume", wording.duration(metrics.get("seconds"))),
        ("Steps", wording.count(metrics.get("steps"))),
        ("Epochs", wording.plain(metrics.get("epochs"))),
        ("Kept", f"step {wording.count(metrics['best_step'])}" if metrics.get("best_step") is not None else "last weights"),
        ("Rows per second", wording.count(speed)),
        ("Tokens per second", wording.count(metrics.get("tokens_per_second"))),
        ("Peak memory", wording.size(metrics.get("peak_memory_bytes"))),
    ]
    return [(name, value) for name, value in found if value != wording.NONE and metrics]


def _next_commands(story: Story, findings: list[Finding]) -> list[str]:
    run = shlex.quote(str(story.path))
    change = next((finding.change for finding in findings if finding.change), "training.seed=1")
    return [
        f'luthier predict {run} "{story.asking} of yours"',
        f"luthier predict {run} --data in.csv --out out.parquet",
        f"luthier evaluate {run}",
        f"luthier train {shlex.quote(str(story.path / 'recipe.yaml'))} {change} --output {shlex.quote(str(story.path) + '-2')}",
    ]


def _environment(story: Story) -> list[tuple[str, Any]]:
    found = dict(story.environment)
    packages = found.get("packages") or {}
    machine = [(name, found[name]) for name in ("processor", "cores", "system", "python") if found.get(name)]
    if found.get("memory_bytes"):
        machine.append(("memory", wording.size(found["memory_bytes"])))
    return machine + [(name, version) for name, version in packages.items() if version]
