"""The gradients that one or several processes make of the same steps, written down by process 0."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced class weights": {"loss": {"type": "cross-entropy", "class_weights": "balanced"}},
    "windows": {"data.long_texts": "windows", "data.max_length": 7, "data.window_stride": 1},
    "mean pooling": {"model.head": {"pooling": "mean", "hidden": [8], "dropout": 0.0}},
    "frozen part": {},
}
SIZES = [(8, 1), (4, 3)]


def measure(recipes: dict[str, dict[str, Any]], how: str, file: str) -> int:
    """Write the gradient of every parameter at every step of one epoch, at the same weights, for every case and size of a step."""
    import torch
    from safetensors.torch import save_file

    from luthier.recipe import resolve
    from luthier.stages.running.under_way import join

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for case, recipe in recipes.items():
        for batch_size, accumulate in SIZES:
            size = {"batch_size": batch_size, "gradient_accumulation_steps": accumulate, "parallel": how}
            resolved = resolve(recipe, [("training", {**recipe["training"], **size})])
            world = join(resolved)
            for name, tensor in _gradients(resolved, world, how, frozen=case == "frozen part").items():
                found[f"{case}|{batch_size}x{accumulate}|{name}"] = tensor
    if world.rank == 0:
        save_file(found, Path(file))
    world.leave()
    return 0


def _gradients(resolved: Any, world: Any, how: str, *, frozen: bool) -> dict[str, Any]:
    import torch
    from torch.distributed.tensor import DTensor

    from luthier import flow
    from luthier.stages.layout.begin import lay_out

    bench = lay_out(resolved, flow.prepare(resolved), world)
    module = bench.parts["model"].module
    dice = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=dice))
    if frozen:
        module.base_model.embeddings.requires_grad_(False)
    world.spread(bench.parts, how=how, seed=0)
    parts, rule, found = world.training(bench.parts), bench.rule, {}
    windows = iter(bench.saved.source)
    for step in range(bench.pace.steps_per_epoch):
        window = next(windows)
        bench.saved.state.step = step
        means = rule.gradient(bench.losses, parts, window, nullcontext(), world)
        tokens = [float(sum(batch.num_tokens for batch in window if batch.counts))]
        found[f"{step}|tokens"] = torch.tensor(world.gathered(tokens))
        found[f"{step}|loss"] = torch.tensor(means["total"], dtype=torch.float64)
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.full_tensor() if isinstance(parameter.grad, DTensor) else parameter.grad
                found[f"{step}|gradient|{name}"] = gradient.clone()
        bench.saved.optimiser.zero_grad()
    return found
