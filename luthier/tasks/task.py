"""What every task is. The training loop knows these methods and nothing else of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.core.config import Registered
from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Answer, Batch, Outputs, Parts, RowOutputs, Shown, Terms, TokenOutputs

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.prepared import Prepared, PreparedSplit, Row
    from luthier.data.section import DataSection
    from luthier.losses.distillation.told import Told
    from luthier.losses.loss import Loss
    from luthier.metrics.answered import Answered
    from luthier.metrics.found import Found
    from luthier.metrics.likelihoods import Likelihoods
    from luthier.metrics.row_sums import RowSums
    from luthier.models.section import ModelSection


class Task(Registered, ABC):
    """Settings of a task (its fields), how its rows are prepared, and how work on them starts.

    `prepare` turns rows into encoded ones; `start` gives the `Work` that training and serving run.
    """

    answers_with: ClassVar[Literal["classes", "text", "rows"]] = "classes"
    """What the model answers with: classes (`ClassWork`), texts it writes (`WritingWork`), or something of each row's own (`RowWork`)."""
    primary_metric: ClassVar[str]
    smaller_is_better: ClassVar[tuple[str, ...]] = ("loss", "ece", "perplexity")
    additive: ClassVar[bool] = True
    own_scores: ClassVar[tuple[str, ...]] = ()
    """Scores of a task that does not answer with classes; empty: those of the room metrics."""

    ordered: ClassVar[bool] = False
    """Whether its classes stand in an order: then they are scored by how far off answers are, too."""

    head_gives: ClassVar[Literal["scores", "thresholds"]] = "scores"
    """What the last layer gives: the score of each class; or whether a text is of a class or one above it, given that it is not below
    the class before, for classes in an order."""

    has_untuned: ClassVar[bool] = True
    """Whether the model before tuning can answer too: it is measured beside the tuned one then."""

    has_mean: ClassVar[bool] = False
    """Whether what several models say of a row of its own kind has a mean; see `RowWork.mean_said`. Classes always have one."""

    text_scores: ClassVar[tuple[str, ...]] = ()
    """Those of `own_scores` that are made from texts written after the training; no step is chosen by them."""

    reads_apart: ClassVar[bool] = False
    """Whether an encoder reads one text and a decoder writes another."""

    names_labels: ClassVar[bool] = False
    """Whether answers have their labels by name, so that those of models which know other labels are scored together."""

    def adds_up(self) -> bool:
        """Return whether no rows of a batch meet in the loss, with the settings as they are."""
        return self.additive

    def headline(self) -> str:
        """Return the score that picks the best step, with the settings as they are."""
        return self.primary_metric

    def decided(self, work: Any) -> Task:
        """Return the settings with what the rows decided, as the run keeps them."""
        return self

    @classmethod
    def greater_is_better(cls, score: str) -> bool:
        """Return the direction of a score, such as `accuracy`, or `reviews/accuracy` of one task among several."""
        return score.rpartition("/")[2] not in cls.smaller_is_better

    @abstractmethod
    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Read, clean, split and encode the rows; reuse the cache when nothing changed."""

    @abstractmethod
    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> Work:
        """Return the work on prepared rows, with the task's default loss where none is given."""

    @abstractmethod
    def restore(self, folder: Path) -> tuple[Work, Parts]:
        """Return the work and the parts saved in a model folder."""

    def reopen(self, folder: Path) -> Work:
        """Return the work saved in a model folder, without its modules: what an adapter needs, whose base stands elsewhere.

        Raises:
            ConfigError: if the task takes no adapter.
        """
        raise ConfigError([Fault("adapter", f"{self.registered_name} takes no adapter", "leave adapter out")])


class Work(ABC):
    """A task at work with a known tokenizer: what the loop and the measuring call. A task derives its own from one of those below."""

    loss: Any = None
    """A `Loss`, or None where the task has one of its own."""

    @property
    def draws(self) -> bool:
        """Whether `item` draws from its generator; where it does not, none need be made for every row."""
        return type(self).item is not Work.item

    @abstractmethod
    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return the named modules, and the names of parameters that start from nothing."""

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Return one row as this epoch sees it: as it is; augmentation draws from `rng`, keyed by (seed, epoch, sample id)."""
        return row

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one padded batch that carries their ids."""

    @abstractmethod
    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term from the labels alone, before the forward pass."""

    @abstractmethod
    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term as (sum, weight, coefficient)."""

    @abstractmethod
    def outputs(self, parts: Parts, batch: Batch) -> Any:
        """Return what the model says of a batch."""

    @abstractmethod
    def answered(self, outputs: Any) -> Found:
        """Return outputs as what metrics read."""

    @abstractmethod
    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Return new texts as rows without targets."""

    @abstractmethod
    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Return labelled rows of other files as this work encodes them, by split."""

    @abstractmethod
    def save(self, parts: Parts, folder: Path) -> None:
        """Write model, tokenizer and settings, so that `restore` and plain transformers can load them."""

    def save_settings(self, folder: Path) -> None:
        """Write tokenizer and settings alone, so that `reopen` can load them; for adapters."""
        raise NotImplementedError(f"{type(self).__name__} takes no adapter")

    def shown(self, row: Row, prepared: Prepared) -> Shown:
        """Return a row as the model gets it, for a person; what is learnt is marked where it is some of the tokens, and said in words.

        Args:
            row: A training row, after `item`.
            prepared: Its data set.
        """
        from luthier.models.pretrained import open_tokenizer
        from luthier.tasks.text.shown import pieces_of, target_in_words

        tokenizer = getattr(self, "tokenizer", None) or open_tokenizer(prepared.tokenizer)
        return Shown([piece for window in row.windows for piece in pieces_of(tokenizer, window)], target_in_words(row, prepared))

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what a reader needs to know of the work: labels, lengths, loss."""


class AnsweringWork(Work, ABC):
    """A task at work that answers each row from one pass through the model."""

    @abstractmethod
    def answers(self, outputs: Any) -> list[Answer]:
        """Return outputs, with truth or without, as answers that a person can read, in their order."""

    @abstractmethod
    def numbers(self, outputs: Any) -> list[np.ndarray]:
        """Return the numbers that each answer was decided by, such as logits, for every later check that nothing changed."""

    @property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the classes that are told of, by the name of the loss term; empty where answers are no classes with names."""
        return {}

    def given(self, parts: Parts, batch: Batch) -> Any:
        """Return what the model gives of a batch in one pass, before anything is made of it; `losses` goes through the same."""
        return parts["model"].module(**batch.inputs)

    @abstractmethod
    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return what a student learns of a batch from its teacher, as both say it, by the name of the loss term that it stands beside.

        Args:
            parts: The modules, as they are outside of what averages gradients.
            given: What the model gave.
            batch: The batch, with its targets.
        """

    @abstractmethod
    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return how many answers are told, by the name of the loss term, from the targets alone: what distances are divided by."""


class RowWork(AnsweringWork, ABC):
    """A task at work whose answers are something of each row's own: tags, a span, a number, a vector."""

    @abstractmethod
    def outputs(self, parts: Parts, batch: Batch) -> RowOutputs:
        """Return what the model says of each row of a batch; targets and `batch.records` are there where they are known."""

    @abstractmethod
    def answered(self, outputs: RowOutputs) -> RowSums:
        """Return outputs of rows whose truth is known as what metrics read."""

    @property
    def rows_meet(self) -> bool:
        """Whether the answer to a row is scored among those to other rows, so that all must come from one model."""
        return False

    def asked(self, row: Row, text: str) -> tuple[Row, str]:
        """Return a row as it is asked when predicting, and the text that asks it: as it is, unless the task hides some of it."""
        return row, text

    def going_on(self, old: Any) -> RowWork:
        """Return the work with what the rows of a run decided whose model is tuned further, such as the scale of numbers.

        Args:
            old: The same work as that run has it.
        """
        return self

    def mean_said(self, said: Sequence[Any]) -> Any:
        """Return the mean of what several models say of one row, from which the answer is decided; for tasks that have one.

        Args:
            said: What `outputs` of each says of it.
        """
        raise NotImplementedError(f"what {type(self).__name__} says of a row has no mean")

    reads_columns: ClassVar[bool] = False
    """Whether `question` reads the rows of a file that is to be answered: they have more columns than a text and a second one."""

    def question(self, row: Mapping[str, Any], data: DataSection) -> tuple[str, str | None]:
        """Return the text of a row that is to be answered, and its second text, as `encode` takes them.

        Args:
            row: The columns of the row.
            data: Which columns hold what, where the recipe says so.

        Raises:
            RowFault: if the row cannot be answered.
        """
        raise NotImplementedError(f"{type(self).__name__} takes texts as they stand")


class ClassWork(AnsweringWork, ABC):
    """A task at work whose answers are classes."""

    @property
    @abstractmethod
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the classes, in the order of their scores, by the name of the loss term."""

    @abstractmethod
    def outputs(self, parts: Parts, batch: Batch) -> Outputs:
        """Return the class scores of a batch."""

    @abstractmethod
    def embeddings(self, parts: Parts, batch: Batch) -> np.ndarray:
        """Return one vector per row from the body of the model, `(B, H)`, for the untuned baseline."""

    @abstractmethod
    def answered(self, outputs: Outputs) -> Answered:
        """Return outputs as what metrics read."""

    def numbers(self, outputs: Outputs) -> list[np.ndarray]:
        """Return the logits of each row."""
        return list(outputs.logits_BC)


class WritingWork(Work, ABC):
    """A task at work whose answers are texts that the model writes."""

    tokenizer: Any

    def given(self, parts: Parts, batch: Batch) -> Any:
        """Return the states before the supervised tokens; see `AnsweringWork.given`."""
        from luthier.tasks.text.learnt_tokens import states_learnt

        return states_learnt(parts, batch)

    def told(self, parts: Parts, given: Any, batch: Batch) -> dict[str, Told]:
        """Return the words that are expected; see `AnsweringWork.told`."""
        from luthier.tasks.text.learnt_tokens import words_told

        return words_told(parts, given)

    def num_told(self, batch: Batch) -> dict[str, float]:
        """Return the number of supervised tokens."""
        return self.weights(batch)

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the number of supervised tokens."""
        from luthier.tasks.text.learnt_tokens import number_learnt

        return number_learnt(batch)

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the one loss term, over the supervised tokens."""
        from luthier.tasks.text.learnt_tokens import losses_of_learnt

        return losses_of_learnt(parts, batch, self.loss)

    def outputs(self, parts: Parts, batch: Batch) -> TokenOutputs:
        """Return how likely the model finds the supervised tokens of each row."""
        from luthier.tasks.text.learnt_tokens import likelihoods_of_rows

        return likelihoods_of_rows(parts, batch)

    def answered(self, outputs: TokenOutputs) -> Likelihoods:
        """Return outputs as what metrics read."""
        from luthier.metrics.likelihoods import Likelihoods

        return Likelihoods(outputs.ids, outputs.nats_B, outputs.tokens_B, outputs.right_B)

    @abstractmethod
    def writing(self, **manner: Any) -> WritingWork:
        """Return the work with other settings of how an answer is written, such as `max_new_tokens`.

        Raises:
            ConfigError: if a value is out of its range.
        """

    @abstractmethod
    def opening(self, row: Row) -> Row:
        """Return what the model is shown of a row before it writes."""

    @abstractmethod
    def prompted(self, rows: Sequence[Row]) -> Batch:
        """Return openings or prompts as a batch to write from."""

    @abstractmethod
    def written(
        self, parts: Parts, batch: Batch, *, max_new_tokens: int | None = None, greedy: bool = False
    ) -> list[tuple[int, str, np.ndarray]]:
        """Return for each prompt its id, the text the model writes, and the logits `(V,)` of its first token."""

    @property
    def written_rows(self) -> int:
        """Rows of a split that texts are written and scored for; 0 where the task scores none."""
        return 0

    def scored(self, rows: Sequence[Row], texts: Sequence[str]) -> RowSums:
        """Return the scores of texts that were written for rows."""
        raise NotImplementedError(f"{type(self).__name__} scores no written texts")
