"""A soup: the mean of the weights of several runs that started from the same base, as one model of the same size."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

from luthier.core import files
from luthier.core.errors import ConfigError, DataError, Fault
from luthier.core.names import did_you_mean
from luthier.data.prepared import PreparedSplit
from luthier.metrics.found import Found
from luthier.workflows.together import Member, answers_of, found_by, members_of, shared_rows

WAYS = ("greedy", "uniform")
INGREDIENTS = "soup.json"


def soup(paths: Sequence[str | Path], output: str | Path, *, how: str = "greedy") -> dict[str, Any]:
    """Average the weights of several runs and write the model folder.

    Args:
        paths: Finished runs of one task with the same answers, all weights trained, from the same base.
        output: Folder to make; `predict` and plain transformers take it.
        how: uniform takes all runs; greedy adds one after the other, the best first, where the validation score does not fall.

    Returns:
        The object that `luthier soup --json` prints.

    Raises:
        ConfigError: if the runs do not fit together, or the folder is taken.
        DataError: if they held other rows out, or none to choose by.

    Reference: M. Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
        inference time, 2022.
    """
    folder = Path(output)
    if how not in WAYS:
        raise ConfigError([Fault("--how", f"got '{how}'", did_you_mean(how, WAYS))])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError([Fault("--output", f"'{folder}' exists and is not empty", "name another folder")])
    members = members_of(paths)
    _require_same_shape(members)
    splits = shared_rows(members)[0]
    if how == "greedy" and "validation" not in splits:
        what = "the runs held no validation rows out, and test rows choose nothing"
        raise DataError(what, where="data.split.validation", fix="use --how uniform, or train with data.split.validation=0.1")
    singles = [answers_of(member, splits) for member in members]
    chosen = _greedy(members, singles, splits, folder.absolute().parent) if how == "greedy" else list(members)
    files.make_folder(folder, lambda made: fill(made, chosen))
    return _told(folder, how, members, chosen, singles, splits)


def fill(folder: Path, members: Sequence[Member]) -> None:
    """Write the model whose weights are the means of those of some runs; the rest is taken from the first.

    Args:
        folder: Where to write; it exists.
        members: Runs whose weights have the same names and shapes.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    for file in sorted(members[0].run.model.iterdir()):
        if file.suffix != ".safetensors":
            (shutil.copytree if file.is_dir() else shutil.copy2)(file, folder / file.name)
            continue
        opened = [safe_open(member.run.model / file.name, "pt") for member in members]
        mean = {}
        for name in opened[0].keys():
            tensors = [one.get_tensor(name) for one in opened]
            whole = not torch.is_floating_point(tensors[0])
            mean[name] = tensors[0] if whole else torch.stack([one.double() for one in tensors]).mean(0).to(tensors[0].dtype)
        save_file(mean, folder / file.name, metadata=opened[0].metadata())
    files.write_json(folder / INGREDIENTS, {"runs": [member.name for member in members]})


def _require_same_shape(members: Sequence[Member]) -> None:
    """Refuse runs whose weights cannot be averaged: adapters, other bases, other layers."""
    first, faults = members[0], []
    for member in members:
        if "adapter" in member.settings:
            what = "has an adapter: a mean of its two factors is not the mean of their products"
            faults.append(Fault(member.name, what, "name runs with all weights trained, or use luthier ensemble"))
        elif member.recipe.model != first.recipe.model and member.recipe.model.path != first.recipe.model.path:
            what = f"started from '{member.recipe.model.path}', {first.name} from '{first.recipe.model.path}'"
            faults.append(Fault(member.name, what, "name runs from the same base, or use luthier ensemble"))
        elif _shapes(member) != _shapes(first):
            what = f"has weights of other names or shapes than {first.name}"
            faults.append(Fault(member.name, what, "name runs with the same head and vocabulary, or use luthier ensemble"))
    if faults:
        raise ConfigError(faults)


def _shapes(member: Member) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(member.run.model.glob("*.safetensors")):
        opened = safe_open(file, "pt")
        found |= {f"{file.name}/{name}": tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    return found


def _greedy(members: Sequence[Member], singles: Sequence[dict[str, Found]], splits: dict[str, PreparedSplit], where: Path) -> list[Member]:
    """Return the runs whose mean scores best on the validation rows: from the best on, each is kept where the score does not fall."""
    scores = [_score(member, answered["validation"]) for member, answered in zip(members, singles, strict=True)]
    order = sorted(range(len(members)), key=lambda place: -scores[place])
    chosen, best = [members[order[0]]], scores[order[0]]
    for place in order[1:]:
        candidate = [*chosen, members[place]]
        score = _score(members[0], _answers_of_mean(candidate, {"validation": splits["validation"]}, where)["validation"])
        if score >= best:
            chosen, best = candidate, score
    return chosen


def _answers_of_mean(members: Sequence[Member], splits: dict[str, PreparedSplit], where: Path) -> dict[str, Found]:
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".soup-", dir=where) as folder:
        fill(Path(folder), members)
        return _answers_in(Path(folder), members[0], splits)


def _answers_in(folder: Path, member: Member, splits: dict[str, PreparedSplit]) -> dict[str, Found]:
    from luthier.serve.predictor import Predictor

    predictor = Predictor.open(folder)
    return {name: found_by(predictor, split, member.recipe) for name, split in splits.items()}


def _score(member: Member, answered: Found) -> float:
    """Return the score that picks the best step, such that more is better."""
    task = member.recipe.task
    key = task.headline()
    value = answered.scores(keys=[key], resamples=0)[key].value
    if value is None:
        return -inf
    return value if task.greater_is_better(key) else -value


def _told(
    folder: Path,
    how: str,
    members: Sequence[Member],
    chosen: Sequence[Member],
    singles: Sequence[dict[str, Found]],
    splits: dict[str, PreparedSplit],
) -> dict[str, Any]:
    from luthier.stages.results.measure import full_scores

    section = members[0].recipe.evaluate
    mixed = _answers_in(folder, members[0], splits)
    sure: dict[str, Any] = {"resamples": section.resamples, "confidence": section.confidence}
    scores = {name: {key: one.as_dict() for key, one in full_scores(answered, section).items()} for name, answered in mixed.items()}
    told = []
    for member, answered in zip(members, singles, strict=True):
        own = {name: {key: one.as_dict() for key, one in full_scores(found, section).items()} for name, found in answered.items()}
        compared = {name: mixed[name].compared_with(answered[name], **sure) for name in mixed}
        told.append({"run": member.name, "chosen": member in chosen, "scores": own, "comparison": compared})
    return {"model": str(folder), "how": how, "chosen": [member.name for member in chosen], "scores": scores, "singles": told}
