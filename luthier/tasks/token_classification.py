"""Token classification: a tag for each word, such as names, chunks, parts of speech, or where the words of Chinese begin.

B rows, W windows (as many as rows unless long texts were split), T tokens, M words that are read, S tokens that are learnt, C tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from luthier.core.errors import ConfigError, Fault, refuse
from luthier.core.model_folder import read_settings
from luthier.core.work import Answer, Batch, Part, Parts, RowOutputs, Term, Terms
from luthier.data.prepared import Prepared, PreparedSplit, Row
from luthier.data.section import DataSection
from luthier.losses.loss import Loss, target_weights
from luthier.metrics.row_sums import RowSums
from luthier.metrics.spans import SCORES, found_spans
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import RowWork, Task
from luthier.tasks.text.class_weights import weight_tensor, weights_of_classes
from luthier.tasks.text.kept import as_fields, as_kept, keep
from luthier.tasks.text.records_preparation import encoded_splits, prepare_records
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, rows_of
from luthier.tasks.tokens.decoding import Said, decide, said_of
from luthier.tasks.tokens.encoding import encode_words
from luthier.tasks.tokens.places import Places
from luthier.tasks.tokens.preparation import FACTS, laid_words, record_of, stride_of, tagged_reader
from luthier.tasks.tokens.rows import Habits, habits_of, load_tagged
from luthier.tasks.tokens.schemes import units_of
from luthier.tasks.tokens.words import Manner, words_in

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told
    from luthier.models.linear_chain import Chain

KEPT = ("labels", "max_length", "stride", "scheme", "manner", "written", "tag_names", "crf", "all_pieces")
MOST_MISTAKES = 20


@tasks.add
class TokenClassification(Task):
    """Which tag each word of a text has, and so which spans there are."""

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "rows"
    primary_metric = "f1"
    own_scores: ClassVar[tuple[str, ...]] = SCORES
    names_labels: ClassVar[bool] = True
    has_untuned: ClassVar[bool] = False
    scheme: Literal["auto", "iob2", "iob1", "bioes", "bilou", "io", "plain"] = Field(
        "auto", description="What the tags are written in; auto finds it and says so. plain: every word has a tag of its own, no spans."
    )
    crf: bool = Field(
        False, description="Learn which tag follows which too (a linear-chain CRF over the words); plain transformers does not know it."
    )
    label_all_pieces: bool = Field(False, description="Learn every piece of a word; else its first alone, which is the one that answers.")
    tag_names: tuple[str, ...] | None = Field(None, description="Names of the tags from 0 on, where the rows have numbers.")

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows.

        Raises:
            ConfigError: if something is wanted that does not go with tags of words.
        """
        not_followed = "changes the words of a text, and their tags would not follow"
        wrong = [
            ("model.scratch", model.scratch is not None, "a model from nothing writes text; it has no tags", "leave model.scratch out"),
            ("data.text_pair", data.text_pair is not None, "one text has tags", "leave data.text_pair out"),
            ("data.augment", bool(data.augment), not_followed, "leave data.augment out"),
        ]
        refuse(wrong)
        reader = tagged_reader(data, task=self.registered_name, scheme=self.scheme, names=self.tag_names)
        return prepare_records(data, model, reader)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> TokenClassificationWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if the loss does not fit.
        """
        from luthier.losses.cross_entropy import CrossEntropy
        from luthier.models.pretrained import open_tokenizer

        self._require_fit(loss)
        loss = None if self.crf else loss or CrossEntropy()
        return TokenClassificationWork(
            tokenizer=open_tokenizer(prepared.tokenizer),
            labels=prepared.labels,
            max_length=prepared.max_length,
            stride=stride_of(data),
            scheme=prepared.facts[FACTS]["scheme"],
            manner=prepared.facts[FACTS]["manner"],
            written=self.scheme,
            tag_names=self.tag_names,
            crf=self.crf,
            all_pieces=self.label_all_pieces,
            loss=loss,
            class_weights=None if loss is None or "train" not in prepared.splits else _class_weights(loss, prepared),
        )

    def reopen(self, folder: Path) -> TokenClassificationWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.losses.cross_entropy import CrossEntropy
        from luthier.models.pretrained import open_tokenizer

        kept = as_fields(read_settings(folder), KEPT)
        return TokenClassificationWork(open_tokenizer(folder), **kept, loss=None if kept["crf"] else CrossEntropy())

    def restore(self, folder: Path) -> tuple[TokenClassificationWork, Parts]:
        """Return the work and the model saved in `folder`."""
        from luthier.models.tagger import load_tagger

        return self.reopen(folder), {"model": Part(load_tagger(folder), "frozen")}

    def _require_fit(self, loss: Loss | None) -> None:
        faults = []
        if self.crf and self.label_all_pieces:
            faults.append(Fault("task.label_all_pieces", "a CRF is over words, not over their pieces", "leave it out, or task.crf"))
        if self.crf and loss is not None:
            faults.append(Fault("loss", "a CRF has a loss of its own", "leave loss out, or task.crf"))
        elif loss is not None and ("single-label" not in loss.problems or loss.cosine_scale is not None):
            faults.append(Fault("loss.type", f"{loss.registered_name} does not fit one tag for each word", "use loss=cross-entropy"))
        if loss is not None and loss.r_drop:
            faults.append(Fault("loss.r_drop", f"{self.registered_name} does not know it", "leave loss.r_drop out"))
        if faults:
            raise ConfigError(faults)


@dataclass(frozen=True)
class TokenClassificationWork(RowWork):
    """Token classification with known tags and tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        labels: Names of the C tags, in IOB2 where they are spans.
        max_length: Longest window in tokens.
        stride: Tokens that windows share; None cuts long texts instead.
        scheme: What the tags of the training rows were written in.
        manner: How texts have words.
        written: What the recipe says of the scheme of rows.
        tag_names: Names of the tags where rows have numbers.
        crf: Whether there is a chain over the tags.
        all_pieces: Whether every piece of a word is learnt.
        loss: What is minimised where there is no chain.
        class_weights: Weight of each tag, or None.
    """

    tokenizer: Any
    labels: tuple[str, ...]
    max_length: int
    stride: int | None
    scheme: str
    manner: Manner
    written: str
    tag_names: tuple[str, ...] | None
    crf: bool
    all_pieces: bool
    loss: Loss | None = None
    class_weights: tuple[float, ...] | None = None

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return a model with a score for each tag at each token, and its new parameters."""
        from luthier.models.tagger import start_tagger

        return grown_parts(start_tagger(model, self.labels, chain=self.crf), self.tokenizer)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the windows of the rows, padded to the longest, with where their words are read and what is learnt at which tokens."""
        batch = batch_of_windows(rows, self.tokenizer)
        places = Places(batch.inputs["input_ids"].shape[1], self.labels, all_pieces=self.all_pieces)
        return replace(batch, targets={**places.of(rows), **batch.targets})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of words or pieces that are learnt, or their summed class weights."""
        if self.crf:
            return {"loss": float(len(batch.targets["reads"]))}
        labels_S = batch.targets["labels"]
        return {"loss": float(target_weights(labels_S, weight_tensor(self.class_weights, like=labels_S)).sum())}

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the loss over the words or pieces that are learnt."""
        logits_NC = self._logits(parts, batch)
        if not self.crf:
            assert self.loss is not None
            labels_S = batch.targets["labels"]
            value = self.loss(logits_NC[batch.targets["learnt"]], labels_S, weight_tensor(self.class_weights, like=labels_S))
            return {"loss": Term(value.sum, value.weight)}
        from luthier.models.linear_chain import negative_log_likelihood
        from luthier.tasks.tokens.decoding import rows_of_words

        scores_MC = logits_NC[batch.targets["reads"]].float()
        scores_BNC, present_BN = rows_of_words(scores_MC, batch.targets["lengths"])
        tags_BN, _ = rows_of_words(batch.targets["tags"].clamp(min=0), batch.targets["lengths"])
        unlikely_B = negative_log_likelihood(scores_BNC, tags_BN, present_BN, self._chain(parts, scores_BNC))
        return {"loss": Term(unlikely_B.sum(), scores_MC.new_tensor(float(len(scores_MC))))}

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the tags."""
        return {"loss": self.labels}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the scores of the words that are read; with a chain the logarithms of how probable each tag is, whatever the others."""
        from luthier.losses.distillation.told import Classes

        scores_MC = self._read(given, batch)[batch.targets["reads"]].float()
        if not self.crf:
            return {"loss": Classes(scores_MC)}
        from luthier.models.linear_chain import log_marginals
        from luthier.tasks.tokens.decoding import rows_of_words

        scores_BNC, present_BN = rows_of_words(scores_MC, batch.targets["lengths"])
        return {"loss": Classes(log_marginals(scores_BNC, present_BN, self._chain(parts, scores_BNC))[present_BN])}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of words that are read."""
        return {"loss": float(len(batch.targets["reads"]))}

    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return of each row the best tags that are allowed after each other, and the true ones where they are known."""
        scores_MC = self._logits(parts, batch)[batch.targets["reads"]].float()
        chain = self._lawful(self._chain(parts, scores_MC) if self.crf else None, scores_MC.device)
        decided = decide(scores_MC, batch.targets["lengths"], chain, learnt=self.crf)
        rows = zip(map(json.loads, batch.records), decided.tags, decided.probabilities, decided.numbers, strict=True)
        return RowOutputs.of(batch.ids, [said_of(record, self.labels, *found) for record, *found in rows])

    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return how many spans (with plain tags, words) were found, and the rows with the most that were not."""
        said: list[Said] = list(outputs.said)
        true = [units_of(one.record["tags"], self.scheme) for one in said]
        found = [units_of(one.tags, self.scheme) for one in said]
        words_N2 = np.array([[_num_equal(one.tags, one.record["tags"]), len(one.tags)] for one in said], np.float64)
        wrong_N = np.array([len(set(wanted) ^ set(units)) for wanted, units in zip(true, found, strict=True)])
        worst = [int(row) for row in np.argsort(-wrong_N, kind="stable")[:MOST_MISTAKES] if wrong_N[row]]
        mistakes = [
            {
                "id": int(outputs.ids[row]),
                "truth": said[row].words(said[row].record["tags"], self.scheme) or ["nothing"],
                "predicted": said[row].words(said[row].tags, self.scheme) or ["nothing"],
            }
            for row in worst
        ]
        return found_spans(outputs.ids, true, found, words_N2, details={"mistakes": mistakes})

    def answers(self, outputs: RowOutputs) -> list[Answer]:
        """Return the spans of each row (with plain tags, its words), each with label, text, offsets and score."""
        return [Answer(said.answers(self.scheme), {}) for said in outputs.said]

    def numbers(self, outputs: RowOutputs) -> list[np.ndarray]:
        """Return of each row the best score of each word, and the score of its tags together."""
        return [said.numbers for said in outputs.said]

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts as rows, numbered from 0; their words are found as those of the training rows were."""
        spans = [words_in(text, self.manner) for text in texts]
        words = encode_words(self.tokenizer, texts, spans, max_length=self.max_length, stride=self.stride)
        return rows_of(words.encoded, [record_of(*row) for row in zip(texts, spans, words.places, words.pieces, strict=True)])

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return rows of other files with their tags, encoded; rows that cannot be used are counted and said."""
        found = habits_of(data, scheme=self.written, names=self.tag_names)
        scheme = self.scheme if self.scheme in ("plain", "io") else found.scheme
        rows = load_tagged(data, Habits(scheme, self.manner), self.tag_names)  # type: ignore[arg-type]
        return encoded_splits(rows, lambda table: laid_words(table, self.tokenizer, self.max_length, self.labels, self.stride))

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the model, the tokenizer and what `restore` needs."""
        from luthier.models.tagger import save_tagger

        save_tagger(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, TokenClassification.registered_name, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return tags, lengths, scheme, and what is learnt."""
        return as_kept(self, KEPT)

    def _logits(self, parts: Parts, batch: Batch) -> torch.Tensor:
        """Return the scores of all tokens, window after window, `(W * T, C)`; of tokens that an adapter put before them none."""
        return self._read(self.given(parts, batch), batch)

    def _read(self, given: Any, batch: Batch) -> torch.Tensor:
        logits_WTC = given.logits
        length = batch.inputs["input_ids"].shape[1]
        scores: torch.Tensor = logits_WTC[:, logits_WTC.shape[1] - length :].reshape(-1, logits_WTC.shape[-1])
        return scores

    def _chain(self, parts: Parts, scores: torch.Tensor) -> Chain:
        module: Any = parts["model"].module
        chain: Chain = module.crf(scores)
        return chain

    def _lawful(self, chain: Chain | None, device: torch.device) -> Chain | None:
        """Return a chain that forbids what IOB2 forbids; with plain tags as it is."""
        from luthier.models.linear_chain import Chain, lawful_chain

        if self.scheme == "plain":
            return chain
        lawful = lawful_chain(self.labels, device)
        return lawful if chain is None else Chain(*(one + other for one, other in zip(chain, lawful, strict=True)))


def _num_equal(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(tag == wanted for tag, wanted in zip(one, other, strict=True))


def _class_weights(loss: Loss, prepared: Prepared) -> tuple[float, ...] | None:
    """Return the weight of each tag, by how many words of the training rows have it."""
    targets = prepared.splits["train"].targets
    counts_C = np.zeros(len(prepared.labels), np.int64)
    if loss.class_weights in ("balanced", "effective"):
        counts_C = np.bincount(np.concatenate([targets[row] for row in range(len(targets))]), minlength=len(prepared.labels))
    return weights_of_classes(loss, prepared.labels, counts_C, int(counts_C.sum()))
