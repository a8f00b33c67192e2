"""One kernel for packed documents: it is asked for what their attention means, and left out where it cannot do it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.core.errors import SetupError
from luthier.models import varlen
from luthier.models.packed import attend_packed, leak, packed_attention
from luthier.training.speed.section import SpeedSection
from tests.models.test_packed import made

LENGTHS = (5, 1, 9)
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def parts(dtype: torch.dtype) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, sum(LENGTHS), WIDTH, generator=rng).to(dtype) for heads in (HEADS, KEY_HEADS, KEY_HEADS)]


class Kernel:
    """What torch documents of its kernel, computed plainly; counts its calls."""

    calls = 0

    def __call__(self, query_TEH: Tensor, key_TGH: Tensor, value_TGH: Tensor, *places: Any, **options: Any) -> Tensor:
        Kernel.calls += 1
        starts_q, starts_k, longest_q, longest_k = places
        assert torch.equal(starts_q, starts_k) and starts_q.dtype == torch.int32 and options["window_size"] == (-1, 0)
        assert longest_q == longest_k == int(starts_q.diff().max())
        repeated = [part.repeat_interleave(query_TEH.shape[1] // part.shape[1], 1) for part in (key_TGH, value_TGH)]
        outs = []
        for begin, end in zip(starts_q[:-1].tolist(), starts_q[1:].tolist(), strict=True):
            query, key, value = (part[begin:end].transpose(0, 1).float() for part in (query_TEH, *repeated))
            scores = query @ key.transpose(1, 2) * (options["scale"] or query.shape[-1] ** -0.5)
            later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
            outs.append((scores.masked_fill(later, -torch.inf).softmax(-1) @ value).transpose(0, 1))
        return torch.cat(outs).to(query_TEH.dtype)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Kernel]:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", Kernel())
    monkeypatch.setattr(Kernel, "calls", 0)
    return Kernel


@pytest.mark.parametrize("scaling", [None, 0.2])
def test_the_kernel_is_asked_for_attention_within_each_document(kernel: type[Kernel], scaling: float | None) -> None:
    mask = torch.tensor(LENGTHS, dtype=torch.int32)[None, None, None]
    found, _ = varlen.varlen_attention(None, *parts(torch.bfloat16), mask, scaling=scaling)
    wanted, _ = packed_attention(None, *parts(torch.float32), mask, scaling=scaling)
    assert kernel.calls == 1 and found.shape == wanted.shape and (found.float() - wanted).abs().max() < 0.03


@pytest.mark.parametrize(("dtype", "dropout"), [(torch.float32, 0.0), (torch.bfloat16, 0.5)])
def test_what_the_kernel_cannot_do_goes_the_plain_way(kernel: type[Kernel], dtype: torch.dtype, dropout: float) -> None:
    mask = torch.tensor(LENGTHS, dtype=torch.int32)[None, None, None]
    torch.manual_seed(1)
    found, _ = varlen.varlen_attention(None, *parts(dtype), mask, dropout=dropout)
    torch.manual_seed(1)
    wanted, _ = packed_attention(None, *parts(dtype), mask, dropout=dropout)
    assert kernel.calls == 0 and torch.equal(found, wanted)


@torch.no_grad()
def test_a_model_that_attends_packed_uses_it_in_every_layer(kernel: type[Kernel]) -> None:
    model = made("llama")
    assert not varlen.attend_varlen(model)
    attend_packed(model)
    assert varlen.attend_varlen(torch.nn.ModuleDict({"model": model})) and model.config._attn_implementation == varlen.VARLEN
    assert leak(model.bfloat16(), "flat") < 0.05 and kernel.calls == 2


def test_without_a_gpu_it_is_refused() -> None:
    from luthier.training.speed.blocks import require_gpu

    with pytest.raises(SetupError, match="varlen_attention needs a GPU"):
        require_gpu(SpeedSection(varlen_attention=True), "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_a_gpu_gives_the_same() -> None:
    model = made("llama").cuda().bfloat16()
    attend_packed(model)
    assert varlen.attend_varlen(model) and leak(model, "flat") < 0.05
