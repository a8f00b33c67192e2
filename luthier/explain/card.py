"""The model card: what the model is, what it was trained on, how good it is, and how to use it."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from luthier.adapters import adapters
from luthier.core import files, yaml
from luthier.core.run_folder import RunFolder
from luthier.explain import headline, wording
from luthier.explain.forgotten import forgetting_sentence, forgetting_table
from luthier.explain.report_data import data_account
from luthier.explain.report_tables import score_table
from luthier.explain.story import Story
from luthier.version import __version__

EMBEDDED = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
ESSENTIAL = (
    *("model.path", "adapter.type", "loss.type", "optim.type", "optim.learning_rate", "schedule.type", "schedule.warmup"),
    *("training.epochs", "training.batch_size", "training.precision", "training.seed", "data.max_length"),
)
OF_TEXTS = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match")
IN_MODEL_INDEX = ("accuracy", "f1_macro", "mcc", "loss", "perplexity", "token_accuracy", *OF_TEXTS)
TWO_STACKS = ("summarization", "translation", "text-to-text")


def write_card(run: RunFolder) -> Path:
    """Write `card.md`, a model card in the form the Hugging Face hub reads.

    Args:
        run: A run folder; what is missing from it is left out or said to be unknown.

    Returns:
        Where the card stands.
    """
    files.write_text(run.card, card_text(Story.read(run)))
    return run.card


def card_text(story: Story) -> str:
    """Return the model card of a run as Markdown with a YAML head."""
    splits, scores = score_table(story)
    return (
        _templates()
        .get_template("card.md")
        .render(
            front_matter=yaml.dump(front_matter(story)),
            story=story,
            path=str(story.path),
            headline=headline,
            base_model=base_model(story),
            splits=splits,
            scores=scores,
            forgotten=forgetting_sentence(story.metrics.get("forgetting")),
            before_and_after=forgetting_table(story.metrics.get("forgetting")),
            data=data_account(story),
            classes=sorted(story.classes().items(), key=lambda item: -item[1]),
            languages=languages(story),
            own_head=_has_own_head(story),
            adapter=story.setting("adapter.type"),
            plain_peft=_in_plain_peft(story),
            peft_class=_peft_class(story),
            two_stacks=story.task in TWO_STACKS,
            peft_arguments="" if story.writes else f", num_labels={len(story.classes())}",
            procedure=_procedure(story),
            version=__version__,
        )
    )


def text_of(template: str, **shown: Any) -> str:
    """Return a card as Markdown."""
    return _templates().get_template(template).render(**shown)


def front_matter(story: Story) -> dict[str, Any]:
    """Return the card's head: what the hub needs to file and find the model."""
    task = story.task
    found = {
        "language": languages(story),
        "library_name": ("peft" if _in_plain_peft(story) else "luthier") if story.setting("adapter.type") else "transformers",
        "pipeline_tag": task,
        "tags": ["luthier", task],
        "base_model": base_model(story),
        "metrics": [story.primary] if story.answers_rows else ["perplexity"] if story.writes else ["accuracy", "f1"],
        "model-index": _model_index(story, task),
    }
    return {key: value for key, value in found.items() if value}


def languages(story: Story) -> list[str]:
    """Return the languages the rows were measured in, where the slices are language codes."""
    names = [str(name) for name in story.sheet.get("slices") or {}]
    column = str(story.setting("data.slice_by", "")).lower()
    return names if column.startswith("lang") and all(re.fullmatch(r"[a-z]{2,3}", name) for name in names) else []


def base_model(story: Story) -> str | None:
    """Return the hub id of the model that was tuned; None where it came from a folder."""
    path = str(story.setting("model.path", ""))
    path = EMBEDDED.get(path, path)
    from_files = story.setting("model.scratch") is None
    return path if from_files and HUB_ID.match(path) and not Path(path).exists() else None


def _model_index(story: Story, task: str) -> list[dict[str, Any]]:
    wanted = story.metrics["scores"][story.split] if story.answers_rows and story.split else IN_MODEL_INDEX
    measured = [(metric, score) for metric in wanted if (score := story.score(metric)) is not None]
    if not measured:
        return []
    result = {
        "task": {"type": task},
        "dataset": {"name": headline.data_name(story), "type": "csv", "split": story.split},
        "metrics": [_indexed(metric, score.value) for metric, score in measured],
    }
    return [{"name": story.path.name, "results": [result]}]


def _indexed(metric: str, value: float) -> dict[str, Any]:
    kind = metric if metric == "token_accuracy" else metric.partition("_")[0]
    return {"type": kind, "name": wording.metric_name(metric), "value": round(value, 4)}


def _has_own_head(story: Story) -> bool:
    """Whether plain transformers loads the model: it has the head of its own family."""
    return story.setting("model.head.pooling", "auto") == "auto" and not story.setting("model.head.hidden")


def _peft_class(story: Story) -> str:
    if not story.writes:
        return "AutoPeftModelForSequenceClassification"
    return "AutoPeftModelForSeq2SeqLM" if story.task in TWO_STACKS else "AutoPeftModelForCausalLM"


def _in_plain_peft(story: Story) -> bool:
    """Whether plain peft loads the adapter."""
    kind = story.setting("adapter.type")
    return kind not in adapters.names() or bool(adapters.get(kind).in_plain_peft)


def _procedure(story: Story) -> list[tuple[str, str]]:
    """Return the essentials of the training as names and values."""
    environment, metrics = story.environment, story.metrics
    settings = [(f"`{key}`", str(story.setting(key))) for key in ESSENTIAL if story.setting(key) is not None]
    cores = f", {wording.count(environment['cores'], 'core')}" if environment.get("cores") else ""
    best = metrics.get("best_step")
    taken = [
        ("Steps", wording.count(metrics.get("steps"))),
        ("Kept weights", "the last" if best is None else f"step {best}"),
        ("Training time", wording.duration(metrics.get("training_seconds"))),
        ("Peak memory", wording.size(metrics.get("peak_memory_bytes"))),
        ("Hardware", f"{environment['processor']}{cores}" if environment.get("processor") else wording.NONE),
    ]
    return settings + [(name, value) for name, value in taken if value != wording.NONE]


def markdown_cell(text: object) -> str:
    """Make a text safe within a Markdown table: one line, no marks that Markdown or HTML would read."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|~#])", r"\\\1", one_line)


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("luthier.explain"),
        autoescape=False,  # Markdown: what the user wrote goes through `cell`
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"quote": shlex.quote, "cell": markdown_cell, "count": wording.count, "percent": wording.percent}
    return environment
