"""What the pages show works: Python compiles, YAML resolves, command lines use verbs, flags and keys that exist."""

from __future__ import annotations

import importlib
import re
import shlex
from functools import cache

import pytest
from house import PACKAGE, ROOT

from luthier.core import yaml
from luthier.core.errors import ConfigError
from luthier.recipe import resolve

PAGES = [path for path in [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.is_file()]
FENCED = re.compile(r"^([ \t]*)```(\w+)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|\|\s*|&&\s*)(?:\$ )?(?:\.venv/bin/)?(luthier(?: [^|&]*)?)(?=$|\||&&)", re.MULTILINE)
CHANGE = re.compile(r"^([a-z_]+(?:\.[\w-]+)*)=(.*)$", re.DOTALL)
FEWEST_COMMANDS, FEWEST_PYTHON, FEWEST_YAML = 10, 1, 1
FILE_TASKS = ("task:", "model:", "data:", "from:", "optim:", "training:", "loss:")


def blocks(*languages: str) -> list[tuple[str, str]]:
    """Place and text of every fenced block in one of the languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCED.finditer(text):
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 1
                body = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
                found.append((f"{page.relative_to(ROOT)}:{line}", body))
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Place and words of every `luthier ...` command that a page shows."""
    found = []
    for place, text in blocks("bash", "sh", "console", "shell"):
        for line in text.replace("\\\n", " ").splitlines():
            for match in COMMAND.finditer(line.strip()):
                found.append((place, shlex.split(match[1].partition(" > ")[0], comments=True)[1:]))
    return found


@cache
def flags_of(verb: str) -> frozenset[str]:
    """Flags that a verb's parser takes."""
    parser = importlib.import_module(f"luthier.cli.{verb}").parser()
    return frozenset(flag for action in parser._actions for flag in action.option_strings)


needs_pages = pytest.mark.skipif(not PAGES, reason="there is no README.md yet")
needs_verbs = pytest.mark.skipif(not (PACKAGE / "cli" / "main.py").is_file(), reason="luthier/cli/main.py is not written yet")


@pytest.fixture(autouse=True)
def somewhere_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages may name the public data by LUTHIER_DATA; to resolve, it need not be there."""
    monkeypatch.setenv("LUTHIER_DATA", "/data")


@needs_pages
def test_python_on_the_pages_compiles() -> None:
    found = blocks("python")
    for place, text in found:
        compile(text, place, "exec")
    assert len(found) >= FEWEST_PYTHON


@needs_pages
def test_recipes_on_the_pages_resolve() -> None:
    found = [(place, text) for place, text in blocks("yaml") if text.startswith(FILE_TASKS)]
    for place, text in found:
        resolve(yaml.load(text, where=place))
    assert len(found) >= FEWEST_YAML


@needs_pages
@needs_verbs
def test_commands_on_the_pages_exist() -> None:
    from luthier.cli.main import VERBS

    found = commands()
    faults = []
    for place, words in found:
        verb = words[0] if words else "--help"
        if verb in ("--help", "--version"):
            continue
        if verb not in VERBS:
            faults.append(f"{place}: there is no verb '{verb}'")
            continue
        for word in words[1:]:
            flag = word.partition("=")[0]
            if word.startswith("--") and "." not in flag and flag not in flags_of(verb):
                faults.append(f"{place}: luthier {verb} has no flag {flag}")
        faults += [f"{place}: {said}" for said in faults_of_changes(words[1:])]
    assert not faults, "\n".join(faults)
    assert len(found) >= FEWEST_COMMANDS


def faults_of_changes(words: list[str]) -> list[str]:
    """What is wrong with the `key=value`s of a command: with each by itself, or with all for the task that the command names."""
    task = [("task", words[place + 1]) for place, word in enumerate(words) if word == "--task"]
    matches = [CHANGE.match(word.removeprefix("--")) for word in words if not word.startswith("--") or "." in word.partition("=")[0]]
    changes = [(match[1], yaml.scalar(match[2])) for match in matches if match is not None]
    said = []
    for some in [[*task, *changes]] if task else [[change] for change in changes]:
        try:
            resolve(None, some)
        except ConfigError as error:
            said += [str(fault) for fault in error.faults if not fault.message.startswith("needs validation rows")]
    return said


def test_wrong_keys_would_be_found() -> None:
    assert faults_of_changes(["optim.learningrate=1", "training.save_every=3"])
    assert not faults_of_changes(["optim.learning_rate=1e-4", "training.save_every=3steps", "schedule.warmup=6%"])
