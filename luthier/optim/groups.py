"""Parameter groups: which rate and which decay each parameter has."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from torch import nn


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], *, new: frozenset[str], learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Sort trained parameters into groups; vectors (biases, norms) are never decayed.

    Args:
        named: Parameters by name; those that need no gradient are left out.
        new: Names of parameters that started from nothing, and learn at `head_learning_rate`.
        learning_rate: Highest rate of the others.
        head_learning_rate: Highest rate of the new ones.
        weight_decay: Decay of matrices.

    Returns:
        Groups for torch, each with `name`, `params`, `lr` and `weight_decay`; empty ones are left out.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        where = "head" if name in new else "body"
        decayed = parameter.ndim >= 2
        group = groups.setdefault(
            where if decayed else f"{where}, no decay",
            {
                "name": where if decayed else f"{where}, no decay",
                "params": [],
                "lr": head_learning_rate if where == "head" else learning_rate,
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def inner_apart(groups: Iterable[dict[str, Any]], outer: Container[int]) -> list[dict[str, Any]]:
    """Split groups into matrices inside the model and everything else; `inner` says which of the two a group is.

    Args:
        groups: Groups for torch.
        outer: `id` of parameters that are matrices and stand at the edge of the model: embeddings, output layers, new heads.

    Returns:
        The groups, those with both kinds as two, the second with `, outer` in its name.
    """
    found: list[dict[str, Any]] = []
    for group in groups:
        kinds: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for parameter in group["params"]:
            kinds[parameter.ndim == 2 and id(parameter) not in outer].append(parameter)
        for inner, params in kinds.items():
            if params:
                name = group["name"] if inner or not kinds[True] else f"{group['name']}, outer"
                found.append({**group, "name": name, "params": params, "inner": inner})
    return found
