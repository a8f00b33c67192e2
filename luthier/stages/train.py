"""The training stage: lay everything out, take up a checkpoint, run the loop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from luthier.core import files, machine, yaml
from luthier.core.run_folder import RunFolder
from luthier.core.tick import Tick
from luthier.data.prepared import Prepared
from luthier.recipe import Recipe
from luthier.stages.begin import Bench, lay_out
from luthier.stages.measure import outputs_of, quick_scores
from luthier.stages.start_head import start_head
from luthier.training import checkpoint
from luthier.training.events import EventLog
from luthier.training.fit import fit, owes_evaluation
from luthier.training.loop import ticks
from luthier.training.signals import StopSignal
from luthier.training.step_rules import step_rules
from luthier.training.trackers import trackers

log = logging.getLogger("luthier")


@dataclass
class Trainer:
    """One run of the loop on a run folder.

    Args:
        run: The run folder.
        bench: Everything laid out.
        stop: Remembers Ctrl-C and SIGTERM.
    """

    run: RunFolder
    bench: Bench
    stop: StopSignal = field(default_factory=StopSignal)

    @classmethod
    def set_up(cls, run: RunFolder, recipe: Recipe, prepared: Prepared, *, resume: bool) -> Trainer:
        """Lay everything out, write what was decided, and take up the newest checkpoint that verifies.

        Raises:
            SetupError: if the disk is too full, or the checkpoint belongs to other data or another model.
        """
        files.write_json(run.data, prepared.facts)
        files.write_text(run.quarantine, prepared.quarantine.read_text(encoding="utf-8"))
        for note in prepared.facts.get("notes", []):
            log.log(logging.WARNING if note.startswith("warning: ") else logging.INFO, note.removeprefix("warning: "))
        bench = lay_out(recipe, prepared)
        checkpoint.check_space(run.path, bench.parts, machine.free_disk_bytes(run.path))
        files.write_text(run.recipe, yaml.dump(bench.recipe.as_dict()))
        trainer = cls(run, bench)
        if not (resume and trainer._take_up()):
            bench.saved.state.seconds += start_head(bench)
        return trainer

    @property
    def is_done(self) -> bool:
        """Whether no step is left."""
        state = self.bench.saved.state
        ended = state.step >= self.bench.pace.total_steps or state.stopped_early
        return ended and not owes_evaluation(state, self.bench.plan)

    def ticks(self) -> Iterator[Tick]:
        """Train, with evaluation and checkpoints; every tick goes to the log and the trackers, then to the caller."""
        if self.is_done:
            return
        bench = self.bench
        events = EventLog(self.run.events, from_step=bench.saved.state.step)
        shown = self._trackers()
        rule = step_rules.get(bench.recipe.training.step_rule)()
        steps = ticks(bench.saved.source, bench.parts, bench.work, rule, bench.saved.optimiser, bench.pace, bench.saved.state, bench.care)
        try:
            for tick in fit(
                steps, bench.saved, bench.plan, evaluate=self._validation_scores, root=self.run.checkpoints, events=events, stop=self.stop
            ):
                for tracker in shown:
                    tracker.tick(tick)
                yield tick
        finally:
            events.close()
            for tracker in shown:
                tracker.close()

    @cached_property
    def _limits(self) -> dict[str, Any]:
        return {"max_tokens": self.bench.recipe.evaluate.max_batch_tokens, "device": self.bench.care.device}

    def _validation_scores(self) -> dict[str, float]:
        bench = self.bench
        outputs = outputs_of(bench.work, bench.parts, bench.prepared.splits["validation"], **self._limits, check=self.stop.check)
        return quick_scores(bench.work, outputs)

    def _trackers(self) -> list[Any]:
        section, recipe = self.bench.recipe.track, self.bench.recipe.as_dict()
        return [trackers.get(name)(self.run.path, project=section.project, recipe=recipe) for name in section.trackers]

    def _take_up(self) -> bool:
        """Put everything into the state of the newest checkpoint that verifies; returns whether there was one."""
        folder, complaints = checkpoint.newest_valid(self.run.checkpoints)
        for complaint in complaints:
            log.warning(complaint)
        if folder is None:
            log.info("no checkpoint yet: starting from step 0")
            return False
        checkpoint.load(folder, self.bench.saved)
        saved = files.read_json(folder / "state.json")
        if saved["torch"] != torch.__version__ or saved["threads"] != torch.get_num_threads():
            log.warning("another torch version or number of threads than before: the last bits of the numbers may differ")
        log.info("resumed from %s", folder.name)
        return True
