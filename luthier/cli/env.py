"""`luthier env`: versions, processor and memory."""

from __future__ import annotations

import argparse
from typing import Any

from luthier.cli.arguments import new_parser
from luthier.cli.output import Output


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    return new_parser("env", "Show versions, processor and memory.")


def run(parsed: argparse.Namespace, output: Output, started: float) -> dict[str, Any]:
    """Show the environment and return it."""
    from luthier.core.machine import environment
    from luthier.models.embedded import folder
    from luthier.training.measured import all_remembered

    facts = environment()
    facts.pop("command")
    facts["embedded_model"] = str(folder() or "not installed")
    facts["measured"] = all_remembered()
    for name, value in facts.items():
        if name == "memory_bytes":
            output.say(f"{'memory':<16} {value / 2**30:.1f} GiB")
        elif name not in ("packages", "measured"):
            output.say(f"{name.replace('_', ' '):<16} {value}")
    for name, version in facts["packages"].items():
        output.say(f"{name:<16} {version or 'not installed'}")
    for one in facts["measured"]:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in one["figures"].items())
        known = ", ".join(f"{name} {value}" for name, value in one["facts"].items() if name != "processor")
        output.say(f"{'measured':<16} {one['what']}: {figures} ({known})")
    return facts
