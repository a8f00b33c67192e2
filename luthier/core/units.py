"""Amounts with their unit: `3 epochs`, `200 steps`, `6%`, `5e8 tokens`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

UNITS = {
    "epoch": "epochs",
    "epochs": "epochs",
    "step": "steps",
    "steps": "steps",
    "sample": "samples",
    "samples": "samples",
    "token": "tokens",
    "tokens": "tokens",
    "%": "%",
}
_PATTERN = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+|%)\s*$")


@dataclass(frozen=True)
class Duration:
    """How much of a training run: so many epochs, steps, samples, tokens, or a percentage of all steps.

    Args:
        value: The amount, 0 or more.
        unit: One of epochs, steps, samples, tokens, %.

    Example:
        >>> Duration.parse("6%").steps(total_steps=1000, steps_per_epoch=100)
        60
    """

    value: float
    unit: str

    @classmethod
    def parse(cls, written: object) -> Duration:
        """Read a duration; a bare number is refused, because its unit would be a guess.

        Raises:
            ValueError: where the text is not a number with a known unit.
        """
        if isinstance(written, Duration):
            return written
        match = _PATTERN.match(str(written)) if not isinstance(written, bool) else None
        if match is None:
            raise ValueError(f"{written!r} has no unit: write for example '1 epoch', '200 steps' or '6%'")
        unit = UNITS.get(match[2].lower())
        if unit is None:
            raise ValueError(f"unknown unit {match[2]!r} in {written!r}: use epochs, steps, samples, tokens or %")
        return cls(float(match[1]), unit)

    def steps(self, *, total_steps: int, steps_per_epoch: int, samples_per_step: float = 1.0, tokens_per_step: float = 1.0) -> int:
        """Return the duration in optimiser steps, rounded to the nearest.

        Args:
            total_steps: Steps of the whole run, the base of a percentage.
            steps_per_epoch: Steps in one pass over the training rows.
            samples_per_step: Mean rows in one step.
            tokens_per_step: Mean tokens in one step.
        """
        scale = {
            "epochs": steps_per_epoch,
            "steps": 1,
            "%": total_steps / 100,
            "samples": 1 / samples_per_step,
            "tokens": 1 / tokens_per_step,
        }[self.unit]
        return int(math.floor(self.value * scale + 0.5))

    def __str__(self) -> str:
        number = f"{self.value:g}"
        if self.unit == "%":
            return f"{number}%"
        return f"{number} {self.unit.removesuffix('s') if self.value == 1 else self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(),
        )
