"""The losses of a task with those of a teacher beside them.

B rows, C classes, W windows, T tokens, H width of the student, E width of the teacher.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.core.work import Batch, Part, Parts, Term, Terms
from luthier.losses.distillation.layers import hidden_distance, relation_distance
from luthier.losses.distillation.told import Classes, Told, YesNo
from luthier.stages.distillation.answers import TOLD
from luthier.stages.distillation.watched import Seen, watching

if TYPE_CHECKING:
    from luthier.losses.distillation.section import DistillSection
    from luthier.stages.distillation.teacher import Teacher

PROJECTION = "projection"


class Projection(nn.Module):
    """Brings the student's states to the teacher's width; it is trained, kept in checkpoints, and no part of the saved model.

    Args:
        width: Of the student, H.
        to: Of the teacher, E.
    """

    def __init__(self, width: int, to: int) -> None:
        super().__init__()
        self.to_teacher = nn.Linear(width, to)

    def forward(self, states: Tensor) -> Tensor:
        """Return states of the teacher's width."""
        projected: Tensor = self.to_teacher(states)
        return projected


@dataclass(frozen=True)
class Distilled:
    """A task at work that learns from a teacher besides the labels.

    Args:
        work: The task at work.
        section: What is learnt from the teacher.
        teacher: The teacher, where it is asked at every step.
        pairs: Places of the student's layers, and those of the teacher's that they are compared with.
    """

    work: Any
    section: DistillSection
    teacher: Teacher | None
    pairs: tuple[tuple[int, int], ...] = ()

    def weights(self, batch: Batch) -> dict[str, float]:
        """Return the weight of each loss term: answers, such as rows or supervised tokens, and tokens for layers."""
        weights: dict[str, float] = dict(self.work.weights(batch))
        if self.section.weight:
            weights |= {_soft(name): number for name, number in self.work.num_told(batch).items()}
        layers = [name for name in ("hidden", "attention") if getattr(self.section, name)]
        return weights | dict.fromkeys(layers, float(batch.num_tokens))

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term: those of the labels with their share, and those of the teacher."""
        module: Any = parts["model"].module
        module = getattr(module, "module", module)  # inside what averages gradients over processes
        with self._watching(module, student=True) as mine:
            terms: Terms = self.work.losses(parts, batch)
        with self._watching(self.teacher.module, student=False) if self.teacher is not None else nullcontext(Seen()) as theirs:
            told = self._told_by_teacher(batch)
        terms |= self._of_answers({**parts, "model": Part(module)}, mine, told, batch, terms)
        return terms | self._of_layers(parts, mine, theirs, batch)

    def _watching(self, module: Any, *, student: bool) -> Any:
        places = tuple(pair[0 if student else 1] for pair in self.pairs)
        return watching(module, after=places if self.section.hidden else (), values=places if self.section.attention else ())

    def _told_by_teacher(self, batch: Batch) -> dict[str, Told]:
        """Return what the teacher says; it is asked also where only its layers are wanted, or its answers are known."""
        known_BC = batch.targets.get(TOLD)
        told = {}
        if self.teacher is not None and (known_BC is None or self.section.looks_inside):
            told = self.teacher.told(batch, self.work)
        if known_BC is None:
            return told
        return {"loss": YesNo(known_BC) if getattr(self.work, "multi_label", False) else Classes(known_BC)}

    def _of_answers(self, parts: Parts, mine: Seen, theirs: dict[str, Told], batch: Batch, terms: Terms) -> Terms:
        """Return the terms that the teacher has a share of, and beside each that of its answers; of several passes their mean."""
        weight, found = self.section.weight, Terms()
        if not weight:
            return found
        passes = [self.work.told(parts, given, batch) for given in mine.given]
        for name, number in self.work.num_told(batch).items():
            own = terms[name]
            apart = torch.stack([told[name].apart(theirs[name], self.section.temperature) for told in passes]).mean()
            found[name] = own._replace(coefficient=(1 - weight) * own.coefficient)
            found[_soft(name)] = Term(apart, apart.new_tensor(number), weight * own.coefficient)
        return found

    def _of_layers(self, parts: Parts, mine: Seen, theirs: Seen, batch: Batch) -> Terms:
        """Return the terms of states and relations: means over the layers that are compared."""
        if not self.section.looks_inside:
            return {}
        assert self.teacher is not None
        mask_WT = batch.inputs["attention_mask"]
        weight = torch.tensor(float(batch.num_tokens), device=mask_WT.device)
        terms: Terms = {}
        if self.section.hidden:
            project = parts[PROJECTION].module if PROJECTION in parts else nn.Identity()
            apart = [
                hidden_distance(project(mine.after[one]), theirs.after[other].clone(), mask_WT, self.section.hidden_loss)
                for one, other in self.pairs
            ]
            terms["hidden"] = Term(torch.stack(apart).mean(), weight, self.section.hidden)
        if self.section.attention:
            module: Any = parts["model"].module
            heads = gcd(heads_of(getattr(module, "module", module)), heads_of(self.teacher.module))
            apart = [relation_distance(mine.values[one], theirs.values[other].clone(), mask_WT, heads) for one, other in self.pairs]
            terms["attention"] = Term(torch.stack(apart).mean(), weight, self.section.attention)
        return terms


def _soft(name: str) -> str:
    """Return what the teacher's share of a loss term is called."""
    return "soft" if name == "loss" else f"soft {name}"


def heads_of(module: Any) -> int:
    """Return into how many heads the values of a model are cut."""
    config = module.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
