"""What keeps the knowledge of an old run while it is tuned: its head, old rows, and the weights that matter to them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.work import Batch, Part, Parts
from luthier.data.prepared import PreparedSplit, Row
from luthier.models.blocks import body_of
from luthier.models.old_head import begin_head, keep_head, put_on
from luthier.models.outline import outlining
from luthier.recipe import Recipe
from luthier.stages.update.fisher import fisher_of
from luthier.stages.update.old_run import OldRowsGone, OldRun
from luthier.tasks.task import ClassWork, RowWork, Work, WritingWork
from luthier.training.inference import run_batches
from luthier.training.retention.ewc import Consolidation
from luthier.training.retention.fisher import Fisher, added, chosen_by_fisher, relative
from luthier.training.retention.mask import Mask
from luthier.training.retention.replay import Load, OldRows, Replayed, learnt_of
from luthier.training.retention.section import KeepSection
from luthier.training.state import undisturbed
from luthier.training.step_rules.step_rule import Losses
from luthier.training.world import World

log = logging.getLogger("luthier")
OLD_MODEL = "old-model"
PROBES = ("two texts that differ", "in length")
SAME = 1e-3  # of a logit, or of 1: more than this apart, and the old head does not answer as it did


@dataclass(frozen=True)
class Keeping:
    """An old run beside the training that tunes it further.

    Args:
        section: What the recipe says.
        old: The old run.
        is_joined: Whether old and new labels are in one head.
        fisher: Fisher information of the old weights, 1 on average, or None where it is not wanted.
        rows: Old rows that are replayed, or None.
        work: The task at work on the old rows.
        head: The old classifier on the trunk that is tuned, where its head is another one; else None.
        fisher_of_new: Fisher information on the new rows, where a mask goes by that.
    """

    section: KeepSection
    old: OldRun
    is_joined: bool
    fisher: Fisher | None
    rows: OldRows | None
    work: Work
    head: Parts | None
    fisher_of_new: Fisher | None = None

    def losses(self, work: Losses) -> Losses:
        """Return the losses of the new rows with those of the old ones beside them, where they are replayed."""
        if self.section.replay is None:
            return work
        assert self.rows is not None, "they are read before"
        return Replayed(work, self.work, self.head, self.section.replay.weight, self.rows.terms)

    def loading(self, load: Load) -> Load:
        """Return how a batch is loaded: with old rows in it, where they are replayed."""
        return load if self.rows is None else self.rows.loading(load)

    def hold(self, optimiser: torch.optim.Optimizer, parts: Parts, new: frozenset[str]) -> None:
        """Have the optimiser leave the weights alone that matter to the old rows; called while they are at their start."""
        module = parts["model"].module
        if self.section.ewc is not None:
            held = [(p, fisher) for _, p, fisher in self._informed(module, new, self.fisher)]
            optimiser.register_step_post_hook(Consolidation(held, self.section.ewc))
        mask = self.section.fisher_mask
        if mask is not None:
            inside = {id(parameter) for parameter in body_of(module).parameters()}
            of_rows = self.fisher if mask.rows == "old" else self.fisher_of_new
            found = {name: (p, fisher) for name, p, fisher in self._informed(module, new, of_rows) if id(p) in inside}
            chosen = chosen_by_fisher({name: fisher for name, (_, fisher) in found.items()}, mask.share, largest=mask.which == "largest")
            trained, everything = sum(int(c.sum()) for c in chosen.values()), sum(c.numel() for c in chosen.values())
            log.info("keep.fisher_mask: %s of %s old weights are trained, and the head", f"{trained:,}", f"{everything:,}")
            Mask([(found[name][0], chosen[name]) for name in found]).attach(optimiser)

    def save_old_model(self, folder: Path) -> None:
        """Write the old head on the trunk as it is now, where it is another one and that is wanted."""
        if self.head is None or not self.section.old_model:
            return
        module: Any = self.head["model"].module
        module.config.vocab_size = module.get_input_embeddings().num_embeddings  # the trunk may have learnt new characters
        head = self.head
        files.make_folder(folder, lambda aside: self.work.save(head, aside))

    def _informed(self, module: nn.Module, new: frozenset[str], fisher: Fisher | None) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        """Yield the old weights with their information; rows of new labels have none."""
        assert fisher is not None, "it is computed before the optimiser is made"
        for name, parameter in module.named_parameters():
            information = fisher.get(name)
            if information is None or (name in new and not self.is_joined):
                continue
            missing = len(parameter) - len(information)
            if missing > 0 and parameter.shape[1:] == information.shape[1:]:
                information = functional.pad(information, (0, 0) * (information.ndim - 1) + (0, missing))
            if information.shape == parameter.shape:
                yield name, parameter, information.to(parameter.device)


def going_on(recipe: Recipe, work: Work) -> Work:
    """Return the work with what the rows of the old run decided, where the model answers rows in the old run's terms."""
    if recipe.keep is None or not isinstance(work, RowWork):
        return work
    return work.going_on(recipe.task.reopen(OldRun.of(recipe).model))


def with_old_head(recipe: Recipe, work: Work, parts: Parts, new: frozenset[str], num_labels: int) -> frozenset[str]:
    """Give the model the head that `keep.labels` says; returns the names of what starts from nothing.

    Args:
        recipe: A recipe whose labels are decided.
        work: The task at work; one that writes has no head for labels.
        parts: The model, just loaded.
        new: Names of the parameters that started from nothing.
        num_labels: Number of classes.
    """
    if recipe.keep is None or outlining() or isinstance(work, WritingWork):
        return new
    module = parts["model"].module
    if recipe.keep.labels == "apart":
        return begin_head(module, new, num_labels)
    with undisturbed():
        return keep_head(module, OldRun.of(recipe).restored()[1]["model"].module, new)


def keeping_of(recipe: Recipe, work: Work, parts: Parts, world: World, device: str) -> Keeping | None:
    """Return what keeps the knowledge of the old run, where the recipe has one.

    Args:
        recipe: A recipe whose labels are decided.
        work: The task at work on the new rows.
        parts: The model as it is trained.
        world: The processes that train together.
        device: Device of the modules.

    Raises:
        OldRowsGone: if old rows are wanted and cannot be read.
        ConfigError: if several processes replay rows of another task.
    """
    if recipe.keep is None or outlining():
        return None
    keep = recipe.keep
    assert keep.labels != "auto", "whether it is the same task was not decided yet"
    if keep.replay is not None and keep.labels == "apart" and world.size > 1:
        what = f"rows of another task do not go with {world.size} processes, which exchange gradients of one head"
        raise ConfigError([Fault("keep.replay", what, "train in one process, or use keep.ewc")])
    with undisturbed():
        old = OldRun.of(recipe)
        _look_for_rows(keep, old)
        fisher = _fisher(keep, old, world, device) if keep.wants_fisher else None
        is_joined = keep.labels == "join"
        own, head = (_same_work(old, work), None) if is_joined else _old_head(old, parts, device)
        rows = None
        if keep.replay is not None:
            rows = old_rows(_readable([old, *old.earlier]), own, keep.replay.share, recipe.training.seed)
    return Keeping(keep, old, is_joined, fisher, rows, own, head)


def widened(targets: np.ndarray, num_labels: int) -> np.ndarray:
    """Return yes and no for each label `(..., C)` with no for those that came later; class numbers stay as they are."""
    missing = num_labels - targets.shape[-1] if targets.ndim else 0
    return targets if missing <= 0 else np.pad(targets, [(0, 0)] * (targets.ndim - 1) + [(0, missing)])


def _look_for_rows(keep: KeepSection, old: OldRun) -> None:
    """Say at the start what would be missing at the end; where rows are replayed, they have to be there."""
    try:
        if keep.report and old.measured is None:
            log.warning("'%s' held no rows out, so what is forgotten is not measured", old.run.path)
    except OldRowsGone as error:
        if keep.replay is not None:
            raise
        log.warning("what is forgotten is not measured: %s", error.what)


def _fisher(keep: KeepSection, old: OldRun, world: World, device: str) -> Fisher:
    """Return the information, which process 0 computes and the others read; that on rows of earlier runs is added to it."""
    if world.rank == 0:
        found = fisher_of(old, keep.fisher_rows, device)
    world.agreed(0)
    found = relative(found if world.rank == 0 else fisher_of(old, keep.fisher_rows, device))
    for earlier in old.earlier:
        more = _fisher_if_there(earlier, keep.fisher_rows, device) if world.rank == 0 else None
        if world.shared(more is not None):
            found = added(found, relative(more or fisher_of(earlier, keep.fisher_rows, device)))
    return relative(found)


def _fisher_if_there(earlier: OldRun, num_rows: int, device: str) -> Fisher | None:
    """Return the information on the rows of an earlier run; None, and why, where it was not kept and the rows are gone."""
    try:
        return fisher_of(earlier, num_rows, device)
    except OldRowsGone as error:
        log.warning("Fisher information does without some rows: %s", error.what)
        return None


def _old_head(old: OldRun, parts: Parts, device: str) -> tuple[ClassWork, Parts]:
    """Return the old work, and the old classifier on the trunk that is trained.

    Raises:
        SetupError: if it does not answer as it did, while the trunk is still the old one.
    """
    work, found = old.restored()
    assert isinstance(work, ClassWork)
    module: Any = found["model"].module.to(device)
    before = _answers(work, found, device)
    mode = parts["model"].module.training
    put_on(module, body_of(parts["model"].module))
    head = {"model": Part(module, "frozen")}
    after = _answers(work, head, device)
    parts["model"].module.train(mode)
    apart = float(np.abs(before - after).max())
    if not apart <= SAME * max(1.0, float(np.abs(before).max())):
        what = f"the head of '{old.run.path}' does not answer as it did on the trunk that is tuned (logits {apart:.2g} apart)"
        raise SetupError(what, where="keep.run", fix="set training.speed.lean_blocks=false; if it stays, tune without keep")
    return work, head


def _answers(work: ClassWork, parts: Parts, device: str) -> np.ndarray:
    found: np.ndarray = next(run_batches(work.outputs, parts, [work.collate(list(work.encode(PROBES)))], device=device)).logits_BC
    return found


def _same_work(old: OldRun, work: Work) -> Work:
    """Return the work on the old rows, where the model answers them as it answers the new ones."""
    if isinstance(work, ClassWork):
        return work
    own, _ = old.restored()
    return replace(cast(Any, own), packing=work.packing) if hasattr(work, "packing") else own


def _readable(runs: list[OldRun]) -> list[PreparedSplit]:
    """Return the training rows of runs; those of the first have to be there, of others it is said where they are gone."""
    splits = [runs[0].prepared.splits["train"]]
    for earlier in runs[1:]:
        try:
            splits.append(earlier.prepared.splits["train"])
        except OldRowsGone as error:
            log.warning("replay does without some rows: %s", error.what)
    return splits


def old_rows(splits: Sequence[PreparedSplit], work: Work, share: float, seed: int) -> OldRows:
    """Return rows that were learnt before, drawn from all alike.

    Args:
        splits: Encoded rows of one or more runs.
        work: The task at work on them.
        share: Old rows among all rows.
        seed: Seed of the run.
    """
    ends = np.cumsum([len(split) for split in splits])

    def row(place: int) -> Row:
        which = int(np.searchsorted(ends, place, side="right"))
        found = splits[which].row(place - int(ends[which]) + len(splits[which]))
        if not isinstance(work, ClassWork):
            return found
        return replace(found, target=widened(np.asarray(found.target), len(work.classes["loss"])))

    def collate(rows: np.ndarray) -> Batch:
        return work.collate([row(int(place)) for place in rows])

    return OldRows(int(ends[-1]), collate, share, seed, learnt_of(work.weights(collate(np.zeros(1, np.int64)))))
