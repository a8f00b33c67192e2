"""Swap modules of a laid-out model for faster ones that compute the same: each means has a switch under `training.speed`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Part, Parts
from luthier.data.prepared import Prepared
from luthier.models.attention import attend_tiled
from luthier.models.content import has_content
from luthier.models.lean.activation import swap_activations
from luthier.models.lean.bert import make_lean
from luthier.models.lean.dropout import swap_dropouts
from luthier.models.lean.row_embedding import RowEmbedding
from luthier.models.varlen import attend_varlen
from luthier.recipe import Recipe
from luthier.tasks.several.work import SeveralWork
from luthier.tasks.task import ClassWork, Work
from luthier.training.inference import run_batches

log = logging.getLogger("luthier")
MOST_USED = 0.8  # where more of the vocabulary than this occurs, learning only what occurs gains nothing
PROBED_ROWS = 4


def make_faster(recipe: Recipe, prepared: Prepared, work: Work, parts: Parts, *, device: str, num_processes: int) -> None:
    """Swap what the recipe's switches allow and the model is made of.

    What is on by default only on the CPU, where it was measured, and not for a model that is split among processes.

    Args:
        recipe: The recipe.
        prepared: Encoded rows.
        work: The task at work.
        parts: Named modules, swapped in place.
        device: Device of the modules.
        num_processes: Processes that train together.
    """
    speed = recipe.training.speed
    if speed.varlen_attention and device != "cpu":
        _attend_in_one_kernel(parts)
    if device != "cpu" or recipe.training.parallel == "fsdp2":
        return
    for part in parts.values():
        if part.mode != "trained":
            continue
        if speed.fast_dropout:
            swap_dropouts(part.module)
        if speed.tiled_attention and not speed.compile:
            attend_tiled(part.module)
        if speed.lean_blocks:
            swap_activations(part.module)
        if speed.lean_blocks and not speed.compile:
            answers = _answers(recipe, part, prepared, work) if speed.needed_positions else None
            made = make_lean(part.module, answers, fast_dropout=speed.fast_dropout)
            if made and recipe.adapter is not None and recipe.adapter.fills_caches:
                name = recipe.adapter.registered_name
                log.info("%s: the blocks are computed as transformers does (training.speed.lean_blocks is off)", name)
        augments = any(data.augment for data in recipe.sources)
        if speed.row_embedding and not augments and recipe.optim.rows_are_apart and _rows_are_left_alone(recipe):
            learn_used_rows(part.module, prepared, alone=num_processes == 1)


def _attend_in_one_kernel(parts: Parts) -> None:
    if not any([attend_varlen(part.module) for part in parts.values() if part.mode == "trained"]):
        what = "no model here attends to packed rows"
        raise ConfigError([Fault("training.speed.varlen_attention", what, "leave it off, or use data.packing=true with text-generation")])


def _rows_are_left_alone(recipe: Recipe) -> bool:
    """Whether the optimiser alone moves the rows of the embedding; says so where it does not."""
    training = recipe.training
    others = [f"training.{name}" for name in ("ema", "swa", "l2_sp") if getattr(training, name) is not None]
    others += [recipe.keep.reaches_every_row] if recipe.keep is not None and recipe.keep.reaches_every_row else []
    others += ["distill.unlabelled"] if recipe.distill is not None and recipe.distill.unlabelled else []
    if others:
        log.info("all rows of the word embedding are learnt (training.speed.row_embedding is off): %s reaches every row", others[0])
    return not others


def learn_used_rows(module: Any, prepared: Prepared, *, alone: bool) -> bool:
    """Let the word embedding learn only the rows of tokens that occur in training; returns whether it does."""
    old = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    if type(old) is not nn.Embedding or not old.weight.requires_grad or _is_shared(module, old):
        return False
    padding = [] if old.padding_idx is None else [old.padding_idx]
    used_U = np.union1d(prepared.splits["train"].token_ids.astype(np.int64), padding).astype(np.int64)
    if len(used_U) > MOST_USED * old.num_embeddings:
        return False
    module.set_input_embeddings(RowEmbedding(old, used_U, alone=alone))
    return True


def follow_steps(optimiser: torch.optim.Optimizer, parts: Parts) -> None:
    """Have every step of the optimiser seen: by the copies of its parameters, and by the rows of tables that it does not move.

    Fused optimisers change parameters without telling autograd's version counters, by which the copies know that they are old.
    """
    tables = {id(m.weight): m for part in parts.values() for m in part.module.modules() if isinstance(m, RowEmbedding)}

    def follow(stepped: torch.optim.Optimizer, *_: Any) -> None:
        for group in stepped.param_groups:
            torch.autograd.graph.increment_version(group["params"])
            for parameter in group["params"]:
                if id(parameter) in tables and parameter.requires_grad:
                    tables[id(parameter)].shrink(1 - group["lr"] * group["weight_decay"])

    optimiser.register_step_post_hook(follow)


def _answers(recipe: Recipe, part: Part, prepared: Prepared, work: Work) -> Callable[[], np.ndarray] | None:
    """Return what gives the logits of a few training rows; of a model without content (a plan) it is guessed what the head reads."""
    if isinstance(work, SeveralWork):
        return _answers_of_all(recipe, part, prepared, work)
    if not isinstance(work, ClassWork):
        return None
    if not has_content(part.module):
        return (lambda: np.zeros(1)) if recipe.model.head.pooling in ("auto", "cls") else None
    split = prepared.splits["train"]
    batch = work.collate([split.row(row) for row in range(min(PROBED_ROWS, len(split)))])
    return lambda: next(run_batches(work.outputs, {"model": part}, [batch])).logits_BC


def _answers_of_all(recipe: Recipe, part: Part, prepared: Prepared, work: SeveralWork) -> Callable[[], np.ndarray] | None:
    """Return what gives the logits of a few training rows of every task, where all have classes."""
    alone = {name: work.parts_of({"model": part}, name)["model"] for name in work.members}
    every = [_answers(recipe.of_task(name), alone[name], prepared.members[name], work.members[name]) for name in alone]
    known = [answers for answers in every if answers is not None]
    return (lambda: np.concatenate([answers().ravel() for answers in known])) if len(known) == len(every) else None


def _is_shared(module: nn.Module, old: nn.Embedding) -> bool:
    """Whether another module has the same table, such as a tied output layer."""
    holders = [m for m in module.modules() for p in m.parameters(recurse=False) if p is old.weight]
    return len(holders) > 1
