"""`luthier classify`: answers with labels that are named on the spot, without training."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.cli.arguments import new_parser
from luthier.cli.output import Output
from luthier.cli.predict import sinks_of
from luthier.core.errors import ConfigError, DataError, Fault

if TYPE_CHECKING:
    from luthier.data.section import DataSection
    from luthier.serve.named_labels import NamedLabels

EPILOG = """\
examples:
  luthier classify all-MiniLM-L6-v2 --labels refund,delivery "my card was charged twice"
  luthier classify all-MiniLM-L6-v2 --examples few.csv --data new.csv --out answers.jsonl
  luthier classify runs/nli-001 --labels labels.txt --template "The text is about {}." --measure labelled.csv
Probabilities say which label is ahead, not how often it is right: measure with --measure, and train where that is too little."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("classify", "Answer texts with labels that you name, without training.", epilog=EPILOG)
    made.add_argument(
        "model", metavar="MODEL", help="any encoder: hub id, folder or run; or a classifier of pairs with a label 'entailment'"
    )
    made.add_argument("texts", nargs="*", metavar="TEXT", help="texts to answer; none reads --data or standard input")
    made.add_argument("--labels", metavar="NAMES", help="names with commas between, or a .txt file with one a line")
    made.add_argument("--examples", metavar="FILE", help="a few labelled rows of each label")
    made.add_argument("--how", choices=("auto", "prototypes", "entailment"), default="auto", help="auto: entailment where MODEL has it")
    made.add_argument("--template", metavar="TEXT", help="what a label's name stands in, as {}")
    made.add_argument("--data", metavar="FILE", help="rows to answer")
    made.add_argument("--measure", metavar="FILE", help="labelled rows to score instead")
    made.add_argument("--out", metavar="FILE", help="file for the answers, instead of standard output")
    made.add_argument("--text", metavar="COLUMN", help="column with the text, by name or number from 0")
    made.add_argument("--label", metavar="COLUMN", help="column with the label of --examples and --measure")
    made.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="arithmetic")
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any] | None:
    """Answer, or score labelled rows; returns scores, or a summary where the answers went to a file."""
    if sum(map(bool, (parsed.texts, parsed.data, parsed.measure))) > 1:
        raise ConfigError([Fault("--data", "got more than one of texts, --data and --measure", "give one of them")])
    if not parsed.measure:
        output.words_aside()
    from luthier.serve.named_labels import NamedLabels

    examples = [] if parsed.examples is None else _labelled(parsed, parsed.examples)
    model = NamedLabels.open(
        parsed.model,
        _names(parsed.labels),
        examples=examples,
        how=parsed.how,
        template=parsed.template,
        precision=parsed.precision,
    )
    found = _measured(parsed, model, output) if parsed.measure else _answered(parsed, model, output)
    return None if found is None else {**found, "seconds": round(time.time() - started, 3)}


def _measured(parsed: argparse.Namespace, model: NamedLabels, output: Output) -> dict[str, Any]:
    from luthier.cli.summary import score_table

    rows = _labelled(parsed, parsed.measure, known=model.labels)
    answered = model.answered([text for text, _ in rows], [label for _, label in rows])
    scores = {key: score.as_dict() for key, score in answered.scores(keys=["accuracy", "f1_macro"]).items()}
    output.say(f"{len(rows):,} rows, {len(model.labels)} labels, by {model.how}")
    output.show(score_table({"test": scores}))
    return {"model": str(parsed.model), "how": model.how, "labels": list(model.labels), "rows": len(rows), "scores": scores}


def _answered(parsed: argparse.Namespace, model: NamedLabels, output: Output) -> dict[str, Any] | None:
    from luthier.stages.asking.predict import answer_fields, predict_rows

    if not all(text.strip() for text in parsed.texts):
        raise DataError("got an empty text", where="TEXT", fix="leave it out")
    with ExitStack() as stack:
        sink, bad_sink = sinks_of(parsed, stack)
        if parsed.texts:
            answers = zip(parsed.texts, model.answer(parsed.texts), strict=True)
            sink.write([answer_fields(row, text, answer) for row, (text, answer) in enumerate(answers, 1)])
            counts = {"rows": len(parsed.texts), "bad_rows": 0}
        else:
            counts = predict_rows(model, parsed.data or sys.stdin.buffer, _section(parsed), sink, bad_sink)
    if counts["bad_rows"]:
        output.say(f"rows without an answer: {counts['bad_rows']:,}", style="yellow")
    return {**counts, "out": parsed.out} if parsed.out else None


def _names(written: str | None) -> list[str]:
    """Return the labels that are named: in a file, one a line, or with commas between."""
    if written is None:
        return []
    if written.endswith(".txt"):
        file = Path(written).expanduser()
        if not file.is_file():
            raise DataError(f"there is no file '{written}'", where="--labels", fix="name the labels themselves, with commas between")
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return [name.strip() for name in written.split(",")]


def _labelled(parsed: argparse.Namespace, file: str, *, known: tuple[str, ...] | None = None) -> list[tuple[str, str]]:
    """Return the texts of a file with their labels; rows that cannot be used are counted and said."""
    import logging

    from luthier.data.rows import load_rows
    from luthier.data.section import Split

    where = "train" if known is None else "test"
    rows = load_rows(_section(parsed).model_copy(update={where: file, "split": Split(test=0.0)}), labels=known)
    for note in rows.notes:
        logging.getLogger("luthier").info(note)
    table = rows.splits[where]
    return list(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))


def _section(parsed: argparse.Namespace) -> DataSection:
    from luthier.core.yaml import scalar
    from luthier.data.section import DataSection

    named = {"text": parsed.text, "label": parsed.label}
    return DataSection.model_validate({key: scalar(value) for key, value in named.items() if value is not None})
