"""Attention by tiles gives what torch's does, and its gradients; dropout drops what it says."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from luthier.models.lean import tiled_attention as tiled
from luthier.models.lean.tiled_attention import tiled_attention


def made(batch: int, heads: int, groups: int, tokens: int, seen: int, width: int = 8) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((batch, heads, tokens, width), (batch, groups, seen, width), (batch, groups, seen, width))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("tile", [16, 128])
@pytest.mark.parametrize("kind", ["causal", "whole", "bool", "additive"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_values_and_gradients_are_those_of_torch(tile: int, kind: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE", tile)
    given = made(3, 4, groups, 45, 45)
    seen = torch.rand(3, 1, 45, 45) < 0.7
    seen[..., 0] = True
    mask = {"bool": seen, "additive": torch.zeros(seen.shape).masked_fill(~seen, -1e4)}.get(kind)
    found = tiled_attention(*given, mask, scale=0.3, causal=kind == "causal")
    wanted = scaled_dot_product_attention(*given, attn_mask=mask, scale=0.3, is_causal=kind == "causal", enable_gqa=True)
    assert torch.allclose(found, wanted, atol=1e-6)
    grad = torch.randn_like(found)
    pairs = zip(torch.autograd.grad(found, given, grad), torch.autograd.grad(wanted, given, grad), strict=True)
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, atol=2e-6)


def test_gradients_are_slopes_with_dropout_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "TILE", 4)
    given = [tensor.detach().double().requires_grad_() for tensor in made(1, 2, 1, 7, 7, 3)]

    def attend(*parts: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return tiled_attention(*parts, scale=0.5, dropout=0.3, causal=True)

    assert torch.autograd.gradcheck(attend, given)


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    query, key, _ = (tensor.detach() for tensor in made(2, 4, 4, 64, 64))
    ones = torch.ones(2, 4, 64, 64)
    found = tiled_attention(query[..., :8].repeat(1, 1, 1, 8), key[..., :8].repeat(1, 1, 1, 8), ones, scale=1e-9, dropout=0.25)
    assert abs(float(found.mean()) - 1) < 0.01 and found.std() > 0.01


def test_a_later_token_changes_nothing_before_it() -> None:
    query, key, value = (tensor.detach() for tensor in made(1, 2, 2, 300, 300))
    before = tiled_attention(query, key, value, scale=0.3, causal=True)
    for tensor in (query, key, value):
        tensor[:, :, 200:] = 7.0
    assert torch.equal(before[:, :, :200], tiled_attention(query, key, value, scale=0.3, causal=True)[:, :, :200])


@pytest.mark.parametrize(("packed", "dtype"), list(itertools.product([False, True], [torch.float32, torch.bfloat16])))
def test_a_model_with_tiles_gives_the_loss_of_one_without(packed: bool, dtype: torch.dtype) -> None:
    from luthier.models.attention import attend_tiled
    from luthier.models.packed import attend_packed, packed_inputs

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    model = LlamaForCausalLM(config)
    attend_packed(model)
    ids = [torch.randint(5, 60, (length,)).numpy() for length in (40, 38, 21, 40)]
    inputs = packed_inputs([ids]).inputs if packed else {"input_ids": torch.randint(5, 60, (3, 40))}

    def states() -> torch.Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            last = model.base_model(**inputs, use_cache=False).last_hidden_state.float()
        last.square().mean().backward()
        return last.detach()

    plain, slopes = states(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert attend_tiled(model) and "tiled" in model.config._attn_implementation
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    assert (states() - plain).abs().max() <= tolerance * plain.abs().max()
    for name, parameter in model.named_parameters():
        if name in slopes:
            assert (parameter.grad - slopes[name]).norm() <= tolerance * slopes[name].norm() + 1e-7
