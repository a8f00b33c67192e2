"""The `training.speed` section of a recipe: a switch for every means."""

from __future__ import annotations

from pydantic import Field

from luthier.core.config import Section


class SpeedSection(Section):
    """Means that make training faster; each can be switched off. docs/speed.md says what each was measured to gain."""

    fast_dropout: bool = Field(True, description="Draw dropout masks from 16-bit random numbers, four to each 64-bit draw.")
    lean_blocks: bool = Field(
        True,
        description="Compute the blocks of BERT-like models as one function, with copies of the weights in bf16; GELU by tanh as one, too.",
    )
    tiled_attention: bool = Field(
        True, description="Attention as plain products, a tile of queries at a time, where that was measured to be faster than torch's."
    )
    needed_positions: bool = Field(True, description="Compute in the last block only the first position, where the head reads no other.")
    row_embedding: bool = Field(True, description="Gradients and updates of the word embedding only for tokens that occur in training.")
    half_frozen: bool = Field(True, description="Hold the frozen weights under an adapter in bf16 alone, where products are in bf16.")
    keep_memory: bool = Field(True, description="Keep the C library from giving freed memory back between steps.")
    prefetch: bool = Field(
        False, description="Load the next step's rows in a thread while a GPU computes; on a CPU it was not seen to gain."
    )
    tf32: bool = Field(False, description="On a GPU, let float32 matrix products use tensor cores with 10 bits of mantissa.")
    compile: bool = Field(
        False, description="Compile the model's blocks with torch.compile; on a CPU it was not seen to gain, and takes a minute."
    )
    activation_checkpointing: bool = Field(
        False, description="Keep only the input of each block and compute the rest again in the backward pass: less memory, more time."
    )
    varlen_attention: bool = Field(
        False, description="Attention of packed rows in one kernel of torch (FlashAttention), without attention dropout; needs a GPU."
    )
    liger: bool = Field(False, description="Triton kernels of the liger-kernel package in place of the model's; needs a GPU.")
    prefix_cache: bool = Field(True, description="Compute what frozen layers give for a training row once, and keep it on disk.")
    prefix_cache_gib: float = Field(8.0, ge=0, description="Most disk space of all such files together, in GiB.")
