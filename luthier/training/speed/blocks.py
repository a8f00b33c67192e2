"""Means that work on the blocks of a model: compiled, computed twice to save memory, or with kernels of another package.

All are off unless asked for.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

from torch import nn

from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.work import Parts
from luthier.data.cache import cache_root
from luthier.training.speed.section import SpeedSection

COMPILERS = ("c++", "g++", "clang++")


def speed_up(parts: Parts, speed: SpeedSection, device: str) -> None:
    """Change the blocks of the trained parts as the section says.

    Args:
        parts: Named modules, on their device.
        speed: The switches.
        device: Device of the run.

    Raises:
        SetupError: if a package, a compiler or a GPU is missing.
        ConfigError: if the model does not support what is asked for.
    """
    require_gpu(speed, device)
    for part in parts.values():
        if part.mode != "trained":
            continue
        if speed.liger:
            use_liger(part.module)
        if speed.activation_checkpointing:
            checkpoint_activations(part.module)
        if speed.compile:
            compile_blocks(part.module, device)


def require_gpu(speed: SpeedSection, device: str) -> None:
    """Refuse what needs a GPU where there is none.

    Raises:
        SetupError: naming the key.
    """
    for name in ("liger", "varlen_attention"):
        if getattr(speed, name) and device == "cpu":
            raise SetupError(f"training.speed.{name} needs a GPU, and none was found", fix=f"use training.speed.{name}=false")


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model: the members of its longest list of modules of one class."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    alike = [found for found in lists if found and len({type(block) for block in found}) == 1]
    return max(alike, key=len, default=[])


def compile_blocks(model: nn.Module, device: str) -> int:
    """Let torch compile each block at its first call, for any number of rows and tokens; returns how many blocks there are.

    What is compiled is kept in the cache folder, so a second run need not wait as long.

    Raises:
        SetupError: if a CPU's code cannot be compiled here.
        ConfigError: if the model has no blocks.

    Reference: torch.compile, TorchInductor.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if device == "cpu" and compiler is None:
        raise SetupError(f"no C++ compiler: looked for CXX, {', '.join(COMPILERS)}", fix="install g++, or use training.speed.compile=false")
    blocks = blocks_of(model)
    if not blocks:
        what = f"a {type(model).__name__} has no list of equal blocks to compile"
        raise ConfigError([Fault("training.speed.compile", what, "use training.speed.compile=false")])
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "compiled"))
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the input of each block for the backward pass, and compute the rest of it again there, with the same dropout.

    Raises:
        ConfigError: if the model does not support it.

    Reference: https://arxiv.org/abs/1604.06174, torch.utils.checkpoint.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        what = f"a {type(model).__name__} does not support it"
        raise ConfigError([Fault("training.speed.activation_checkpointing", what, "leave it off, and halve training.batch_size")])
    anyhow: Any = model
    if hasattr(model, "activation_checkpointing_enable"):  # its name in newer versions of transformers
        anyhow.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        anyhow.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def use_liger(model: nn.Module) -> None:
    """Put Liger's Triton kernels in place of the model's norms, rotations, feed-forward layers and losses.

    Raises:
        SetupError: if liger-kernel is not installed.
        ConfigError: if Liger knows no kernels for the model.

    Reference: https://github.com/linkedin/Liger-Kernel
    """
    if find_spec("liger_kernel") is None:
        raise SetupError("training.speed.liger needs the package liger-kernel, which is not installed", fix="pip install 'luthier[liger]'")
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance

    config: Any = model.config
    if config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        what = f"Liger has no kernels for a {config.model_type} model"
        raise ConfigError([Fault("training.speed.liger", what, "use training.speed.liger=false")])
    _apply_liger_kernel_to_instance(model=model)
