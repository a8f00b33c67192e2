"""What verbs share of their arguments: key=value changes, short flags for common keys, --json, --code."""

from __future__ import annotations

import argparse
import re
from typing import Any

from luthier.core.errors import ConfigError, Fault

CHANGE = re.compile(r"^[A-Za-z_][\w-]*(\.[\w-]+)*=")
DOTTED_FLAG = re.compile(r"^--([A-Za-z_]\w*(?:\.[\w-]+)+)(?:=(.*))?$", re.DOTALL)
SHORT_FLAGS = {
    "--task": ("task", "what is learnt, such as text-classification"),
    "--data": ("data.train", "training rows: a file, a folder or a hub id"),
    "--validation": ("data.validation", "rows that choose the best step"),
    "--test": ("data.test", "rows that measure the result"),
    "--text": ("data.text", "column with the text, by name or number from 0"),
    "--label": ("data.label", "column with the label, by name or number from 0"),
    "--model": ("model.path", "pretrained model: a hub id or a folder"),
    "--output": ("output", "run folder to make"),
    "--epochs": ("training.epochs", "passes over the training rows"),
    "--batch-size": ("training.batch_size", "rows that go through the model together"),
    "--lr": ("optim.learning_rate", "highest learning rate"),
}

MANNER: dict[str, tuple[type, str, str]] = {
    "max_new_tokens": (int, "N", "most tokens of a written answer"),
    "temperature": (float, "T", "0 writes the most likely token each time, more draws"),
    "top_p": (float, "P", "draw from the most likely tokens that hold this share"),
    "top_k": (int, "N", "draw from so many of the most likely tokens; 0: from all"),
    "min_p": (float, "P", "draw from tokens with at least this share of the most likely one's probability"),
    "num_beams": (int, "N", "beginnings of an answer that are followed at once"),
    "repetition_penalty": (float, "X", "above 1, tokens that stand there already become less likely"),
    "no_repeat_ngram_size": (int, "N", "no run of so many tokens is written twice; 0: any may be"),
}


def new_parser(verb: str, description: str, *, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of a verb, with the flags that every verb has."""
    parser = argparse.ArgumentParser(
        prog=f"luthier {verb}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of standard output, words elsewhere")
    return parser


def add_short_flags(parser: argparse.ArgumentParser, names: tuple[str, ...] = tuple(SHORT_FLAGS)) -> None:
    """Add the short flags of recipe keys."""
    group = parser.add_argument_group("short for recipe keys")
    for flag in names:
        key, help_ = SHORT_FLAGS[flag]
        group.add_argument(flag, metavar="VALUE", help=f"{help_} ({key})")


def add_code_flag(parser: argparse.ArgumentParser) -> None:
    """Add --code, which imports a user's own parts."""
    parser.add_argument("--code", metavar="FILE", action="append", default=[], help="a Python file with parts of your own; it is run")


def add_manner_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how an answer is written."""
    for name, (kind, metavar, help_) in MANNER.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=f"{help_}; none: as in the recipe")
    parser.add_argument("--choices", metavar="A,B,...", action="append", help="answers that are allowed, with commas between; none: any")


def manner_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return how an answer is to be written, as far as flags say."""
    manner = {name: getattr(parsed, name) for name in MANNER if getattr(parsed, name) is not None}
    choices = [choice.strip() for words in parsed.choices or () for choice in words.split(",") if choice.strip()]
    return manner | ({"choices": choices} if choices else {})


def spelled_out(arguments: list[str]) -> list[str]:
    """Return arguments with `--a.b value` and `--a.b=value` written as `a.b=value`."""
    spelled: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        match = DOTTED_FLAG.match(argument)
        if match is None:
            spelled.append(argument)
            continue
        value = match[2] if match[2] is not None else next(rest, None)
        if value is None:
            raise ConfigError([Fault(match[1], "has no value", f"write {match[1]}=VALUE")])
        spelled.append(f"{match[1]}={value}")
    return spelled


def split_changes(words: list[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """Return the words that are no changes, and the changes by dotted key, values read as YAML."""
    from luthier.core.yaml import scalar

    plain = [word for word in words if not CHANGE.match(word)]
    changes = [(key, scalar(value)) for key, _, value in (word.partition("=") for word in words if CHANGE.match(word))]
    return plain, changes


def recipe_named(parsed: argparse.Namespace) -> tuple[str | None, list[tuple[str, Any]]]:
    """Return the one recipe that was named, or None, and all changes to it: by key, and by short flags.

    Raises:
        ConfigError: if several are named.
    """
    plain, changes = split_changes(parsed.recipe)
    if len(plain) > 1:
        raise ConfigError([Fault("recipe", f"got {len(plain)} recipes: {' '.join(plain)}", "name one; changes are written key=value")])
    return (plain[0] if plain else None), in_order(changes, flag_changes(parsed))


def in_order(changes: list[tuple[str, Any]], flags: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return changes by key and by short flags in their order: the name of the task first, which would else replace its settings."""
    return [*(flag for flag in flags if flag[0] == "task"), *changes, *(flag for flag in flags if flag[0] != "task")]


def flag_changes(parsed: argparse.Namespace) -> list[tuple[str, Any]]:
    """Return the short flags that were given as changes by dotted key."""
    from luthier.core.yaml import scalar

    changes = []
    for flag, (key, _) in SHORT_FLAGS.items():
        value = getattr(parsed, flag.removeprefix("--").replace("-", "_"), None)
        if value is not None:
            is_name = key.startswith("data.") and key not in ("data.text", "data.label") or key in ("output", "model.path", "task")
            changes.append((key, value if is_name else scalar(value)))
    return changes


def folder_named(parsed: argparse.Namespace) -> str:
    """Return the run that was named, or the folder of its task that `--as` names.

    Raises:
        ConfigError: if it has no such task.
    """
    from luthier.core.run_folder import RunFolder

    return str(parsed.run) if parsed.as_task is None else str(RunFolder.open(parsed.run).of_task(parsed.as_task).path)


def without(words: list[str], flag: str) -> list[str]:
    """Return a verb's words without one flag and its value."""
    left: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == flag:
            next(rest, None)
        elif not word.startswith(f"{flag}="):
            left.append(word)
    return left


def load_code(paths: list[str]) -> None:
    """Import the files named with --code."""
    from luthier.core.registry import load_user_file

    for path in paths:
        load_user_file(path)
