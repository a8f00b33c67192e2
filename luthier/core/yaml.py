"""YAML as data: version 1.2 rules, so `2e-5` is a number and `no` is a word; nothing in it can run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from luthier.core.errors import ConfigError, Fault


def load(text: str, *, where: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        where: What to call it in messages: a file name or an option.

    Raises:
        ConfigError: if it is not YAML, or has a key twice.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "document"
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError([Fault(line, f"not valid YAML: {problem}")], where=where) from None


def load_file(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: if it is missing, not UTF-8, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError([Fault("recipe", "no such file", "write one with: luthier init DATA.csv")], where=str(path)) from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ConfigError([Fault("recipe", "is not a text file in UTF-8")], where=str(path)) from None
    return load(text, where=str(path))


def scalar(text: str) -> Any:
    """Read one value as written on the command line: `3` is a number, `3steps` a word, `[a, b]` a list."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return text


def dump(data: Any) -> str:
    """Write plain data as YAML, keys in their given order."""
    writer = YAML()
    writer.default_flow_style = False
    writer.width = 120
    stream = io.StringIO()
    writer.dump(data, stream)
    return stream.getvalue()
