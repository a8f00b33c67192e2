"""The `training.speed` section of a recipe: a switch for every means."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.core.config import Section


class SpeedSection(Section):
    """Means that make training faster; each can be switched off. docs/speed.md says what each was measured to gain."""

    fast_dropout: bool = Field(True, description="Draw dropout masks from 16-bit random numbers, four to each 64-bit draw.")
    shadow_weights: bool = Field(True, description="Keep a copy of each matrix in the precision of the products, renewed once a step.")
    row_embedding: bool = Field(True, description="Gradients and updates of the word embedding only for rows that occur in training.")
    needed_positions: bool = Field(True, description="Compute in the last layer only the positions that the head reads.")
    attention: Literal["auto", "eager", "sdpa"] = Field(
        "auto", description="How attention is computed; auto times both on the lengths of the training rows."
    )
    keep_memory: bool = Field(True, description="Keep the C library from giving freed memory back between steps.")
    prefix_cache: bool = Field(True, description="Compute what frozen layers give for a training row once, and keep it on disk.")
    prefix_cache_gib: float = Field(8.0, ge=0, description="Most disk space of all such files together, in GiB.")
