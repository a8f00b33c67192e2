"""Several tasks as one: what the stages prepare and start."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from luthier.core import files
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.work import Parts
from luthier.data.cache import cached_folder, content_key
from luthier.data.prepared import Prepared, PreparedSplit
from luthier.data.section import DataSection, MixingSection
from luthier.losses.loss import Loss
from luthier.models.section import ModelSection
from luthier.tasks.several.entry import TaskEntry
from luthier.tasks.several.scores import MEAN
from luthier.tasks.several.work import SeveralWork
from luthier.tasks.task import Task, Work

SPLITS = ("train", "validation", "test")


class SeveralTasks(Task):
    """What `tasks` in a recipe stands for; it is not named by a type.

    Reference: multi-task learning with a shared trunk, Caruana 1997; for BERT: Liu et al., https://arxiv.org/abs/1901.11504
    """

    registered_name: ClassVar[str] = "several-tasks"
    primary_metric: ClassVar[str] = MEAN
    smaller_is_better: ClassVar[tuple[str, ...]] = ("loss", "ece", "perplexity", "mae", "rmse", "repetition")
    entries: tuple[TaskEntry, ...] = Field(description="The tasks.")
    mixing: MixingSection = Field(description="How they share steps and losses.")

    def adds_up(self) -> bool:
        """Return whether no rows of a batch meet in the loss of any task."""
        return all(entry.task.adds_up() for entry in self.entries)

    def prepare(self, data: DataSection, model: ModelSection) -> Prepared:
        """Prepare the rows of each task, and count them together.

        Raises:
            DataError: if the rows of a task cannot be used, or only some tasks have validation rows.
        """
        members = {entry.name: entry.task.prepare(entry.data, model) for entry in self.entries}
        having = [name for name, member in members.items() if len(member.splits.get("validation", ()))]
        if having and len(having) < len(members):
            lacking = next(name for name in members if name not in having)
            fix = f"tasks.{lacking}.data.split.validation=0.1, or none for any task"
            raise DataError(f"the task '{lacking}' has no validation rows, and '{having[0]}' has", where="tasks", fix=fix)
        key = content_key({"several": {name: str(member.folder) for name, member in members.items()}})
        folder, found = cached_folder(key, lambda to: _fill(to, members), reuse=True)
        splits = {
            split: PreparedSplit.joined({name: member.splits[split] for name, member in members.items() if split in member.splits})
            for split in SPLITS
            if any(split in member.splits for member in members.values())
        }
        labels = tuple(f"{name}/{label}" for name, member in members.items() for label in member.labels)
        longest = max(member.max_length for member in members.values())
        return Prepared(folder, labels, False, longest, _facts(members), splits, found, members)

    def start(self, prepared: Prepared, *, data: DataSection, loss: Loss | None) -> SeveralWork:
        """Return the work on prepared rows of several tasks.

        Raises:
            ConfigError: if a loss does not fit its task.
        """
        members = {one.name: one.task.start(prepared.members[one.name], data=one.data, loss=one.loss) for one in self.entries}
        return SeveralWork(members, self.entries, self.mixing.weights)

    def restore(self, folder: Path) -> tuple[Work, Parts]:
        """Refuse: each task is restored from a folder of its own."""
        raise ConfigError([Fault("--as", f"'{folder}' holds several tasks", "name the folder of one of them")])


def _facts(members: dict[str, Prepared]) -> dict[str, Any]:
    """Return what `data.json` says: the facts of each task, and what is known of all rows."""
    notes = [(name, str(note)) for name, member in members.items() for note in member.facts.get("notes", [])]
    return {
        "tasks": {name: member.facts for name, member in members.items()},
        "splits": {
            split: {"rows": sum(len(member.splits.get(split, ())) for member in members.values())}
            for split in SPLITS
            if any(split in member.splits for member in members.values())
        },
        "tokens": {"longest": max(member.facts["tokens"]["longest"] for member in members.values())},
        "notes": [f"warning: {name}: {n.removeprefix('warning: ')}" if n.startswith("warning: ") else f"{name}: {n}" for name, n in notes],
    }


def _fill(folder: Path, members: dict[str, Prepared]) -> None:
    """Write the rows that were left out, each with its task."""
    rows = ({"task": name, **row} for name, member in members.items() for row in files.read_json_lines(member.quarantine))
    files.write_json_lines(folder / "quarantine.jsonl", rows)
