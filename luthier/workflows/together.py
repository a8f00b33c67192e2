"""Several finished runs side by side: the same labels, the same rows, the answers of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.model_folder import read_settings
from luthier.core.run_folder import RunFolder
from luthier.data.prepared import PreparedSplit
from luthier.metrics.answered import Answered
from luthier.recipe import Recipe, resolve_begun

if TYPE_CHECKING:
    from luthier.serve.predictor import Predictor

MEASURING = ("test", "validation")
ANSWERS = ("labels", "intents", "tags", "scheme", "crf", "error", "middle", "spread", "pooling", "low", "high", "prompts", "prefix")
"""What a model's settings say of its answers, in tasks without classes."""
NAMES = ("labels", "intents", "tags", "words")
"""What of it must be the same where answers are put together, not weights."""


@dataclass(frozen=True)
class Member:
    """One of several runs.

    Args:
        run: A finished run.
        recipe: What it did.
        settings: What its model folder says of labels and adapter.
    """

    run: RunFolder
    recipe: Recipe
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The run folder, as it was written."""
        return str(self.run.path)


def members_of(paths: Sequence[str | Path], *, alike: Sequence[str] = ANSWERS) -> list[Member]:
    """Open several runs with the same answers.

    Args:
        paths: Run folders, two or more.
        alike: What of their settings must be the same, in tasks without classes.

    Raises:
        ConfigError: if there are too few, one is named twice, or labels or tasks differ.
        SetupError: if one is missing or not finished.
    """
    if len(paths) < 2:
        raise ConfigError([Fault("runs", f"got {len(paths)}, wanted two or more", "name the folders of finished runs")])
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ConfigError([Fault("runs", "one run is named twice", "name each once")])
    members = []
    for path in paths:
        run = RunFolder.open(path)
        run.require_finished()
        run.require_one_task()
        members.append(Member(run, resolve_begun(run.recipe), read_settings(run.model)))
    faults = [fault for member in members for fault in _other_answers(member, members[0], alike)]
    if faults:
        raise ConfigError(faults)
    return members


def _other_labels(member: Member, first: Member) -> list[Fault]:
    mine, theirs = ((one.settings["labels"], one.settings["multi_label"]) for one in (member, first))
    if mine == theirs:
        return []
    unlike = ", ".join(sorted(set(mine[0]) ^ set(theirs[0]))[:5]) or "one label a row, several a row"
    return [Fault(member.name, f"has other labels than {first.name}: {unlike}", "name runs that were trained on the same labels")]


def _has_classes(member: Member) -> bool:
    return member.recipe.task.answers_with == "classes"


def _other_answers(member: Member, first: Member, alike: Sequence[str]) -> list[Fault]:
    """Return why a run's head answers something else than that of the first."""
    mine, theirs = (one.recipe.task.registered_name for one in (member, first))
    if mine != theirs:
        return [Fault(member.name, f"is a run of {mine}, and {first.name} of {theirs}", "name runs of one task")]
    if _has_classes(member):
        return _other_labels(member, first)
    unlike = [name for name in alike if member.settings.get(name) != first.settings.get(name)]
    if unlike:
        what = f"answers otherwise than {first.name}: {', '.join(unlike)} differ"
        return [Fault(member.name, what, "name runs that were trained on the same rows")]
    return []


def shared_rows(members: Sequence[Member]) -> list[dict[str, PreparedSplit]]:
    """Return the held-out rows of each run, as its own model reads them, after checking that they are the same rows.

    Raises:
        DataError: if the runs held other rows out, so that one may have trained on the test rows of another.
    """
    from luthier.stages.asking.evaluate import own_splits

    held_out = [own_splits(member.recipe, member.run) for member in members]
    for member, splits in zip(members, held_out, strict=True):
        unlike = [name for name in sorted({*splits, *held_out[0]}) if not same_rows(splits.get(name), held_out[0].get(name))]
        if unlike:
            raise DataError(
                f"'{member.name}' and '{members[0].name}' held other {unlike[0]} rows out: one may have trained on those of the other",
                fix="train them with the same data section (data.split.seed too), or name rows that none has seen with --data FILE",
            )
    return held_out


def same_rows(one: PreparedSplit | None, other: PreparedSplit | None) -> bool:
    """Whether two splits have the same rows with the same truth, or both are missing."""
    if one is None or other is None:
        return one is other
    if not np.array_equal(one.ids_N, other.ids_N):
        return False
    rows = np.arange(len(one))
    alike = one.targets.tobytes() == other.targets.tobytes()
    return one.texts(rows) == other.texts(rows) and one.pairs(rows) == other.pairs(rows) and alike


def answers_of(member: Member, splits: dict[str, PreparedSplit] | None, *, data: str | None = None) -> dict[str, Any]:
    """Return what a run's model answers, by split; rows of classes are sorted by id.

    Args:
        member: The run.
        splits: Rows to answer; None where `data` names them.
        data: A file with labelled rows.
    """
    from luthier.serve.predictor import Predictor
    from luthier.stages.asking.evaluate import other_rows

    predictor = Predictor.open(member.run.path)
    rows = splits if splits is not None else other_rows(predictor, member.recipe, str(data))
    return {name: found_by(predictor, split, member.recipe) for name, split in rows.items()}


def found_by(predictor: Predictor, split: PreparedSplit, recipe: Recipe) -> Any:
    """Return what a model answers for the rows of a split; rows of classes are sorted by id."""
    from luthier.stages.asking.evaluate import answered_by

    found = answered_by(predictor, split, recipe)
    return found.merge([]) if isinstance(found, Answered) else found


def measuring_split(names: Sequence[str]) -> str:
    """Return the split that scores are told of: test, or validation where there is no test."""
    return next(name for name in MEASURING if name in names)
