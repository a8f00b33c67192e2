"""Frozen matrices in 4 or 8 bits, by bitsandbytes: how they are loaded, computed with, and made whole again."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.errors import ConfigError, Fault, SetupError

log = logging.getLogger("luthier")
LAYERS = ("Linear4bit", "Linear8bitLt")
BYTES = {None: 4.0, "nf4": 0.5, "int8": 1.0}
"""Bytes of a number of a matrix, at least."""
BLOCK = 64
"""Numbers that share a scale where there are 4 bits."""


def settings_of(kind: str, skipped: list[str]) -> Any:
    """Return the settings with which transformers loads a model.

    Args:
        kind: nf4 or int8.
        skipped: Modules that stay as they are.

    Raises:
        SetupError: if bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        what = f"model.quantize={kind} needs the package bitsandbytes, which is not installed"
        raise SetupError(what, fix="pip install 'luthier[quantize]', or leave model.quantize out")
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=skipped
    )


def kept_whole(auto_class: Any, config: Any, kind: str) -> list[str]:
    """Return what is not quantised, by name: everything beside the body, and for nf4 the matrices whose rows are not whole blocks.

    On CPUs bitsandbytes 0.50 gives such matrices back wrong: rows of 32, 48 or 96 numbers differ by 24 to 47 % instead of 9.

    Raises:
        ConfigError: if nothing would be quantised.
    """
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        model = auto_class.from_config(config)
    children = dict(model.named_children())
    prefix = model.base_model_prefix if model.base_model_prefix in children else ""
    vocabulary = model.get_output_embeddings()  # of an encoder-decoder that is its own body; often the word embedding too
    heads = [name for name, layer in children.items() if (name != prefix if prefix else layer is vocabulary)]
    matrices = {name: layer for name, layer in model.base_model.named_modules(prefix=prefix) if name not in heads}
    rows = {
        n: m.weight.shape[0] if isinstance(m, Conv1D) else m.in_features for n, m in matrices.items() if isinstance(m, nn.Linear | Conv1D)
    }
    uneven = [name for name, length in rows.items() if kind == "nf4" and length % BLOCK]
    if len(uneven) == len(rows):
        what = f"no matrix of a {config.model_type} of this size has rows of a multiple of {BLOCK} numbers, as 4 bits want them"
        raise ConfigError([Fault("model.quantize", what, "use model.quantize=int8, or leave it out")])
    if uneven:
        log.info("%d of %d matrices stay whole: their rows are no multiple of %d numbers", len(uneven), len(rows), BLOCK)
    return [*heads, *uneven]


def bytes_spared(module: nn.Module, kind: str) -> float:
    """Return how much less memory the frozen matrices of a planned model take once they are quantised, their scales counted.

    Args:
        module: A model that is whole, with an adapter in it.
        kind: nf4 or int8.
    """
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    host: Any = next(inner for inner in module.modules() if isinstance(inner, PreTrainedModel))
    whole = set(getattr(host, "_keep_in_fp32_modules", None) or ())
    spared = 0.0
    for name, layer in host.base_model.named_modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, nn.Linear | Conv1D) or weight is None or weight.requires_grad or layer is host.get_output_embeddings():
            continue
        rows, length = weight.shape[::-1] if isinstance(layer, Conv1D) else weight.shape
        if "original_module" in name or whole & set(name.split(".")) or (kind == "nf4" and length % BLOCK):
            continue
        scales = 4 * (weight.numel() / BLOCK if kind == "nf4" else rows)
        spared += weight.nbytes - BYTES[kind] * weight.numel() - scales
    return spared


def layers_in(module: nn.Module) -> dict[str, Any]:
    """Return the quantised layers of a module by name; the PEFT library's around them have the same names of classes."""
    named = module.named_modules()
    return {n: layer for n, layer in named if type(layer).__name__ in LAYERS and type(layer).__module__.startswith("bitsandbytes.")}


def settle(model: Any) -> None:
    """Let quantised layers compute the product with their weights as they are, in training as in measuring.

    bitsandbytes would round 4-bit scales to bfloat16 when it first measures on some CPUs, and keeps them so; and it would round the states
    before 8-bit weights too, by a rule that looks at all rows together.
    """
    for layer in layers_in(model).values():
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False
        else:
            layer.forward = EightBits(layer)


class EightBits:
    """What a layer of 8-bit weights does instead of its own forward.

    Args:
        layer: A Linear8bitLt of bitsandbytes.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, states: Tensor) -> Tensor:
        """Return the product with the weights and the bias."""
        layer = self.layer
        product: Tensor = _Product.apply(states, layer.weight.data, _scales_of(layer))
        return product if layer.bias is None else product + layer.bias.to(product.dtype)


class _Product(torch.autograd.Function):
    """States times whole weights, which are made anew in the backward pass: what is kept is the 8 bits."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, codes_OI: Tensor, scales_O: Tensor) -> Tensor:
        """Return the product, in the arithmetic of the context."""
        ctx.save_for_backward(codes_OI, scales_O)
        return nn.functional.linear(states, _whole(codes_OI, scales_O).to(states.dtype))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the states."""
        codes_OI, scales_O = ctx.saved_tensors
        return given[0] @ _whole(codes_OI, scales_O).to(given[0].dtype), None, None


def dequantize(module: nn.Module) -> int:
    """Put plain layers of the same weights, in float32, in the place of quantised ones; returns how many there were."""
    from transformers import PreTrainedModel
    from transformers.pytorch_utils import Conv1D

    found = layers_in(module)
    for name, layer in found.items():
        weight_OI = _weight_of(layer)
        on_its_side = issubclass(layer.source_cls, Conv1D)
        plain: Any = Conv1D(*weight_OI.shape) if on_its_side else nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight = nn.Parameter(weight_OI.T.contiguous() if on_its_side else weight_OI, requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
        module.set_submodule(name, plain)
    models: list[Any] = [inner for inner in module.modules() if isinstance(inner, PreTrainedModel) and hasattr(inner, "hf_quantizer")]
    for model in models:
        model.hf_quantizer.remove_quantization_config(model)
        model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
    return len(found)


def _weight_of(layer: Any) -> Tensor:
    """Return the whole weights of a quantised layer, one row for each of its outputs, in float32."""
    if type(layer).__name__ == "Linear8bitLt":
        return _whole(layer.weight.data, _scales_of(layer))
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return whole.float()


def _scales_of(layer: Any) -> Tensor:
    scales_O: Tensor = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    return scales_O


def _whole(codes_OI: Tensor, scales_O: Tensor) -> Tensor:
    """Return 8-bit weights in float32; a scale is the largest weight of a row, which has the code 127."""
    return codes_OI.float() * (scales_O / 127)[:, None]
