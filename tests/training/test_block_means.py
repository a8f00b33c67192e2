"""What is done to blocks: the same gradients from checkpointed and compiled ones, and clear words where something is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from luthier import flow
from luthier.core.errors import ConfigError, SetupError
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.speed import blocks
from luthier.training.speed.section import SpeedSection

MakeRecipe = Callable[..., dict[str, Any]]


def bench(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def gradient(found: Bench, *, seed: int = 5) -> tuple[torch.Tensor, int]:
    """The gradient of the first step, and the bytes that the forward pass keeps for the backward pass."""
    window = next(iter(found.saved.source))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(seed)
    parameters = {p.data_ptr() for p in found.parts["model"].module.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = found.work.losses(found.parts, window[0])["loss"].sum
    total.backward()
    grads = [p.grad.flatten() for p in found.parts["model"].module.parameters() if p.grad is not None]
    return torch.cat(grads), sum(size for place, size in kept.items() if place not in parameters)


def test_checkpointed_blocks_give_the_same_gradient_with_dropout_and_keep_less(recipe: MakeRecipe) -> None:
    plain, much = gradient(bench(recipe("plain")))
    found, little = gradient(bench(recipe("less", {"training.speed.activation_checkpointing": True})))
    assert float((found - plain).norm() / plain.norm()) <= 1e-6 and float(plain.norm()) > 0
    assert little < 0.6 * much


def test_what_cannot_be_checkpointed_is_said() -> None:
    with pytest.raises(ConfigError, match="training.speed.activation_checkpointing: a Linear does not support it"):
        blocks.checkpoint_activations(nn.Linear(2, 2))


def test_liger_says_what_it_lacks() -> None:
    with pytest.raises(SetupError, match="liger needs a GPU"):
        blocks.speed_up({}, SpeedSection(liger=True), "cpu")
    if blocks.find_spec("liger_kernel") is None:
        with pytest.raises(SetupError, match="liger-kernel") as caught:
            blocks.use_liger(nn.Linear(2, 2))
        assert caught.value.fix == "pip install 'luthier[liger]'"


def test_blocks_are_found_and_a_missing_compiler_is_said(recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bench(recipe("run")).parts["model"].module
    assert [type(block).__name__ for block in blocks.blocks_of(model)] == ["BertLayer", "BertLayer"]
    monkeypatch.setattr(blocks.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SetupError, match="no C\\+\\+ compiler"):
        blocks.compile_blocks(model, "cpu")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="no list of equal blocks"):
        blocks.compile_blocks(nn.Linear(2, 2), "cuda")


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradient(recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not any(map(blocks.shutil.which, blocks.COMPILERS)):
        pytest.skip("no C++ compiler")
    still = tiny.make_tiny_model(tmp_path_factory.mktemp("models") / "still", dropout=0.0)
    plain, compiled = bench(recipe("plain", model=still)), bench(recipe("compiled", {"training.speed.compile": True}, model=still))
    wanted, found = gradient(plain)[0], gradient(compiled)[0]
    assert float((found - wanted).norm() / wanted.norm()) <= 1e-5 and float(wanted.norm()) > 0
    names = [set(one.parts["model"].module.state_dict()) for one in (plain, compiled)]
    assert names[0] == names[1], "checkpoints are the same with and without"
