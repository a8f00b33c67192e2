"""The `distill` section of a recipe: which teacher, and what is learnt from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from luthier.core import paths
from luthier.core.config import Section


class DistillSection(Section):
    """A student learns from the answers of a teacher besides the labels, and perhaps from its layers."""

    teacher: str | None = Field(None, description="Run folder, model folder or hub id of the teacher.")
    logits: str | None = Field(
        None, description="The teacher's answers to the training rows instead of the teacher: a .jsonl file as luthier predict writes it."
    )
    temperature: float = Field(2.0, gt=0, description="Scores of both are divided by it before they are compared; 1: compared as they are.")
    weight: float = Field(0.5, ge=0, le=1, description="Share of the teacher's answers in the loss; the rest is that of the labels.")
    hidden: float = Field(
        0.0, ge=0, description="Weight of the states after the layers, which are drawn to the teacher's; 0: not compared."
    )
    hidden_loss: Literal["mse", "cosine"] = Field(
        "mse", description="How states are compared: mean squared difference (TinyBERT), or 1 - cosine (DistilBERT)."
    )
    attention: float = Field(
        0.0, ge=0, description="Weight of the relations between the values of a text's tokens (MiniLM), layer by layer; 0: not compared."
    )
    layers: Literal["last", "even"] | dict[int, int] = Field(
        "even",
        description="Which layers are compared: even puts the student's at even distances among the teacher's, last compares the last of "
        "both, and a map says the teacher's layer for the student's, counted from 0, such as {0: 1, 1: 3, 2: 5}.",
    )
    unlabelled: str | None = Field(
        None, description="A file of rows without labels, read as the training rows are: of them only the teacher's answers are learnt."
    )
    unlabelled_share: float = Field(0.5, gt=0, lt=1, description="Unlabelled rows among all rows that are learnt, drawn anew each epoch.")
    cache: bool = Field(True, description="Ask the teacher once per row before training, and keep its answers on disk for other runs.")

    @property
    def looks_inside(self) -> bool:
        """Whether more than the teacher's answers is learnt from."""
        return self.hidden > 0 or self.attention > 0

    @field_validator("teacher", "logits", "unlabelled")
    @classmethod
    def _whole_path(cls, written: str | None) -> str | None:
        return paths.expanded(written) if written is not None and "$" in written else written

    @model_validator(mode="after")
    def _one_source(self) -> DistillSection:
        if (self.teacher is None) == (self.logits is None):
            raise ValueError("name one of the two: teacher (a run, a folder or a hub id), or logits (a file with its answers)")
        if self.logits is not None and self.looks_inside:
            raise ValueError("hidden and attention need the teacher itself; name teacher instead of logits")
        if self.unlabelled is not None and (self.teacher is None or not self.weight):
            raise ValueError("unlabelled rows are learnt from the teacher's answers; name teacher, and give weight a number above 0")
        if self.weight == 0 and not self.looks_inside:
            raise ValueError("nothing is learnt from the teacher; give weight, hidden or attention a number above 0")
        return self
