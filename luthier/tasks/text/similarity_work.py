"""Sentence similarity at work: texts to vectors, losses over pairs, and how well vectors do.

B rows, W texts of all rows, N rows of a split, H width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Answer, Batch, Parts, RowOutputs, Term, Terms
from luthier.data.augment.augmentation import Augmenter
from luthier.data.prepared import PreparedSplit, Row
from luthier.data.records import load_records
from luthier.data.section import DataSection
from luthier.losses.pairs.pair_loss import Compared, PairLoss
from luthier.metrics import retrieval
from luthier.metrics.numbers import compared_numbers
from luthier.metrics.row_sums import RowSums
from luthier.models.section import ModelSection
from luthier.tasks.task import RowWork
from luthier.tasks.text.kept import as_kept, keep
from luthier.tasks.text.records_preparation import encoded_splits
from luthier.tasks.text.sentence_pairs import encode_apart, joined_places, lay_out, places_of, read_record
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, rows_of

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

TASK = "sentence-similarity"
SIMILARITY = ("spearman", "pearson")
PRIMARY = {"similarity": "spearman", "retrieval": "ndcg@10"}
MOST_MISTAKES = 20
KEPT = ("max_length", "pooling", "normalise", "low", "high", "measure", "matryoshka", "matryoshka_weights")


class Said(NamedTuple):
    """What the model says of a row: the vectors of the first and second text, a number for each, and the score where it is known."""

    vectors: list[np.ndarray]
    keys: tuple[int, ...]
    score: float | None


@dataclass(frozen=True)
class SentenceSimilarityWork(RowWork):
    """Sentence similarity with a known tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        objective: What is minimised.
        max_length: Longest text in tokens.
        pooling: How tokens become a vector: mean, cls or max.
        normalise: Whether vectors have length 1.
        low: The lowest training score; it stands for a cosine of 0.
        high: The highest one, for a cosine of 1.
        measure: similarity or retrieval.
        matryoshka: Widths that the loss is taken over; empty: the whole.
        matryoshka_weights: How much each of them counts.
        augment: What changes the texts of training rows, or None.
    """

    answers_alone: ClassVar[bool] = True
    """One text has an answer too, where rows are pairs: its vector."""

    tokenizer: Any
    objective: PairLoss
    max_length: int
    pooling: str
    normalise: bool
    low: float
    high: float
    measure: str
    matryoshka: tuple[int, ...]
    matryoshka_weights: tuple[float, ...]
    augment: Augmenter | None = None

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the encoder, and its new parameters."""
        from luthier.models.sentence_encoder import start_encoder

        loaded = start_encoder(model)
        width = loaded.model.config.hidden_size
        if max(self.matryoshka, default=0) > width:
            what = f"got {max(self.matryoshka)}, but the vectors of {model.path} have {width} numbers"
            raise ConfigError([Fault("task.matryoshka", what, f"numbers of at most {width}")])
        return grown_parts(loaded, self.tokenizer)

    def going_on(self, old: SentenceSimilarityWork) -> SentenceSimilarityWork:
        """Return the work on the scale of the old scores, where there were any."""
        return self if old.high == old.low else replace(self, low=old.low, high=old.high)

    @property
    def draws(self) -> bool:
        """Whether `item` draws from its generator."""
        return self.augment is not None

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Return the row with its texts changed where `data.augment` says so."""
        return row if self.augment is None else self.augment(row, rng)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the texts of the rows as one padded batch, with their places."""
        batch = batch_of_windows(rows, self.tokenizer)
        return replace(batch, targets={**batch.targets, **places_of(rows)})

    def joined(self, batches: Sequence[Batch]) -> Batch:
        """Return what the loss needs of several batches as if they were one, without inputs."""
        return Batch([id_ for batch in batches for id_ in batch.ids], {}, joined_places([batch.targets for batch in batches]))

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return what the loss is divided by."""
        return {"loss": self.objective.weight(len(batch.ids))}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the loss over the rows."""
        return self.terms(self.vectors(parts, batch), batch)

    def vectors(self, parts: Parts, batch: Batch) -> torch.Tensor:
        """Return the vector of each text, `(W, H)`, in float32, as long as it is."""
        return self._read(self.given(parts, batch), batch)

    def _read(self, given: Any, batch: Batch) -> torch.Tensor:
        from luthier.models.sentence_encoder import pooled

        return pooled(given.last_hidden_state, batch.inputs["attention_mask"], self.pooling)

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the vectors of the texts."""
        from luthier.losses.distillation.told import Vectors

        return {"loss": Vectors(self._read(given, batch), batch.targets["window_row"])}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows."""
        return {"loss": float(len(batch.ids))}

    def terms(self, vectors_WH: torch.Tensor, batch: Batch) -> Terms:
        """Return the loss over vectors; where several widths are named, the mean of theirs, by their weights.

        Args:
            vectors_WH: Vectors of the texts of the batch.
            batch: Its places; inputs are not looked at.
        """
        import torch

        scores_B = batch.targets.get("score")
        scaled_B = None if scores_B is None else (scores_B - self.low) / (self.high - self.low)
        widths = self.matryoshka or (vectors_WH.shape[1],)
        weights = np.array(self.matryoshka_weights or (1.0,)) / sum(self.matryoshka_weights or (1.0,))
        total = vectors_WH.new_zeros(())
        with torch.autocast(vectors_WH.device.type, enabled=False):
            for width, weight in zip(widths, weights.tolist(), strict=True):
                compared = Compared.of(vectors_WH, batch.targets, width=width, scores_B=scaled_B)
                total = total + weight * self.objective(compared)
        return {"loss": Term(total, total.new_tensor(self.objective.weight(len(batch.ids))))}

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return of each row the vectors of its texts, and its score where it is known."""
        from torch.nn import functional

        vectors_WH = self.vectors(parts, batch)
        if self.normalise:
            vectors_WH = functional.normalize(vectors_WH, dim=-1)
        vectors, keys = vectors_WH.cpu().numpy(), batch.targets["key"].tolist()
        starts = [*batch.targets["first"].tolist(), len(keys)]
        scores = batch.targets["score"].tolist() if "score" in batch.targets else [math.nan] * len(batch.ids)
        spans = [slice(start, end) for start, end in zip(starts, starts[1:], strict=False)]
        known = [None if math.isnan(score) else score for score in scores]
        said = [Said(list(vectors[span][:2]), tuple(keys[span][:2]), score) for span, score in zip(spans, known, strict=True)]
        return RowOutputs.of(batch.ids, said)

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return correlations where all rows have scores, else how well first texts find their second ones."""
        said: list[Said] = list(outputs.said)
        if self.measure == "similarity" and all(one.score is not None for one in said):
            return self._correlated(outputs.ids, said)
        firsts_NH, seconds_NH = (np.stack([one.vectors[place] for one in said]) for place in (0, 1))
        keys_N2 = np.array([one.keys for one in said], np.int64)
        return retrieval.found_among(outputs.ids, firsts_NH, seconds_NH, keys_N2, primary=PRIMARY["retrieval"])

    @property
    def rows_meet(self) -> bool:
        """Whether second texts are sought among those of all rows."""
        return self.measure != "similarity"

    def mean_said(self, said: Sequence[Said]) -> Said:
        """Return vectors whose cosine is the mean of the cosines: those of each model with length 1, one after the other."""
        each = [[vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in one.vectors] for one in said]
        return Said([np.concatenate(vectors) for vectors in zip(*each, strict=True)], said[0].keys, said[0].score)

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the cosine of two texts, or the vector of one."""
        return [Answer(_cosine(one.vectors) if len(one.vectors) > 1 else one.vectors[0].tolist(), {}) for one in outputs.said]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return the vectors of the first and the second text, one after the other."""
        return [np.concatenate(one.vectors) for one in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts, or pairs of them, as rows, numbered from 0."""
        rows = [[text] for text in texts] if pairs is None else [list(both) for both in zip(texts, pairs, strict=True)]
        return rows_of(encode_apart(self.tokenizer, rows, max_length=self.max_length))

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files, encoded; rows that cannot be used are counted and said."""
        rows = load_records(data, lambda row: read_record(row, data, None))
        return encoded_splits(rows, lambda table: lay_out(table, self.tokenizer, self.max_length))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the encoder, the tokenizer, and what `restore` and sentence-transformers need."""
        from luthier.models.sentence_encoder import save_encoder

        settings: dict[str, Any] = {"pooling": self.pooling, "normalise": self.normalise, "max_length": self.max_length}
        save_encoder(parts["model"].module, folder, **settings)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, TASK, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return the loss, lengths, and how vectors are made."""
        return {"objective": self.objective.model_dump(mode="json"), **as_kept(self, KEPT)}

    def _correlated(self, ids_N: np.ndarray, said: Sequence[Said]) -> RowSums:
        """Return the correlations of cosines with scores, of each width too, and the rows that are furthest off."""
        truth_N = np.array([one.score for one in said], np.float64)
        cosines_N = np.array([_cosine(one.vectors) for one in said])
        span = float(np.ptp(truth_N)) or 1.0
        off_N = np.abs((truth_N - truth_N.min()) / span - cosines_N)
        worst = np.argsort(-off_N, kind="stable")[:MOST_MISTAKES]
        details: dict[str, Any] = {
            "mistakes": [{"id": int(ids_N[row]), "truth": float(truth_N[row]), "predicted": float(cosines_N[row])} for row in worst]
        }
        if self.matryoshka:
            details["spearman_by_width"] = {str(width): _spearman(ids_N, truth_N, said, width) for width in self.matryoshka}
        found = compared_numbers(ids_N, truth_N, cosines_N, primary=PRIMARY["similarity"], details=details)

        def correlations(sums_RK: np.ndarray) -> Mapping[str, np.ndarray]:
            every = found.formula(sums_RK)
            return {name: every[name] for name in SIMILARITY}

        return replace(found, formula=correlations)


def _cosine(vectors: Sequence[np.ndarray], width: int | None = None) -> float:
    """Return the cosine of the angle between the first two vectors, or between their first `width` numbers."""
    first_H, second_H = (vector[:width].astype(np.float64) for vector in vectors[:2])
    return float(first_H @ second_H / max(float(np.linalg.norm(first_H) * np.linalg.norm(second_H)), 1e-12))


def _spearman(ids_N: np.ndarray, truth_N: np.ndarray, said: Sequence[Said], width: int) -> float | None:
    cosines_N = np.array([_cosine(one.vectors, width) for one in said])
    return compared_numbers(ids_N, truth_N, cosines_N, primary="spearman").scores(keys=["spearman"], resamples=0)["spearman"].value
