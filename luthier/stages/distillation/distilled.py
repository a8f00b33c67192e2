"""The losses of a task with those of a teacher beside them.

B rows, C classes, W windows, T tokens, S supervised tokens, H width of the student, E width of the teacher.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.core.work import Batch, Parts, Term, Terms
from luthier.losses.distillation.layers import hidden_distance, relation_distance
from luthier.losses.distillation.soft_targets import num_targets, soft_targets
from luthier.losses.distillation.words import Scored, soft_words
from luthier.stages.distillation.answers import TOLD
from luthier.stages.distillation.watched import Seen, watching
from luthier.tasks.task import WritingWork
from luthier.tasks.text.windows import mean_of_windows

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
        """Return the weight of each loss term: rows or supervised tokens for answers, tokens for layers."""
        weights: dict[str, float] = dict(self.work.weights(batch))
        if self.section.weight and isinstance(self.work, WritingWork):
            weights["soft"] = float(len(batch.targets["tokens"]))
        elif self.section.weight:
            targets = batch.targets["labels"]
            weights["soft"] = float(targets.numel())
        layers = [name for name in ("hidden", "attention") if getattr(self.section, name)]
        return weights | dict.fromkeys(layers, float(batch.num_tokens))

    def losses(self, parts: Parts, batch: Batch) -> Terms:
        """Return each loss term: that of the labels with its share, and those of the teacher."""
        module: Any = parts["model"].module
        module = getattr(module, "module", module)  # inside what averages gradients over processes
        with self._watching(module, student=True) as mine:
            terms: Terms = self.work.losses(parts, batch)
        own = terms["loss"]
        terms = terms | {"loss": own._replace(coefficient=(1 - self.section.weight) * own.coefficient)}
        with self._watching(self.teacher.module, student=False) if self.teacher is not None else nullcontext(Seen()) as theirs:
            soft = self._soft(module, mine, batch)
        terms |= {} if soft is None else {"soft": soft}
        return terms | self._of_layers(parts, mine, theirs, batch)

    def _watching(self, module: Any, *, student: bool) -> Any:
        places = tuple(pair[0 if student else 1] for pair in self.pairs)
        return watching(module, after=places if self.section.hidden else (), values=places if self.section.attention else ())

    def _soft(self, module: Any, mine: Seen, batch: Batch) -> Term | None:
        """Return the term of the answers; the teacher is asked also where only its layers are wanted."""
        weight, temperature = self.section.weight, self.section.temperature
        if isinstance(self.work, WritingWork):
            assert self.teacher is not None
            head = module.model.get_output_embeddings()
            states_SH = mine.body.last_hidden_state.flatten(0, 1).index_select(0, batch.targets["at"])
            summed = soft_words(Scored(states_SH, head.weight, head.bias), self.teacher.words(batch), temperature)
            return Term(summed, summed.new_tensor(float(len(states_SH))), weight)
        told_BC = batch.targets.get(TOLD)
        if self.teacher is not None and (told_BC is None or self.section.looks_inside):
            asked_BC = self.teacher.logits(batch)
            told_BC = asked_BC if told_BC is None else told_BC
        if not weight:
            return None
        assert told_BC is not None
        passes = [mean_of_windows(output.logits, batch) for output in mine.outputs]
        several = [soft_targets(logits_BC, told_BC, temperature, multi_label=self.work.multi_label) for logits_BC in passes]
        summed = torch.stack([one.sum for one in several]).mean()
        return Term(summed, summed.new_tensor(num_targets(told_BC, multi_label=self.work.multi_label)), weight)

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


def heads_of(module: Any) -> int:
    """Return into how many heads the values of a model are cut."""
    config = module.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
