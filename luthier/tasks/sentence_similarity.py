"""Sentence similarity: a vector for a text, such that texts that are alike, or belong together, lie near each other.

N rows of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from luthier.core.config import Registered, build_registered
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.work import Part, Parts
from luthier.data.augment.augmentation import Augmenter
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.data.records import load_records
from luthier.data.rows import Rows
from luthier.data.section import Column, DataSection
from luthier.data.words import WordMarks
from luthier.losses.loss import Loss
from luthier.losses.pairs import FOR_PAIRS, FOR_SCORES, pair_losses
from luthier.losses.pairs.pair_loss import PairLoss
from luthier.metrics import retrieval
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import Task
from luthier.tasks.text.kept import as_fields
from luthier.tasks.text.records_preparation import Reader, prepare_records
from luthier.tasks.text.sentence_pairs import lay_out, read_record
from luthier.tasks.text.similarity_work import KEPT, PRIMARY, SIMILARITY, SentenceSimilarityWork


@tasks.add
class SentenceSimilarity(Task):
    """How alike two texts are, by the vectors of both."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = PRIMARY["similarity"]
    has_mean: ClassVar[bool] = True
    own_scores: ClassVar[tuple[str, ...]] = (*SIMILARITY, *retrieval.SCORES)
    additive: ClassVar[bool] = False
    negative: Column | None = Field(None, description="Column with a wrong text for the first; none: found by its name, if there is one.")
    loss: SerializeAsAny[Registered] | None = Field(
        None,
        description="What is minimised: a name, or {type: NAME, ...} with settings; none: cosent where the training rows have scores, "
        "else multiple-negatives.",
    )
    pooling: Literal["auto", "mean", "cls", "max"] = Field(
        "auto", description="How the tokens of a text become its vector; auto: as the model's own files say, else mean."
    )
    normalise: bool = Field(True, description="Give vectors of length 1.")
    matryoshka: tuple[int, ...] = Field(
        (), description="Numbers of each vector that are to do by themselves, such as [384, 128, 64]: the loss is taken over each; []: all."
    )
    matryoshka_weights: tuple[float, ...] = Field((), description="How much each of these counts; []: all alike.")
    measure: Literal["auto", "similarity", "retrieval"] = Field(
        "auto",
        description="similarity: correlations with the scores; retrieval: whether each first text finds its second among all of the "
        "split; auto: similarity where the rows that are held out have scores.",
    )

    @field_validator("loss", mode="before")
    @classmethod
    def _built(cls, given: Any) -> Any:
        if given is None:
            return None
        built, faults = build_registered(pair_losses, given, path="")
        if faults:
            raise ValueError("; ".join(": ".join(filter(None, [fault.path.strip("."), fault.message, fault.fix])) for fault in faults))
        return built

    @model_validator(mode="after")
    def _weights_fit(self) -> SentenceSimilarity:
        if min(self.matryoshka, default=1) < 1 or len(set(self.matryoshka)) < len(self.matryoshka):
            raise ValueError(f"matryoshka: got {list(self.matryoshka)}, wanted different numbers above 0, such as [384, 128, 64]")
        if self.matryoshka_weights and len(self.matryoshka_weights) != len(self.matryoshka):
            what = f"matryoshka_weights: got {len(self.matryoshka_weights)} weights for {len(self.matryoshka)} widths"
            raise ValueError(f"{what}, wanted one for each")
        if min(self.matryoshka_weights, default=1.0) <= 0:
            raise ValueError("matryoshka_weights: wanted numbers above 0")
        return self

    def adds_up(self) -> bool:
        """Return whether no rows of a batch meet in the loss; where it is not named, they do."""
        return bool(getattr(self.loss, "additive", False))

    def headline(self) -> str:
        """Return the score that picks the best step."""
        needs_scores = getattr(self.loss, "needs_scores", True)
        return PRIMARY[self.measure] if self.measure != "auto" else PRIMARY["similarity" if needs_scores else "retrieval"]

    def decided(self, work: Any) -> SentenceSimilarity:
        """Return the settings with what the rows decided."""
        return self.model_copy(update={"loss": work.objective, "measure": work.measure, "pooling": work.pooling})

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        from luthier.models.sentence_encoder import own_pooling

        if data.long_texts == "windows":
            what = "a text has one vector, and windows of it would have several"
            raise ConfigError(
                [Fault("data.long_texts", what, "use data.long_texts=truncate, and data.max_length as long as the model takes")]
            )
        usual = own_pooling(model.path)

        def load() -> Rows:
            rows = load_records(data, lambda row: read_record(row, data, self.negative))
            return replace(rows, facts={**rows.facts, "pooling": usual})

        reader = Reader(
            settings={"task": self.registered_name, "negative": self.negative, "pooling": usual},
            load=load,
            labels=lambda _: (),
            lay_out=lambda table, tokenizer, longest, _: lay_out(table, tokenizer, longest),
        )
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> SentenceSimilarityWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if a loss over classes is wanted, or the loss and the rows do not fit.
            DataError: if scores are missing, or all the same.
        """
        from luthier.models.pretrained import open_tokenizer

        if loss is not None:
            known = ", ".join(pair_losses.names())
            fault = Fault("loss", "losses are over classes, and sentence-similarity has none", f"leave it out, or use task.loss: {known}")
            raise ConfigError([fault])
        tokenizer = open_tokenizer(prepared.tokenizer)
        train_N = prepared.splits["train"].targets if "train" in prepared.splits else np.zeros(0)
        objective = _objective(self.loss, train_N, needed="train" in prepared.splits)
        known_N = train_N[np.isfinite(train_N)]
        return SentenceSimilarityWork(
            tokenizer=tokenizer,
            objective=objective,
            max_length=prepared.max_length,
            pooling=prepared.facts.get("pooling", "mean") if self.pooling == "auto" else self.pooling,
            normalise=self.normalise,
            low=float(known_N.min()) if objective.needs_scores and len(known_N) else 0.0,
            high=float(known_N.max()) if objective.needs_scores and len(known_N) else 1.0,
            measure=_measured(self.measure, prepared.splits),
            matryoshka=self.matryoshka,
            matryoshka_weights=self.matryoshka_weights or (1.0,) * len(self.matryoshka),
            augment=Augmenter(data.augment, WordMarks.of(tokenizer)) if data.augment else None,
        )

    def reopen(self, folder: Path) -> SentenceSimilarityWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        settings = read_settings(folder)
        objective, faults = build_registered(pair_losses, settings["objective"], path="task.loss")
        if objective is None:
            raise ConfigError(faults, where=str(folder / SETTINGS))
        return SentenceSimilarityWork(open_tokenizer(folder), objective, **as_fields(settings, KEPT))

    def restore(self, folder: Path) -> tuple[SentenceSimilarityWork, Parts]:
        """Return the work and the encoder saved in `folder`."""
        from luthier.models.sentence_encoder import load_encoder

        return self.reopen(folder), {"model": Part(load_encoder(folder), "frozen")}


def _objective(named: Any, train_N: np.ndarray, *, needed: bool) -> PairLoss:
    """Return the loss, by the scores of the training rows where none is named.

    Raises:
        ConfigError: if the loss and the rows do not fit.
        DataError: if some rows have scores and others none, or all the same.
    """
    known_N = train_N[np.isfinite(train_N)]
    has_scores = len(known_N) > 0
    objective: PairLoss = pair_losses.get(FOR_SCORES if has_scores else FOR_PAIRS)() if named is None else named
    name = objective.registered_name
    if not needed:
        return objective
    if objective.needs_scores and not has_scores:
        raise ConfigError([Fault("task.loss", f"{name} needs scores, and the training rows have none", f"use task.loss={FOR_PAIRS}")])
    if not objective.needs_scores and has_scores and np.ptp(known_N):
        what = f"{name} takes the two texts of every row as belonging together, and the rows have scores"
        raise ConfigError([Fault("task.loss", what, f"use task.loss={FOR_SCORES}, or leave out the scores of rows that belong together")])
    if objective.needs_scores and len(known_N) < len(train_N):
        what = f"{len(train_N) - len(known_N)} of {len(train_N)} training rows have no score"
        raise DataError(what, where="data.label", fix="leave these rows out, or all scores")
    if objective.needs_scores and not np.ptp(known_N):
        what = f"all {len(known_N)} training rows have the score {known_N[0]:g}: there is nothing to learn from it"
        raise DataError(what, where="data.label", fix=f"name the column with the scores, or use task.loss={FOR_PAIRS}")
    return objective


def _measured(named: str, splits: Mapping[str, PreparedSplit]) -> str:
    """Return what is measured: correlations where all rows that are held out have scores, else retrieval.

    Raises:
        DataError: if some of them have scores and others none.
    """
    held_out = {name: split.targets for name, split in splits.items() if name != "train" and len(split)}
    found = held_out or {name: split.targets for name, split in splits.items()}
    has_scores = {name: bool(np.isfinite(scores_N).all()) for name, scores_N in found.items()}
    if named == "retrieval" or not any(has_scores.values()):
        if named == "similarity":
            what = "the rows that are held out have no scores, or some of them have none"
            raise DataError(what, where="task.measure", fix="use task.measure=retrieval, or name the column with the scores")
        return "retrieval"
    if not all(has_scores.values()):
        without = next(name for name, has in has_scores.items() if not has)
        raise DataError(f"rows of {without} have no scores, and others have", where=f"data.{without}", fix="use task.measure=retrieval")
    return "similarity"
