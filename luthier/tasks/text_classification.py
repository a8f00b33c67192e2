"""Text classification: one class, or several labels, for a text or a pair of texts.

B rows, W windows (as many as rows unless long texts were split), T tokens, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.errors import ConfigError, Fault
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.work import MIXED_SHARE, MIXED_WITH, Answer, Batch, Outputs, Part, Parts, Term, Terms, Weighted
from luthier.data.augment.augmentation import Augmenter
from luthier.data.encode import encode
from luthier.data.prepared import Prepared, PreparedSplit, Row, encoded_table
from luthier.data.section import DataSection
from luthier.data.words import WordMarks
from luthier.losses import losses
from luthier.losses.contrasts.contrast import Contrast
from luthier.losses.loss import Loss, disagreement, target_weights
from luthier.metrics.answered import Answered
from luthier.metrics.probabilities import softmax
from luthier.models.section import ModelSection
from luthier.tasks import tasks
from luthier.tasks.task import ClassWork, Task
from luthier.tasks.text.class_weights import class_weights, weight_tensor
from luthier.tasks.text.kept import as_fields, as_kept, keep
from luthier.tasks.text.started import grown_parts
from luthier.tasks.text.windows import batch_of_windows, mean_of_windows, rows_of

if TYPE_CHECKING:
    import torch

    from luthier.losses.distillation.told import Told

log = logging.getLogger("luthier")
KEPT = ("labels", "multi_label", "max_length", "stride")
DEFAULT_LOSS = {"single-label": "cross-entropy", "multi-label": "binary-cross-entropy"}


@tasks.add
class TextClassification(Task):
    """Which class, or which labels, a text has.

    Args:
        problem: auto is multi-label where `data.label_separator` is given, else single-label.
    """

    primary_metric = "accuracy"
    problem: Literal["auto", "single-label", "multi-label"] = Field(
        "auto", description="One class per text, or several labels; auto: several where data.label_separator is given."
    )

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows."""
        from luthier.tasks.text.preparation import prepare_text

        return prepare_text(data, model, multi_label=self.is_multi_label(data))

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> TextClassificationWork:
        """Return the work on prepared rows.

        Raises:
            ConfigError: if the loss does not fit the problem.
        """
        from luthier.models.pretrained import open_tokenizer

        problem = "multi-label" if prepared.multi_label else "single-label"
        loss = loss or losses.get(DEFAULT_LOSS[problem])()
        if problem not in loss.problems:
            fix = f"use loss={DEFAULT_LOSS[problem]}"
            raise ConfigError([Fault("loss.type", f"{loss.registered_name} does not fit a {problem} problem", fix)])
        if loss.contrast is not None and problem == "multi-label":
            what = f"{loss.contrast.registered_name} tells rows of one class from others, and here a row has several labels"
            raise ConfigError([Fault("loss.contrast", what, "leave loss.contrast out")])
        tokenizer = open_tokenizer(prepared.tokenizer)
        return TextClassificationWork(
            tokenizer=tokenizer,
            labels=prepared.labels,
            multi_label=prepared.multi_label,
            max_length=prepared.max_length,
            stride=data.window_stride if data.long_texts == "windows" else None,
            loss=loss,
            class_weights=class_weights(loss, prepared) if "train" in prepared.splits else None,
            augment=Augmenter(data.augment, WordMarks.of(tokenizer)) if data.augment else None,
        )

    def restore(self, folder: Path) -> tuple[TextClassificationWork, Parts]:
        """Return the work and the classifier saved in `folder`."""
        from luthier.models.classifier import load_classifier

        return self.reopen(folder), {"model": Part(load_classifier(folder), "frozen")}

    def reopen(self, folder: Path) -> TextClassificationWork:
        """Return the work whose tokenizer and settings are saved in `folder`."""
        from luthier.models.pretrained import open_tokenizer

        tokenizer = open_tokenizer(folder)
        settings = read_settings(folder) if (folder / SETTINGS).is_file() else _settings_of_plain(folder, tokenizer)
        loss = losses.get(DEFAULT_LOSS["multi-label" if settings["multi_label"] else "single-label"])()
        return TextClassificationWork(tokenizer, **as_fields(settings, KEPT), loss=loss)

    def is_multi_label(self, data: DataSection) -> bool:
        """Return whether a row can have several labels."""
        return self.problem == "multi-label" or (self.problem == "auto" and data.label_separator is not None)


@dataclass(frozen=True)
class TextClassificationWork(ClassWork):
    """Text classification with known labels and tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        labels: Names of the C classes.
        multi_label: Whether each label is a yes or no of its own.
        max_length: Longest window in tokens.
        stride: Tokens that windows share; None cuts long texts instead.
        loss: What is minimised.
        class_weights: Weight of each class, or None.
        augment: What changes the texts of training rows, or None.
    """

    tokenizer: Any
    labels: tuple[str, ...]
    multi_label: bool
    max_length: int
    stride: int | None
    loss: Loss
    class_weights: tuple[float, ...] | None = None
    augment: Augmenter | None = None

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the classifier, its vocabulary grown to the tokenizer's, and its new parameters."""
        from luthier.models.classifier import start_classifier

        loaded = start_classifier(model, self.labels, multi_label=self.multi_label, cosine_scale=self.loss.cosine_scale)
        return grown_parts(loaded, self.tokenizer)

    @property
    def draws(self) -> bool:
        """Whether `item` draws from its generator."""
        return self.augment is not None

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Return the row with its texts changed where `data.augment` says so."""
        return row if self.augment is None else self.augment(row, rng)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the windows of the rows, padded to the longest, with the row of each window in `window_row`."""
        import torch

        batch = batch_of_windows(rows, self.tokenizer)
        labels = {} if rows[0].target is None else {"labels": torch.from_numpy(np.stack([np.asarray(row.target) for row in rows]))}
        return replace(batch, targets={**labels, **batch.targets})

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the summed class weights of the batch's targets; and what terms beside the loss are divided by."""
        targets = batch.targets["labels"]
        weights = {"loss": float(target_weights(targets, weight_tensor(self.class_weights, like=targets)).sum())}
        weights |= {name: float(targets.numel()) for name in ("r_drop", "smart") if getattr(self.loss, name)}
        if self.contrast is not None:
            weights["contrast"] = float(self.contrast.anchors(targets).sum())
        return weights

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term."""
        return self.losses_and_scores(parts, batch)[0]

    def losses_and_scores(self, parts: Parts, batch: Batch) -> tuple[Terms, torch.Tensor]:
        """Return the loss, of two passes their mean; beside it what `loss.r_drop` and `loss.contrast` ask for; and the scores."""
        terms: Terms = {}
        with ExitStack() as watched:
            vectors = watched.enter_context(self._head_input(parts)) if self.contrast is not None else None
            logits_BC = self.scores(parts, batch)
            if self.contrast is not None and vectors is not None:
                vectors_BH = mean_of_windows(vectors(batch.inputs["attention_mask"]), batch)
                found = self.contrast(vectors_BH, batch.targets["labels"])
                terms["contrast"] = Term(found.sum, found.weight, self.contrast.weight)
        value = self._value(logits_BC, batch)
        if not self.loss.r_drop:
            return {"loss": Term(value.sum, value.weight), **terms}, logits_BC
        again_BC = self.scores(parts, batch)
        mean = (value.sum + self._value(again_BC, batch).sum) / 2
        apart = self.apart(logits_BC, again_BC, batch)
        return {"loss": Term(mean, value.weight), "r_drop": Term(apart.sum, apart.weight, self.loss.r_drop), **terms}, logits_BC

    def apart(self, one_BC: torch.Tensor, other_BC: torch.Tensor, batch: Batch) -> Weighted:
        """Return how far two scores of the same rows are apart."""
        return disagreement(one_BC, other_BC, batch.targets["labels"])

    @property
    def contrast(self) -> Contrast | None:
        """What compares the rows of a batch, or None."""
        assert self.loss.contrast is None or isinstance(self.loss.contrast, Contrast)
        return self.loss.contrast

    def _head_input(self, parts: Parts) -> AbstractContextManager[Callable[[torch.Tensor], torch.Tensor]]:
        from luthier.models.head_input import head_input

        return head_input(parts["model"].module, len(self.labels))

    def scores(self, parts: Parts, batch: Batch) -> torch.Tensor:
        """Return the scores of a pass; those of mixed vectors are the scores mixed, for the last layer is linear."""
        mixup, logits_BC = self.loss.mixup, self._logits(parts, batch)
        if mixup is None or mixup.at != "head" or MIXED_WITH not in batch.targets:
            return logits_BC
        share = batch.targets[MIXED_SHARE]
        return share * logits_BC + (1 - share) * logits_BC[batch.targets[MIXED_WITH]]

    def _value(self, logits_BC: torch.Tensor, batch: Batch) -> Weighted:
        """Return the loss; of mixed rows that with their own labels and that with the other row's, each by its share."""
        targets = batch.targets["labels"]
        class_weight_C = weight_tensor(self.class_weights, like=targets)
        value = self.loss(logits_BC, targets, class_weight_C)
        if MIXED_WITH not in batch.targets:
            return value
        share, other = batch.targets[MIXED_SHARE], self.loss(logits_BC, targets[batch.targets[MIXED_WITH]], class_weight_C)
        return Weighted(share * value.sum + (1 - share) * other.sum, value.weight)

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the classes."""
        return {"loss": self.labels}

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the scores of the rows."""
        from luthier.losses.distillation.told import Classes, YesNo

        scores_BC = mean_of_windows(given.logits, batch)
        return {"loss": YesNo(scores_BC) if self.multi_label else Classes(scores_BC)}

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows, or of labels of all rows."""
        return {"loss": float(batch.targets["labels"].numel())}

    def outputs(self, parts: Parts, batch: Batch) -> Outputs:
        """Return the class scores of each row, in float32."""
        logits_BC = self._logits(parts, batch).float().cpu().numpy()
        targets = batch.targets["labels"].cpu().numpy() if "labels" in batch.targets else None
        return Outputs(np.asarray(batch.ids), logits_BC, targets)

    def embeddings(self, parts: Parts, batch: Batch) -> np.ndarray:
        """Return the mean token state of each row's windows from the encoder, `(B, H)`."""
        from luthier.models.pooled import pool_mean

        encoder: Any = parts["model"].module.base_model
        states = encoder(**batch.inputs)
        hidden_WTH = getattr(states, "last_hidden_state", None)
        hidden_WTH = states[0] if hidden_WTH is None else hidden_WTH
        return mean_of_windows(pool_mean(hidden_WTH, batch.inputs["attention_mask"]), batch).float().cpu().numpy()

    def answered(self, outputs: Outputs) -> Answered:
        """Return outputs with their truth, for metrics."""
        assert outputs.targets is not None
        return Answered(outputs.ids, self._probabilities(outputs.logits_BC), outputs.targets, self.labels, self.multi_label)

    def answers(self, outputs: Outputs) -> list[Answer]:
        """Return the most probable class of each row, or its labels of at least 0.5, with all probabilities."""
        answers = []
        for row in self._probabilities(outputs.logits_BC):
            order = np.argsort(-row, kind="stable")
            probabilities = {self.labels[index]: round(float(row[index]), 6) for index in order}
            label = [self.labels[index] for index in order if row[index] >= 0.5] if self.multi_label else self.labels[order[0]]
            answers.append(Answer(label, probabilities))
        return answers

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts as rows, numbered from 0."""
        windows = self.stride is not None
        encoded = encode(self.tokenizer, texts, pairs, max_length=self.max_length, windows=windows, stride=self.stride or 0)
        return rows_of(encoded)

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return labelled rows of other files, encoded; rows that cannot be used, or have an unknown label, are counted and said."""
        from luthier.data.rows import load_rows
        from luthier.tasks.text.preparation import encode_table, targets_of

        rows = load_rows(data, multi_label=self.multi_label, labels=self.labels)
        for note in rows.notes:
            log.info(note)
        splits = {}
        for name, table in rows.splits.items():
            encoded = encode_table(
                self.tokenizer, table, max_length=self.max_length, windows=self.stride is not None, stride=self.stride or 0
            )
            targets = targets_of(table["label"], self.labels, multi_label=self.multi_label)
            splits[name] = PreparedSplit(encoded_table(table, encoded, targets))
        return splits

    def save(self, parts: Parts, folder: Path) -> None:
        """Write the classifier, the tokenizer and what `restore` needs."""
        from luthier.models.classifier import save_classifier

        save_classifier(parts["model"].module, folder)
        self.save_settings(folder)

    def save_settings(self, folder: Path) -> None:
        """Write the tokenizer and what `reopen` needs."""
        keep(folder, self.tokenizer, TextClassification.registered_name, as_kept(self, KEPT))

    def describe(self) -> dict[str, Any]:
        """Return labels, lengths and loss."""
        return {"labels": list(self.labels), "multi_label": self.multi_label, "max_length": self.max_length, "loss": self.loss.model_dump()}

    def _logits(self, parts: Parts, batch: Batch) -> torch.Tensor:
        return mean_of_windows(parts["model"].module(**batch.inputs).logits, batch)

    def _probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-logits_BC.astype(np.float64))) if self.multi_label else softmax(logits_BC)


def _settings_of_plain(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Return the settings of a classifier that was saved by plain transformers."""
    from luthier.models.pretrained import load_config, max_length

    config = load_config(str(folder))
    labels = [config.id2label[index] for index in sorted(config.id2label)]
    multi_label = config.problem_type == "multi_label_classification"
    return {"labels": labels, "multi_label": multi_label, "max_length": min(512, max_length(tokenizer, config)), "stride": None}
