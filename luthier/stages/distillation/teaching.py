"""The teacher's part in a run: opened when everything is laid out, asked before the first step where its answers can be kept."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Part, Parts
from luthier.data.prepared import Prepared
from luthier.data.source import Load
from luthier.losses.distillation.section import DistillSection
from luthier.models.blocks import blocks_of
from luthier.models.lean.bert import give_all_positions
from luthier.models.outline import outlining
from luthier.recipe import Recipe
from luthier.stages.distillation.answers import Answers, answers_in_file, stored_answers, telling
from luthier.stages.distillation.distilled import PROJECTION, Distilled, Projection
from luthier.stages.distillation.teacher import Teacher, open_teacher
from luthier.stages.distillation.unlabelled import unlabelled_rows
from luthier.stages.distillation.watched import value_layer
from luthier.stages.layout.decide import width_of
from luthier.tasks.task import ClassWork, RowWork, Work
from luthier.training.retention.replay import OldRows
from luthier.training.state import undisturbed
from luthier.training.step_rules.step_rule import Losses

if TYPE_CHECKING:
    from luthier.stages.layout.begin import Bench

log = logging.getLogger("luthier")
LAYERS = "distill.layers"


@dataclass(frozen=True)
class Teaching:
    """What a run learns from a teacher, and where from.

    Args:
        section: The recipe's section.
        teacher: The teacher; None where its answers are known and nothing else is wanted of it.
        answers: Its answers to the training rows, where they are known.
        pairs: Layers of the student, and those of the teacher that they are compared with.
        unlabelled: Rows without labels that come beside the others, or None.
    """

    section: DistillSection
    teacher: Teacher | None
    answers: Answers | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    unlabelled: OldRows | None = None

    def losses(self, work: Work) -> Losses:
        """Return the task at work with the teacher's terms beside its own."""
        return Distilled(work, self.section, self.teacher, self.pairs)

    def loading(self, load: Load) -> Load:
        """Return how a batch is loaded: with the teacher's answers where they are known, and with rows that have no labels."""
        load = load if self.answers is None else telling(self.answers, load)
        return load if self.unlabelled is None else self.unlabelled.loading(load)


def taught(recipe: Recipe, prepared: Prepared, work: Work, parts: Parts, device: str) -> Teaching | None:
    """Open the teacher, or the file with its answers; None where there is none, or only a plan is made.

    A projection is put beside the parts where states of different widths are compared.

    Args:
        recipe: The recipe.
        prepared: Encoded rows.
        work: The task at work.
        parts: The student.
        device: Device of the modules.

    Raises:
        ConfigError: if the teacher does not fit.
        DataError: if the file does not.
        SetupError: if the teacher cannot be loaded.
    """
    section = recipe.distill
    if section is None or outlining():
        return None
    if section.logits is not None:
        return Teaching(section, None, answers_in_file(section.logits, prepared, multi_label=prepared.multi_label))
    with undisturbed():
        teacher = open_teacher(recipe, prepared, work, device)
    unlabelled = unlabelled_rows(recipe, work) if isinstance(work, ClassWork) else None
    if not section.looks_inside:
        return Teaching(section, teacher, unlabelled=unlabelled)
    student = parts["model"].module
    blocks, theirs = blocks_of(student, LAYERS), blocks_of(teacher.module, LAYERS)
    pairs = layer_pairs(section.layers, len(blocks), len(theirs))
    if section.attention:
        for one, other in pairs:
            value_layer(blocks[one]), value_layer(theirs[other])
    if section.hidden:
        give_all_positions(student)
        give_all_positions(teacher.module)
        widths = [width_of(module.config) for module in (student, teacher.module)]
        if widths[0] != widths[1]:
            parts[PROJECTION] = Part(Projection(widths[0], widths[1]).to(device))
    return Teaching(section, teacher, pairs=pairs, unlabelled=unlabelled)


def layer_pairs(how: str | dict[int, int], mine: int, theirs: int) -> tuple[tuple[int, int], ...]:
    """Return the layers that are compared, the student's and the teacher's, each counted from 0.

    Args:
        how: last, even, or a map.
        mine: Layers of the student.
        theirs: Layers of the teacher.

    Raises:
        ConfigError: if a map names a layer that is not there.
    """
    if how == "last":
        return ((mine - 1, theirs - 1),)
    if not isinstance(how, dict):
        return tuple((place, max(0, round((place + 1) * theirs / mine) - 1)) for place in range(mine))
    outside = [f"{one}: {other}" for one, other in how.items() if not (0 <= one < mine and 0 <= other < theirs)]
    if outside or not how:
        what = f"the map has {', '.join(outside) or 'no layers'}; the student has layers 0 to {mine - 1}, the teacher 0 to {theirs - 1}"
        raise ConfigError([Fault(LAYERS, what, f"such as {LAYERS}={{{mine - 1}: {theirs - 1}}}, or {LAYERS}=even")])
    return tuple(sorted(how.items()))


def with_answers(bench: Bench) -> tuple[Bench, float]:
    """Return the bench with the teacher's answers to all training rows where they can be kept, and the seconds it took; says what it does.

    Every process calls this. A teacher of whom nothing else is wanted is let go.
    """
    teaching = bench.teaching
    if teaching is None or teaching.teacher is None or not teaching.section.weight:
        return bench, 0.0
    why = _why_not(bench)
    if why:
        if bench.care.world.rank == 0:
            log.info("the teacher is asked at every step: %s", why)
        return bench, 0.0
    started = time.perf_counter()
    with undisturbed():
        answers, said = stored_answers(bench.recipe, bench.prepared, teaching.teacher, bench.care)
    if bench.care.world.rank == 0:
        if answers is None:
            log.warning("the teacher is asked at every step: %s", said)
        else:
            log.info("teacher: %s", said)
    if answers is None:
        return bench, time.perf_counter() - started
    teacher = teaching.teacher if teaching.section.looks_inside or teaching.unlabelled is not None else None
    return replace(bench, teaching=replace(teaching, answers=answers, teacher=teacher)), time.perf_counter() - started


def _why_not(bench: Bench) -> str | None:
    """Return why the teacher's answers cannot be known before."""
    if isinstance(bench.work, RowWork):
        return "it answers each row in its own way, and such answers are not kept"
    if not isinstance(bench.work, ClassWork):
        return "its answers are those of a whole vocabulary for each token"
    if bench.recipe.data.augment:
        return "the rows are changed at random each epoch (data.augment)"
    return None if bench.recipe.distill is None or bench.recipe.distill.cache else "distill.cache is off"
