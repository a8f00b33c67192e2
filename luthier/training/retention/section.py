"""The `keep` section of a recipe: which finished run is tuned further, and what keeps its knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from luthier.core import paths
from luthier.core.config import Section


class Replay(Section):
    """Old rows beside the new ones."""

    share: float = Field(0.2, gt=0, lt=1, description="Old rows among all rows that are learnt; which come with a new row is drawn for it.")
    weight: float = Field(1.0, gt=0, description="Weight of the mean loss of the old rows beside that of the new ones.")

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_the_share(cls, given: object) -> object:
        return {"share": given} if isinstance(given, int | float) and not isinstance(given, bool) else given


class FisherMask(Section):
    """Only some of the old weights are trained, chosen one by one.

    Reference: Child-Tuning, Xu et al., https://arxiv.org/abs/2109.05687
    """

    share: float = Field(0.05, gt=0, lt=1, description="Weights that are trained, of those with any Fisher information.")
    which: Literal["smallest", "largest"] = Field(
        "smallest",
        description="smallest trains what the rows need least, and what they do not need at all; largest what they need most.",
    )

    rows: Literal["old", "new"] = Field(
        "old", description="Rows that the information is estimated on: old ones, or new ones, as Child-Tuning-D does with the largest."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_the_share(cls, given: object) -> object:
        return {"share": given} if isinstance(given, int | float) and not isinstance(given, bool) else given


class KeepSection(Section):
    """A finished run goes on with new rows. Its model takes the place of model.path; --from RUN is short for keep.run."""

    run: str = Field(description="Folder of the finished run; its model is what is tuned.")
    labels: Literal["auto", "join", "apart"] = Field(
        "auto",
        description="join: the same task, the labels of the run and those that are new in one head; apart: another task with a head of its "
        "own; auto: join where the rows share a label with the run.",
    )
    replay: Replay | None = Field(None, description="Learn rows of the run's training data beside the new ones; a number is the share.")
    ewc: float | None = Field(
        None,
        gt=0,
        description="Elastic weight consolidation: pull of each weight towards its old value per step, times the rate, times its Fisher "
        "information on old rows (1 on average).",
    )
    fisher_mask: FisherMask | None = Field(None, description="Train only a share of the old weights, by Fisher information.")
    fisher_rows: int = Field(
        500, ge=1, description="Training rows that Fisher information is estimated on; that on old rows is kept in the run."
    )
    old_model: bool = Field(
        False, description="Of another task: write the old head on the trunk as it is now into old-model/, a model folder of its own."
    )
    report: bool = Field(True, description="Score the run's test rows before and after, and say what was forgotten.")

    @property
    def model(self) -> Path:
        """Folder of the run's model; of a run with an adapter the one that `luthier merge` wrote."""
        merged = Path(self.run) / "merged"
        return merged if merged.is_dir() and (Path(self.run) / "model" / "adapter_config.json").is_file() else Path(self.run) / "model"

    @property
    def wants_fisher(self) -> bool:
        """Whether the Fisher information on old rows is needed."""
        return self.ewc is not None or (self.fisher_mask is not None and self.fisher_mask.rows == "old")

    @property
    def reaches_every_row(self) -> str | None:
        """Key of what moves, or reads, rows of the word embedding that do not occur in the new rows."""
        return next((f"keep.{name}" for name in ("replay", "ewc", "fisher_mask") if getattr(self, name) is not None), None)

    @field_validator("run")
    @classmethod
    def _whole_path(cls, written: str) -> str:
        return paths.expanded(written) if "$" in written or written.startswith("~") else written

    @model_validator(mode="before")
    @classmethod
    def _a_text_is_the_run(cls, given: object) -> object:
        return {"run": given} if isinstance(given, str) else given
