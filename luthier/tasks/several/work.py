"""Several tasks at work on one trunk: each batch is of one task, and goes to its work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Part, Parts, Term, Terms
from luthier.tasks.several.entry import TaskEntry
from luthier.tasks.task import Work

if TYPE_CHECKING:
    import numpy as np

    from luthier.data.prepared import PreparedSplit, Row
    from luthier.data.section import DataSection
    from luthier.models.section import ModelSection

PART, ALONE = "model", "train it in a run of its own"


class SeveralWork(Work):
    """The works of several tasks; what needs one of them is refused with their names.

    Args:
        members: The work of each task.
        entries: The tasks as the recipe has them, for heads and weights.
        weights: How the losses are weighed: fixed, by uncertainty, or by gradnorm, which is a step rule.
    """

    def __init__(self, members: Mapping[str, Work], entries: Sequence[TaskEntry], weights: str) -> None:
        self.members, self.weighed = members, weights
        self._entries = {entry.name: entry for entry in entries}

    def parts(self, model: ModelSection) -> tuple[Parts, frozenset[str]]:
        """Return one module with the trunk and every head, and the names of parameters that start from nothing.

        Raises:
            ConfigError: if the model is loaded in another way for one of the tasks, or its vocabulary is another one there.
        """
        from luthier.tasks.several.trunk import SharedTrunk

        models, new = {}, {}
        for name, work in self.members.items():
            head = self._entries[name].head
            parts, fresh = work.parts(model if head is None else model.model_copy(update={"head": head}))
            models[name], new[name] = parts[PART].module, fresh
        _require_one_vocabulary(new, self._entries)
        shared = SharedTrunk(models, weights=self.weighed)
        fresh_ids = {id(p) for name, of_task in shared.tasks.items() for inside, p in of_task.named_parameters() if inside in new[name]}
        fresh_ids |= {id(p) for name, p in shared.named_parameters() if name.startswith(("log_variances.", "balance."))}
        return {PART: Part(shared)}, frozenset(name for name, p in shared.named_parameters() if id(p) in fresh_ids)

    def parts_of(self, parts: Parts, name: str) -> Parts:
        """Return the trunk with the head of one task, as its own work calls it."""
        tasks: Any = parts[PART].module.tasks
        return {PART: Part(tasks[name], parts[PART].mode, parts[PART].checkpointed)}

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term of the batch's task, under the name of the task."""
        assert batch.task is not None
        found = {_named(batch.task, term): weight for term, weight in self.members[batch.task].weights(batch).items()}
        return found | ({f"{batch.task}/uncertainty": found[_main(found, batch.task)]} if self.weighed == "uncertainty" else {})

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return the loss terms of the batch's task, each times the weight of the task."""
        assert batch.task is not None
        name = batch.task
        terms, weight = self.members[name].losses(self.parts_of(parts, name), batch), self._entries[name].weight
        found = {_named(name, key): Term(term.sum, term.weight, term.coefficient * weight) for key, term in terms.items()}
        if self.weighed != "uncertainty":
            return found
        log_variances: Any = parts[PART].module.log_variances
        return _uncertain(found, log_variances[name], name)

    def item(self, row: Row, rng: np.random.Generator) -> Row:
        """Refuse: a row is one task's."""
        self._refuse()

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Refuse: rows are one task's."""
        self._refuse()

    def outputs(self, parts: Parts, batch: Batch) -> Any:
        """Return what the model says of a batch of one task."""
        assert batch.task is not None
        return self.members[batch.task].outputs(self.parts_of(parts, batch.task), batch)

    def answered(self, outputs: Any) -> Any:
        """Refuse: outputs are one task's."""
        self._refuse()

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Iterable[Row]:
        """Refuse: texts are encoded for one task."""
        self._refuse()

    def read_rows(self, data: DataSection) -> dict[str, PreparedSplit]:
        """Refuse: labels are one task's."""
        self._refuse()

    def save(self, parts: Parts, folder: Path) -> None:
        """Write trunk and head of each task into a folder with its name."""
        from luthier.models.vocabulary import settle_embeddings

        shared: Any = parts[PART].module
        settle_embeddings(shared.trunk)
        for name, work in self.members.items():
            (folder / name).mkdir()
            with shared.alone(name):
                work.save(self.parts_of(parts, name), folder / name)

    def describe(self) -> dict[str, Any]:
        """Return what a reader needs to know of each task."""
        return {name: work.describe() for name, work in self.members.items()}

    def _refuse(self) -> NoReturn:
        raise ConfigError([Fault("task", "there are several tasks", f"name one: {', '.join(self.members)}")])


def _require_one_vocabulary(new: Mapping[str, frozenset[str]], entries: Mapping[str, TaskEntry]) -> None:
    """Refuse a task whose tokens the others do not know: its rows of the embedding would be learnt beside the shared ones."""
    grown = [name for name, names in new.items() if any(one.endswith(".new") for one in names)]
    what = "gives the model tokens of its own, which the other tasks do not have"
    if grown:
        raise ConfigError([Fault(f"tasks.{name}.task", f"{entries[name].task.registered_name} {what}", ALONE) for name in grown])


def _named(task: str, term: str) -> str:
    """Return the name of a loss term: that of the task for its loss."""
    return task if term == "loss" else f"{task}/{term}"


def _main(terms: Iterable[str], task: str) -> str:
    """Return the term that stands for all of a task's: its loss; where it has several, such as those of intents and slots, the first."""
    return task if task in terms else min(terms)


def _uncertain(terms: Terms, log_variance: Any, name: str) -> Terms:
    """Weigh the loss of a task by its uncertainty: exp(-s) times the loss, plus s / 2, where s is the log-variance that is learnt.

    The loss as it is told is the weighed one; what is added is told apart.

    Reference: Kendall, Gal and Cipolla, https://arxiv.org/abs/1705.07115
    """
    found = {key: Term(term.sum * (-log_variance).exp(), term.weight, term.coefficient) for key, term in terms.items()}
    weight = terms[_main(terms, name)].weight
    return found | {f"{name}/uncertainty": Term(log_variance / 2 * weight, weight)}
