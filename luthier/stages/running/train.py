"""The training stage: lay everything out, take up a checkpoint, run the loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from luthier.core import files, machine, yaml
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe
from luthier.stages.distillation.teaching import with_answers
from luthier.stages.layout.begin import Bench, crowd_of, lay_out
from luthier.stages.layout.prefix import with_prefix
from luthier.stages.layout.start_head import start_head
from luthier.stages.results.measure import outputs_of, quick_scores
from luthier.stages.running.several import brought_together, each_task
from luthier.stages.running.shown import Shown
from luthier.stages.running.unfreeze import taking_turns
from luthier.stages.update.fisher import with_fisher_of_new_rows
from luthier.training import checkpoint
from luthier.training.averages import averaged
from luthier.training.events import EventLog
from luthier.training.fit import fit, owes_evaluation
from luthier.training.loop import ticks
from luthier.training.signals import StopSignal
from luthier.training.speed.crowding import Crowd
from luthier.training.state import undisturbed
from luthier.training.world import World

log = logging.getLogger("luthier")


@dataclass
class Trainer:
    """One run of the loop on a run folder.

    Args:
        run: The run folder.
        bench: Everything laid out.
        stop: Remembers Ctrl-C and SIGTERM.
        crowd: Notices that other processes take the cores.
    """

    run: RunFolder
    bench: Bench
    stop: StopSignal
    crowd: Crowd

    @classmethod
    def set_up(cls, run: RunFolder, recipe: Recipe, prepared: Prepared, *, resume: bool, world: World) -> Trainer:
        """Lay everything out, write what was decided, and take up the newest checkpoint that verifies.

        Raises:
            SetupError: if the disk is too full, or the checkpoint belongs to other data or another model.
        """
        if world.rank == 0:
            _note_data(run, prepared)
        crowd = crowd_of(recipe, world)
        bench = lay_out(recipe, prepared, world)
        if world.rank == 0:
            checkpoint.check_space(run.path, bench.parts, machine.free_disk_bytes(run.path))
            files.write_text(run.recipe, yaml.dump(bench.recipe.as_dict()))
        folder = world.shared(_newest(run, world) if resume and world.rank == 0 else None)
        bench, asking = with_answers(bench)
        bench, seconds = with_prefix(bench)
        seconds += asking
        with undisturbed():
            seconds += sum(map(start_head, each_task(bench).values())) if folder is None and world.rank == 0 else 0.0
            bench = with_fisher_of_new_rows(bench, run, resumed=folder is not None)
        world.spread(bench.parts, how=bench.recipe.training.parallel, seed=bench.recipe.training.seed)
        trainer = cls(run, bench, StopSignal(world.agreed), crowd)
        if folder is not None:
            world.load(folder, bench.saved)
            log.info("resumed from %s", folder.name)
        bench.saved.state.seconds += seconds
        return trainer

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        state = self.bench.saved.state
        ended = state.step >= self.bench.pace.total_steps or state.stopped_early
        return ended and not owes_evaluation(state, self.bench.plan)

    def whole(self) -> Bench:
        """Return the bench with every weight in this process, as measuring and saving the model want it."""
        bench, world = self.bench, self.bench.care.world
        if world.size > 1:
            torch.set_num_threads(bench.recipe.training.threads or machine.available_cores())
        if not world.is_split:
            return bench
        state = bench.saved.state.state_dict()
        bench = lay_out(bench.recipe, bench.prepared)
        checkpoint.load_parts(checkpoint.require_checkpoint(self.run.checkpoints, state["step"]), bench.parts)
        bench.saved.state.load_state_dict(state)
        return bench

    def ticks(self) -> Iterator[Tick]:
        """Train, with evaluation and checkpoints; every tick goes to the log and the trackers, then to the caller."""
        if self.is_done:
            return
        bench, world = self.bench, self.bench.care.world
        saved, step, writes = bench.saved, bench.saved.state.step, world.rank == 0
        ledger = self.run.ledger if writes and bench.recipe.training.ledger else None
        events = EventLog(self.run.events if writes else None, ledger=ledger, from_step=step, check=self.stop.check)
        shown = Shown(bench.recipe, self.run.path if writes else None)
        losses, rule = bench.losses, bench.rule
        steps = ticks(saved.source, world.training(bench.parts), losses, rule, saved.optimiser, bench.pace, saved.state, bench.care)
        keeping = world.keeping(self.run.checkpoints, saved, keep=bench.plan.keep, check=self.stop.check)
        run = fit(
            self._accounted(taking_turns(bench.turns, steps, step), events),
            saved.state,
            bench.plan,
            evaluate=self._validation_scores,
            keeping=keeping,
            events=events,
            stop=self.stop,
        )
        try:
            for tick in run:
                shown.tick(tick)
                yield tick
        finally:
            events.close()
            shown.close()

    def _accounted(self, steps: Iterator[Tick], events: EventLog) -> Iterator[Tick]:
        """Write the rows of each step down before anything else is made of it."""
        source, ids_N = self.bench.saved.source, self.bench.prepared.splits["train"].ids_N
        self.crowd.begin()
        for tick in steps:
            self.crowd.step(tick.seconds, tick.seconds * tick.tokens_per_second)
            events.rows(tick.step, source.taken.epoch, lambda: ids_N[source.taken.rows].tolist())
            yield tick

    @cached_property
    def _limits(self) -> dict[str, Any]:
        return {"max_tokens": self.bench.recipe.evaluate.max_batch_tokens, "device": self.bench.care.device}

    def _validation_scores(self) -> dict[str, float]:
        with undisturbed(), averaged(self.bench.parts, self.bench.saved.optimiser):
            return brought_together({name: self._scores_of(bench) for name, bench in each_task(self.bench).items()}, self.bench)

    def _scores_of(self, bench: Bench) -> dict[str, float]:
        split, world = bench.prepared.splits["validation"], bench.care.world
        outputs = outputs_of(bench.work, bench.parts, split, **self._limits, check=self.stop.check_together, world=world)
        return quick_scores(bench.work, outputs)


def _note_data(run: RunFolder, prepared: Prepared) -> None:
    """Write what is known of the rows, and say what is worth knowing."""
    files.write_json(run.data, prepared.facts)
    files.write_text(run.quarantine, prepared.quarantine.read_text(encoding="utf-8"))
    for note in prepared.facts.get("notes", []):
        log.log(logging.WARNING if note.startswith("warning: ") else logging.INFO, note.removeprefix("warning: "))


def _newest(run: RunFolder, world: World) -> Path | None:
    """Return the newest checkpoint that verifies, and say what is wrong with newer ones."""
    checkpoint.sweep(run.checkpoints)
    folder, complaints = checkpoint.newest_valid(run.checkpoints)
    for complaint in complaints:
        log.warning(complaint)
    if folder is None:
        log.info("no checkpoint yet: starting from step 0")
        return None
    saved = files.read_json(folder / checkpoint.STATE)
    here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "processes": world.size}
    changed = [f"{name} {saved[name]} then, {now} now" for name, now in here.items() if saved.get(name, now) != now]
    if changed:
        log.warning("%s: the last bits of the numbers may differ", "; ".join(changed))
    return folder
