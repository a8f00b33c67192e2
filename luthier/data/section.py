"""The `data` and `mixing` sections of a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from luthier.core import paths
from luthier.core.config import Section
from luthier.data.augment.augmentation import Augmentation

Column = str | int
FOLD = re.compile(r"[0-9]{1,6}/[0-9]{1,6}")
SHORTEST = 4  # the special tokens of a pair, and one of a text
EMBEDDED = Path(__file__).parent / "embedded"


def expanded(written: str) -> str:
    """Return a path with `package:` (rows that come with Luthier), `~` and `$VARIABLES` filled in.

    Raises:
        ValueError: if a variable is not set.
    """
    if written.startswith("package:"):
        return str(EMBEDDED / written.removeprefix("package:"))
    return paths.expanded(written)


class Split(Section):
    """How rows are held apart where no file is given for a split."""

    validation: float = Field(
        0.0, ge=0, lt=1, description="Fraction of the training rows held out to choose the best step; 0 holds nothing out."
    )
    test: float | Literal["auto"] = Field(
        "auto", description="Fraction held out to measure; auto holds out 0.2 where neither data.test nor data.validation is given, else 0."
    )
    seed: int = Field(42, ge=0, description="Seed of the split; the same seed and rows give the same split.")
    stratify: bool = Field(True, description="Keep the share of each class the same on both sides.")
    group_by: Column | None = Field(None, description="Column whose equal values never fall on both sides, such as a customer id.")
    fold: str | None = Field(
        None, description="Part of the training rows that measures instead, such as 2/5, the second of five; luthier crossval does all."
    )

    @field_validator("fold")
    @classmethod
    def _one_of_several(cls, written: str | None) -> str | None:
        number, of = map(int, written.split("/")) if written is not None and FOLD.fullmatch(written) else (0, 0)
        if written is not None and not 1 <= number <= of > 1:
            raise ValueError(f"got '{written}', wanted the number of a part and how many there are, such as 2/5")
        return written

    @property
    def place(self) -> tuple[int, int] | None:
        """Number of the fold, from 1, and how many there are; None where all rows train."""
        if self.fold is None:
            return None
        number, _, of = self.fold.partition("/")
        return int(number), int(of)

    @model_validator(mode="after")
    def _leaves_training_rows(self) -> Split:
        if self.fold is not None and self.test not in ("auto", 0):
            raise ValueError(f"test={self.test} and fold={self.fold} both hold rows out to measure; leave one of them out")
        test = 0.0 if self.test == "auto" else self.test
        if not 0 <= test < 1 or test + self.validation >= 1:
            raise ValueError("validation + test must be below 1, so that rows are left to train on")
        return self


class DataSection(Section):
    """Where the rows come from, which columns matter, and how they are held apart."""

    train: str | None = Field(
        None, description="Training rows: a file (csv, tsv, json, jsonl, parquet, arrow, .gz of these), a folder, or a hub id."
    )
    validation: str | None = Field(
        None, description="Rows that choose the best step; none: nothing is held out and the last weights are kept."
    )
    test: str | None = Field(None, description="Rows that measure the result; they never select anything.")
    text: Column | None = Field(None, description="Column with the text, by name or by number from 0; none: found by its name.")
    text_pair: Column | None = Field(None, description="Column with a second text, for pairs.")
    prompt: Column | None = Field(
        None, description="Column with the prompt of instruction rows, whose response is data.text; for text-generation."
    )
    prompt_input: Column | None = Field(None, description="Column with what the prompt is about; a cell may be empty.")
    messages: Column | None = Field(
        None, description="Column with whole conversations, as lists of turns; none: found by its name (messages, conversations)."
    )
    label: Column | None = Field(None, description="Column with the label, by name or by number from 0; none: found by its name.")
    labels: tuple[str, ...] | None = Field(
        None, description="Labels that the head has first, in this order; those of the training rows come after them. keep fills it in."
    )
    label_separator: str | None = Field(
        None, description="What separates several labels in one cell, such as '|'; needs a multi-label problem."
    )
    slice_by: Column | None = Field(None, description="Column whose values get scores of their own, such as a language.")
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "text-folder", "datasets-folder", "hub"] = Field(
        "auto", description="Format of the rows; auto goes by the ending of the name."
    )
    header: bool | Literal["auto"] = Field(
        "auto", description="Whether the first line of a CSV or TSV names the columns; auto with numbered columns: no for TSV, yes for CSV."
    )
    quoting: bool | Literal["auto"] = Field("auto", description="Whether quotes enclose cells; auto: yes for CSV, no for TSV.")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="What separates cells; none: ',' for CSV, tab for TSV.")
    encoding: str = Field("auto", description="Encoding of text files, such as utf-8 or gb18030; auto detects it and says what it found.")
    max_length: int | Literal["auto"] = Field("auto", description="Longest text in tokens; auto: what the model takes, at most 512.")
    long_texts: Literal["truncate", "windows"] = Field(
        "truncate",
        description="What happens to longer texts: cut at the end, or split into overlapping windows whose answers are averaged.",
    )
    window_stride: int = Field(64, ge=0, description="Tokens that neighbouring windows share.")
    max_bad_rows: float = Field(0.05, ge=0, le=1, description="Share of bad rows above which nothing is trained.")
    max_unlearnt_rows: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of rows of which nothing would be learnt, such as a response that is cut away, above which "
        "nothing is trained; fewer are left out and listed.",
    )
    split: Split = Field(default_factory=Split, description="Fractions held out where no file is given.")
    augment: tuple[SerializeAsAny[Augmentation], ...] = Field(
        (),
        description="How the texts of the training rows vary from epoch to epoch, such as [word-dropout, word-swap], in this order.",
    )
    packing: bool = Field(
        True, description="Lay the rows of a text-generation batch one after the other, without padding; they do not see each other."
    )
    cache: bool = Field(True, description="Keep encoded rows in the cache folder and reuse them when nothing changed.")

    @field_validator("train", "validation", "test")
    @classmethod
    def _whole_path(cls, written: str | None) -> str | None:
        return None if written is None else expanded(written)

    @field_validator("max_length")
    @classmethod
    def _room_for_a_word(cls, written: int | str) -> int | str:
        if isinstance(written, int) and written < SHORTEST:
            raise ValueError(f"got {written}, wanted at least {SHORTEST} tokens (data.max_length=auto takes what the model takes)")
        return written

    @model_validator(mode="after")
    def _one_way_to_measure(self) -> DataSection:
        if self.split.fold is not None and self.test is not None:
            raise ValueError(f"data.test and data.split.fold={self.split.fold} both say which rows measure; leave one of them out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _a_path_is_the_training_rows(cls, given: object) -> object:
        return {"train": given} if isinstance(given, str) else given


class MixingSection(Section):
    """How several tasks share the steps of a run, and how their losses are weighed."""

    sampling: Literal["proportional", "temperature", "equal", "round-robin"] = Field(
        "proportional",
        description="How many batches of an epoch each task has: proportional to its rows, so that every row comes once; temperature for "
        "rows to the power of 1 / temperature; equal; or round-robin, the tasks in turn. An epoch has as many batches as all rows make.",
    )
    temperature: float = Field(
        2.0, ge=1, description="For sampling by temperature: 1 is proportional, and the higher it is the more equal the tasks are."
    )
    weights: Literal["fixed", "uncertainty", "gradnorm"] = Field(
        "fixed",
        description="How the losses of the tasks are weighed: by the weight of each task alone, or, besides, by uncertainty, which is "
        "learnt, or by the step rule gradnorm.",
    )

    @field_validator("sampling", mode="before")
    @classmethod
    def _with_hyphen(cls, given: object) -> object:
        return given.replace("_", "-") if isinstance(given, str) else given
