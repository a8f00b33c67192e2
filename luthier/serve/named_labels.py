"""Answers with labels that are named when they are wanted, without training: nearest prototypes, or a model tuned on entailment.

Shapes: N texts, M examples, C labels, H width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Answer
from luthier.data.batches import evaluation_order
from luthier.metrics.answered import Answered
from luthier.metrics.baseline import TEMPERATURE
from luthier.metrics.probabilities import softmax
from luthier.models.lean.bert import give_all_positions
from luthier.serve.predictor import MAX_TOKENS, Predictor
from luthier.tasks.task import ClassWork
from luthier.tasks.text_classification import TextClassificationWork
from luthier.training.inference import most_tokens, run_batches
from luthier.training.precision import autocast

How = Literal["auto", "prototypes", "entailment"]
PLAIN_TEMPLATE, HYPOTHESIS = "{}", "This text is about {}."
Examples = Sequence[tuple[str, str]]
Scores = Callable[[Sequence[str]], np.ndarray]
AT_ONCE = 256


class NamedLabels:
    """A model that answers with labels it was never trained on.

    Args:
        labels: The labels, in the order of the scores.
        scores: From texts to the score of each label, `(N, C)`; a softmax over them gives the probabilities.
        how: prototypes or entailment.
        template: What label names stand in.
    """

    def __init__(self, labels: tuple[str, ...], scores: Scores, *, how: str, template: str) -> None:
        self.labels, self.how, self.template, self._scores = labels, how, template, scores

    @classmethod
    def open(
        cls,
        path: str | Path,
        labels: Sequence[str] = (),
        *,
        examples: Examples = (),
        how: How = "auto",
        template: str | None = None,
        precision: str = "fp32",
    ) -> NamedLabels:
        """Load a model, and let it answer with some labels.

        Args:
            path: A run folder, a model folder or a hub id: any encoder; for entailment a classifier of pairs with such a label.
            labels: Names of the labels; none: those of the examples.
            examples: Texts with their labels, a few of each; labels without any are known by their names alone.
            how: prototypes: the label whose embedded name and examples are nearest; entailment: the label of which the text is said
                most surely to imply that it fits; auto: entailment where the model has such a label and there are no examples.
            template: What a label's name stands in, as `{}`; none: the name itself, or "This text is about {}." for entailment.
            precision: fp32, bf16 or auto.

        Raises:
            ConfigError: if there are fewer than two labels, or the model cannot answer so.
            SetupError: if there is no model.

        Reference: Yin, Hay and Roth, https://arxiv.org/abs/1909.00161 (entailment); Snell et al., https://arxiv.org/abs/1703.05175
        (prototypes)
        """
        named = tuple(dict.fromkeys([*labels, *(label for _, label in examples)]))
        _check(named, labels, examples, template)
        predictor = Predictor.open(path, precision=precision)
        place = _entailment(predictor)
        if how == "auto":
            how = "entailment" if place is not None and not examples else "prototypes"
        if how == "prototypes":
            chosen = template or PLAIN_TEMPLATE
            return cls(named, by_prototypes(predictor, named, examples, chosen, use_names=bool(labels)), how=how, template=chosen)
        if place is None or examples:
            what = "examples teach it nothing" if examples else f"'{path}' has no label called entailment"
            fix = "leave --examples out" if examples else "use a classifier of pairs that has one, or --how prototypes"
            raise ConfigError([Fault("--how entailment", what, fix)])
        chosen = template or HYPOTHESIS
        return cls(named, by_entailment(predictor, named, place, chosen), how=how, template=chosen)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return the probability of each label, `(N, C)`; they are no measured frequencies."""
        return softmax(self._scores(texts))

    def answer(self, texts: Iterable[str], pairs: Iterable[str] | None = None) -> Iterator[Answer]:
        """Yield the answer to each text, in order; memory does not grow with their number.

        Args:
            texts: Any number of texts.
            pairs: None: texts stand alone.

        Raises:
            ConfigError: if there are second texts.
        """
        if pairs is not None:
            raise ConfigError([Fault("data.text_pair", "labels are named for texts that stand alone", "leave --text-pair out")])
        left = iter(texts)
        while chunk := list(islice(left, AT_ONCE)):
            for given_C in self.probabilities(chunk):
                order = np.argsort(-given_C, kind="stable")
                yield Answer(self.labels[order[0]], {self.labels[place]: round(float(given_C[place]), 6) for place in order})

    def answered(self, texts: Sequence[str], labels: Sequence[str]) -> Answered:
        """Return what it answers to texts whose labels are known, for metrics.

        Args:
            texts: The texts.
            labels: Their labels, each among those that are named.
        """
        places = {label: place for place, label in enumerate(self.labels)}
        parts = [self.probabilities(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
        truth_N = np.array([places[label] for label in labels])
        return Answered(np.arange(len(texts)), np.concatenate(parts), truth_N, self.labels)


def by_prototypes(predictor: Predictor, labels: Sequence[str], examples: Examples, template: str, *, use_names: bool) -> Scores:
    """Return what scores texts by the cosine between their embedding and that of each label: the mean of its name and its examples.

    Args:
        predictor: An encoder.
        labels: The labels.
        examples: Texts with their labels.
        template: What a name stands in.
        use_names: Whether the names of all labels count, each as one example more.
    """
    texts, owners = [text for text, _ in examples], [labels.index(label) for _, label in examples]
    if use_names:
        texts += [template.format(words_of(label)) for label in labels]
        owners += range(len(labels))
    vectors_MH = _directions(vectors(predictor, texts))
    prototypes_CH = np.zeros((len(labels), vectors_MH.shape[1]))
    np.add.at(prototypes_CH, owners, vectors_MH)
    prototypes_CH = _directions(prototypes_CH)
    return lambda new: _directions(vectors(predictor, new)) @ prototypes_CH.T / TEMPERATURE


def by_entailment(predictor: Predictor, labels: Sequence[str], place: int, template: str) -> Scores:
    """Return what scores texts by how surely each implies a sentence about each label.

    Args:
        predictor: A classifier of pairs.
        labels: The labels.
        place: Its class that means: the second text follows from the first.
        template: The sentence, with `{}` for the name of the label.
    """
    sentences = [template.format(words_of(label)) for label in labels]

    def scores(texts: Sequence[str]) -> np.ndarray:
        firsts = [text for text in texts for _ in sentences]
        logits_WC: np.ndarray = predictor.outputs(firsts, sentences * len(texts)).logits_BC
        return logits_WC[:, place].reshape(len(texts), len(sentences))

    return scores


def vectors(predictor: Predictor, texts: Sequence[str]) -> np.ndarray:
    """Return the mean token state of each text, `(N, H)`."""
    work = predictor.work
    assert isinstance(work, ClassWork)
    for part in predictor.parts.values():
        give_all_positions(part.module)  # its head may read the first alone
    rows = list(work.encode(texts))
    lengths = np.array([sum(map(len, row.windows)) for row in rows])
    order = evaluation_order(lengths, max_tokens=most_tokens(predictor.device, MAX_TOKENS))
    batches = [work.collate([rows[index] for index in some]) for some in order]
    with autocast(predictor.precision, predictor.device):
        found = list(run_batches(work.embeddings, predictor.parts, batches, device=predictor.device))
    vectors_NH = np.concatenate(found)
    return vectors_NH[np.argsort([id_ for batch in batches for id_ in batch.ids])]


def words_of(label: str) -> str:
    """Return the name of a label as words: `card_arrival` is `card arrival`."""
    return " ".join(label.replace("_", " ").split())


def _entailment(predictor: Predictor) -> int | None:
    """Return the class that means entailment, or None.

    Raises:
        ConfigError: if the model gives neither embeddings nor classes.
    """
    if not isinstance(predictor.work, ClassWork):
        what = f"a model that answers with classes or a plain encoder is wanted, got {type(predictor.work).__name__}"
        raise ConfigError([Fault("MODEL", what, "name an encoder, such as all-MiniLM-L6-v2")])
    if not isinstance(predictor.work, TextClassificationWork) or predictor.work.multi_label:
        return None
    names = [label.strip().lower() for label in predictor.work.labels]
    return names.index("entailment") if "entailment" in names else None


def _check(named: Sequence[str], labels: Sequence[str], examples: Examples, template: str | None) -> None:
    faults = []
    if len(named) < 2:
        faults.append(Fault("--labels", f"got {len(named)}, wanted two or more", "--labels refund,delivery, or --examples FILE"))
    if not all(label.strip() for label in named):
        faults.append(Fault("--labels", "got an empty label", "leave it out"))
    if len(set(labels)) < len(labels):
        twice = next(label for place, label in enumerate(labels) if label in labels[:place])
        faults.append(Fault("--labels", f"got '{twice}' twice", "name each once"))
    unknown = sorted({label for _, label in examples} - set(labels)) if labels else []
    if unknown:
        faults.append(Fault("--examples", f"has labels that are not named: {', '.join(unknown[:5])}", "name them, or leave --labels out"))
    if template is not None and template.count("{}") != 1:
        faults.append(Fault("--template", f"got {template!r}, wanted a sentence with one {{}}", f"such as {HYPOTHESIS!r}"))
    if template is not None and not labels and examples:
        faults.append(Fault("--template", "is for the names of labels, and only examples are given", "name the labels too with --labels"))
    if faults:
        raise ConfigError(faults)


def _directions(rows: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))
