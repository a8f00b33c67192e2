"""`luthier predict`: answers for one text, a file, or lines on standard input."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from luthier.cli.arguments import add_code_flag, add_manner_flags, folder_named, load_code, manner_of, new_parser
from luthier.cli.output import Output
from luthier.core.errors import ConfigError, DataError, Fault

EPILOG = """\
examples:
  luthier predict runs/reviews-001 "what a film"
  luthier predict runs/reviews-001 --data new.csv --out answers.parquet
  luthier predict runs/squad-001 "who wrote it" --pair "It was written by Ada."
  cat texts.txt | luthier predict runs/reviews-001 > answers.jsonl
Answers are JSON, one object a line, unless --out names a .jsonl, .csv, .parquet or .arrow file."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = new_parser("predict", "Answer texts with a run, or with any classifier folder or hub id.", epilog=EPILOG)
    made.add_argument("run", metavar="RUN", help="a run folder, an ensemble's folder, a model folder or a hub id")
    made.add_argument("texts", nargs="*", metavar="TEXT", help="texts to answer; none reads --data or standard input")
    made.add_argument("--pair", metavar="TEXT", action="append", help="the second text, such as a context; one, or one for each text")
    made.add_argument("--as", metavar="NAME", dest="as_task", help="which task of the run answers, where it has several")
    made.add_argument("--data", metavar="FILE", help="rows to answer")
    made.add_argument("--out", metavar="FILE", help="file for the answers, instead of standard output")
    made.add_argument("--text", metavar="COLUMN", help="column with the text; none: as in training")
    made.add_argument("--text-pair", metavar="COLUMN", help="column with the second text; none: as in training")
    made.add_argument("--header", choices=("auto", "true", "false"), default="auto", help="whether the first line names the columns")
    made.add_argument(
        "--precision", choices=("fp32", "bf16", "auto"), default="fp32", help="arithmetic; fp32 is what the run was measured in"
    )
    add_manner_flags(made)
    add_code_flag(made)
    return made


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any] | None:
    """Answer, and return a summary where the answers went to a file."""
    load_code(parsed.code)
    output.words_aside()
    if parsed.texts and parsed.data:
        raise ConfigError([Fault("--data", "got texts and a file", "give one of them")])
    if parsed.pair and not parsed.texts:
        raise ConfigError([Fault("--pair", "is the second text of a TEXT, and none is given", "name a column of the file: --text-pair")])
    from luthier.serve.ensemble import open_predictor
    from luthier.stages.asking.predict import answer_fields, predict_rows

    parsed.run = folder_named(parsed)
    predictor = open_predictor(parsed.run, precision=parsed.precision)
    manner = manner_of(parsed)
    if manner:
        predictor = predictor.writing(**manner)
    with ExitStack() as stack:
        sink, bad_sink = sinks_of(parsed, stack)
        if parsed.texts:
            alone = getattr(getattr(predictor, "work", None), "answers_alone", False)
            _refuse(parsed.texts, _section(parsed), parsed.pair, alone=alone)
            pairs = _pairs(parsed.texts, parsed.pair)
            answers = [
                answer_fields(row, text, answer)
                for row, (text, answer) in enumerate(zip(parsed.texts, predictor.answer(parsed.texts, pairs), strict=True), 1)
            ]
            sink.write(answers)
            counts = {"rows": len(answers), "bad_rows": 0}
        else:
            if not parsed.data and sys.stdin.isatty():
                output.say("reading texts from the keyboard, one a line; end with Ctrl-D")
            counts = predict_rows(predictor, parsed.data or sys.stdin.buffer, _section(parsed), sink, bad_sink)
    if parsed.out:
        output.say(f"{counts['rows']:,} answers in {parsed.out}")
    if counts["bad_rows"]:
        listed = f", listed in {_bad_path(parsed.out)}" if parsed.out else ""
        output.say(f"rows without an answer: {counts['bad_rows']:,}{listed}", style="yellow")
    return {**counts, "out": parsed.out, "seconds": round(time.time() - started, 3)} if parsed.out else None


def _refuse(texts: list[str], section: Any, given: list[str] | None, *, alone: bool) -> None:
    """Refuse empty texts, and single ones where the model was trained on pairs and has no answer to one text alone."""
    if not all(text.strip() for text in (*texts, *(given or ()))):
        raise DataError("got an empty text", where="TEXT", fix="leave it out")
    if given and len(given) not in (1, len(texts)):
        raise DataError(f"got {len(given)} second texts for {len(texts)} texts", where="--pair", fix="give one, or one for each text")
    if section.text_pair is not None and not given and not alone:
        fix = "give it with --pair TEXT, a file with --data, or one JSON object a line on standard input"
        raise DataError("two texts are wanted for each answer: the run was trained on pairs", where="TEXT", fix=fix)


def _pairs(texts: list[str], given: list[str] | None) -> list[str] | None:
    """Return a second text for each text."""
    return given * len(texts) if given and len(given) == 1 else given


def sinks_of(parsed: argparse.Namespace, stack: ExitStack) -> tuple[Any, Any]:
    """Return where answers go, and rows without one, as `--out` says; both are closed with the stack."""
    from luthier.data.sink import LineSink, RareSink, open_sink

    if not parsed.out:
        return LineSink(sys.stdout), None
    sink = stack.enter_context(open_sink(parsed.out))
    return sink, stack.enter_context(RareSink(_bad_path(parsed.out)))


def _bad_path(out: str) -> Path:
    return Path(out).with_suffix(".quarantine.jsonl")


def _section(parsed: argparse.Namespace) -> Any:
    from luthier.core.yaml import scalar
    from luthier.stages.asking.predict import section_of

    changes = {"text": parsed.text, "text_pair": parsed.text_pair}
    chosen = {key: scalar(value) for key, value in changes.items() if value is not None}
    if parsed.header != "auto":
        chosen["header"] = parsed.header == "true"
    return section_of(parsed.run).model_copy(update=chosen)
