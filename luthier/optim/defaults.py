"""The rates that are used when none is given; docs/defaults.md says how they were found."""

from __future__ import annotations

import math

RATE_AT_WIDTH_1024 = 2.1e-5
HIGHEST_RATE = 1e-3
HEAD_FACTOR = 4.0
ADAPTER_RATE = 2e-4


def learning_rate(width: int) -> float:
    """Return the highest rate for tuning all weights of a pretrained encoder with AdamW.

    Wider models want smaller rates: the rate falls with the square of the width, from 1.5e-4 at 384 over 3.7e-5 at 768
    to 2.1e-5 at 1,024, and is never above 1e-3.

    Args:
        width: Size of the hidden states.
    """
    return round_to_two_digits(min(RATE_AT_WIDTH_1024 * (1024 / width) ** 2, HIGHEST_RATE))


def adapter_learning_rate(width: int) -> float:
    """Return the highest rate of an adapter: 2e-4, the value of the QLoRA paper, https://arxiv.org/abs/2305.14314; not tuned here."""
    return ADAPTER_RATE


def scratch_learning_rate(width: int) -> float:
    """Return the highest rate of a decoder that is built from nothing: 1e-3 up to width 384, 6e-4 at 768 as GPT-3 small had it.

    Args:
        width: Size of the hidden states.

    Reference: https://arxiv.org/abs/2005.14165, table 2.1; not tuned here.
    """
    return round_to_two_digits(HIGHEST_RATE * min(1.0, 384 / width) ** 0.75)


RATES = {"tuning": learning_rate, "adapter": adapter_learning_rate, "scratch": scratch_learning_rate}


def head_learning_rate(body_rate: float) -> float:
    """Return the highest rate of layers that start from nothing: a multiple of the body's."""
    return round_to_two_digits(body_rate * HEAD_FACTOR)


def round_to_two_digits(rate: float) -> float:
    """Return the rate with two significant digits, as a person would write it."""
    return float(f"{rate:.1e}")


def epochs(num_rows: int, num_labels: int, rows_per_step: int) -> int:
    """Return the passes over the training rows: more where a class has few rows, and enough steps for small sets.

    Three passes at 1,000 rows a class and more, growing with the fourth root of what is missing, and at least 150 steps;
    never more than 20.

    Args:
        num_rows: Training rows.
        num_labels: Classes.
        rows_per_step: Rows in one optimiser step.
    """
    rows_per_label = num_rows / max(num_labels, 1)
    by_label = 3 * max(1.0, 1000 / rows_per_label) ** (1 / 4)
    by_steps = 150 * rows_per_step / num_rows
    return min(20, math.ceil(max(by_label, by_steps) - 0.5))
