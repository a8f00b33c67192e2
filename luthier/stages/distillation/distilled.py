"""The losses of a task with those of a teacher beside them.

B rows, C classes, W windows, T tokens, H width of the student, E width of the teacher.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.core.work import Batch, Part, Parts, Term, Terms
from luthier.losses.distillation.layers import hidden_distance, relation_distance
from luthier.losses.distillation.told import Classes, Told, YesNo
from luthier.stages.distillation.answers import TOLD
from luthier.stages.distillation.watched import Seen, watching
from luthier.training.retention.replay import parted

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
        batch, more = labelled(batch)
        weights: dict[str, float] = dict(self.work.weights(batch))
        if self.section.weight:
            weights |= {_soft(name): number + self._num_unlabelled(more) for name, number in self.work.num_told(batch).items()}
        layers = [name for name in ("hidden", "attention") if getattr(self.section, name)]
        return weights | dict.fromkeys(layers, float(batch.num_tokens))

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term: those of the labels with their share, and those of the teacher."""
        batch, more = labelled(batch)
        module: Any = parts["model"].module
        module = getattr(module, "module", module)  # inside what averages gradients over processes
        with self._watching(module, student=True) as mine:
            terms: Terms = self.work.losses(parts, batch)
        with self._watching(self.teacher.module, student=False) if self.teacher is not None else nullcontext(Seen()) as theirs:
            told = self._told_by_teacher(batch)
        bare = {**parts, "model": Part(module)}
        terms |= self._of_answers(bare, mine, told, batch, terms)
        terms |= self._of_layers(parts, mine, theirs, batch)
        return terms if more is None else terms | {"soft": self._with_unlabelled(terms["soft"], parts, bare, more)}

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

    def _num_unlabelled(self, more: Batch | None) -> float:
        """Return how many answers are learnt of rows without labels: one for each, or for each label of each."""
        labels = len(self.work.classes["loss"]) if getattr(self.work, "multi_label", False) else 1
        return 0.0 if more is None else float(len(more.ids) * labels)

    def _with_unlabelled(self, soft: Term, parts: Parts, bare: Parts, more: Batch) -> Term:
        """Return the term of the answers with those to rows that have no labels."""
        assert self.teacher is not None
        told = self.work.told(bare, self.work.given(parts, more), more)["loss"]
        apart = told.apart(self.teacher.told(more, self.work)["loss"], self.section.temperature)
        return soft._replace(sum=soft.sum + apart, weight=soft.weight + self._num_unlabelled(more))

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


def labelled(batch: Batch) -> tuple[Batch, Batch | None]:
    """Return the rows of a batch that have labels, and those that came in it without."""
    rows, more = parted(batch)
    if more is None:
        return rows, None
    return replace(rows, num_tokens=rows.num_tokens - int(more.inputs["attention_mask"].sum())), more


def _soft(name: str) -> str:
    """Return what the teacher's share of a loss term is called."""
    return "soft" if name == "loss" else f"soft {name}"


def heads_of(module: Any) -> int:
    """Return into how many heads the values of a model are cut."""
    config = module.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
