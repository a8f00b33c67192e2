"""The `training`, `evaluate` and `track` sections of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SerializeAsAny, field_validator

from luthier.core.config import Registered, Section
from luthier.core.units import Duration
from luthier.training.speed.section import SpeedSection


class EarlyStopping(Section):
    """Stop when the validation score no longer improves."""

    patience: int = Field(2, ge=1, description="Evaluations without a better score before the run stops.")
    min_delta: float = Field(0.0, ge=0, description="How much better a score must be to count.")


class Swa(Section):
    """The mean of the weights at several steps of the later part of a run."""

    start: Duration = Field(Duration(75, "%"), description="How far into the run the first weights are taken, such as 75% or '2 epochs'.")
    every: Duration = Field(Duration(1, "epochs"), description="How often weights are taken from then on, such as '1 epoch'.")


class TrainingSection(Section):
    """How long, in what portions, and with what care the model is trained."""

    epochs: float | Literal["auto"] = Field("auto", description="Passes over the training rows; auto: more for few rows or many classes.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps, whatever the epochs.")
    batch_size: int | Literal["auto"] = Field(
        32,
        description="Rows that go through the model together, on all processes of the run; auto: as many as fit and pay, "
        "in as many batches as effective_batch_size wants.",
    )
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens, padding included, that go through the model together; rows of a batch then vary, and batch_size "
        "is not used; none: batch_size rows.",
    )
    most_tokens_at_once: int | Literal["auto"] | None = Field(
        "auto",
        description="Tokens, padding included, that a process puts through the model at once; a larger batch is computed in pieces, "
        "with the same gradient and in less memory; none: no limit; auto: 2048 for an adapter on a CPU, else none.",
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches in one optimiser step; follows where batch_size is auto.")
    effective_batch_size: int = Field(32, ge=1, description="Rows in one optimiser step where batch_size is auto.")
    refuse_oversize: bool = Field(True, description="Stop before loading where the model alone would need far more memory than there is.")
    rows_per_class: int | None = Field(
        None,
        ge=2,
        description="Rows of one class that stand together in a batch, such as 4, so that losses that compare rows find pairs; "
        "none: rows as they come.",
    )
    group_by_length: bool = Field(True, description="Put rows of like length together, shuffled; saves the work on padding.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are shortened to it.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of matrix products; weights stay float32. auto measures once per machine whether bf16 is faster than fp32; "
        "fp16 is for GPUs without bf16.",
    )
    step_rule: str | SerializeAsAny[Registered] = Field(
        "accumulate", description="How the batches of a step become a gradient: a name, or {type: NAME, ...} with settings."
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="Measure and save a moving average of the weights; how much of it stays at each step, such as 0.999."
    )
    swa: Swa | None = Field(
        None, description="Measure and save the mean of the weights at several steps of the later part of the run; none: the last weights."
    )
    neftune: float | None = Field(
        None, gt=0, description="Noise on the word embeddings while training, such as 5; divided by the root of a text's numbers."
    )
    mixout: float | None = Field(
        None, gt=0, lt=1, description="How often a weight of a pretrained matrix is, for one step, the one it started from, such as 0.1."
    )
    l2_sp: float | None = Field(
        None, gt=0, description="Pull of pretrained weights towards where they started per step, times the rate; none: no pull."
    )
    eval_every: Duration = Field(
        Duration(1, "epochs"), description="How often the validation rows are scored, such as '1 epoch' or '200 steps'."
    )
    save_every: Duration = Field(Duration(1, "epochs"), description="How often a checkpoint is written, such as '1 epoch' or '200 steps'.")
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints that are kept; the best one is kept besides.")
    early_stopping: EarlyStopping | None = Field(
        None, description="Stop when the validation score no longer improves; needs validation rows."
    )
    best_metric: str | None = Field(None, description="Validation score that picks the best step; none: the task's primary metric.")
    seed: int = Field(0, ge=0, description="Seed of new layers, order and dropout.")
    num_workers: int = Field(0, ge=0, description="Processes that load batches ahead; 0 loads them in the training process.")
    parallel: Literal["ddp", "fsdp2"] = Field(
        "ddp", description="How several processes share the work: ddp copies the model to each, fsdp2 splits it among them."
    )
    rendezvous_timeout: float = Field(120.0, gt=0, description="Seconds that processes wait for each other at the start.")
    ledger: bool = Field(False, description="Write the ids of the rows of every step to ledger.jsonl.")
    speed: SpeedSection = Field(default_factory=SpeedSection, description="Means that make training faster, each with a switch.")
    threads: int | None = Field(None, ge=1, description="Threads of the matrix library; none: one per core.")

    @property
    def rows(self) -> int:
        """Rows that go through the model together, once that is decided."""
        assert self.batch_size != "auto", "the batch size was not decided yet"
        return self.batch_size

    @property
    def rows_per_step(self) -> int:
        """Rows in one optimiser step."""
        return self.effective_batch_size if self.batch_size == "auto" else self.batch_size * self.gradient_accumulation_steps

    @field_validator("batch_size", "most_tokens_at_once")
    @classmethod
    def _at_least_one(cls, size: int | str | None) -> int | str | None:
        if size not in ("auto", None) and int(size) < 1:
            raise ValueError(f"got {size}, wanted a whole number of at least 1, or auto")
        return size

    @field_validator("epochs")
    @classmethod
    def _above_zero(cls, epochs: float | str) -> float | str:
        if epochs != "auto" and float(epochs) <= 0:
            raise ValueError(f"got {epochs}, wanted a number above 0 or auto")
        return epochs


class EvaluateSection(Section):
    """How the result is measured."""

    metrics: tuple[str, ...] | None = Field(None, description="Scores to compute, such as [accuracy]; none: all that fit.")
    resamples: int = Field(1000, ge=100, description="Bootstrap resamples behind each interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Probability that an interval covers the truth.")
    folds: int | None = Field(
        None,
        ge=2,
        description="Cross-validate: luthier train trains on all but one of so many parts of the rows, for each part, and measures on it; "
        "none: one training.",
    )
    baseline: bool = Field(True, description="Compare with the untuned model: nearest class centroid on its embeddings.")
    max_batch_tokens: int = Field(
        4096, ge=1, description="Tokens, padding included, that go through the model together when it is measured."
    )


class TrackSection(Section):
    """Where the run is shown besides its own folder."""

    trackers: tuple[str, ...] = Field(("tensorboard",), description="tensorboard, and mlflow or wandb where they are installed.")
    project: str = Field("luthier", description="Name of the project or experiment in the tracker.")
