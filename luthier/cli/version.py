"""`luthier version`."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import new_parser
from luthier.cli.output import Output
from luthier.version import __version__


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    return new_parser("version", "Show the version.")


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Show the version and return it."""
    if not output.as_json:
        output.say(__version__)
    return {"version": __version__}
