"""Prompt tuning: virtual tokens before every row are trained, and nothing else."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from luthier.adapters import adapters
from luthier.adapters.injection.prompted import Prompted


@adapters.add
class PromptTuning(Prompted):
    """Trained vectors in the place of words before every row, on the PEFT library.

    Args:
        num_virtual_tokens: How many.
        start: What they begin as.

    Reference: B. Lester and others, https://arxiv.org/abs/2104.08691; https://github.com/huggingface/peft
    """

    num_virtual_tokens: int = Field(20, ge=1, description="Virtual tokens before every row.")
    start: Literal["words", "random"] = Field(
        "words", description="The virtual tokens begin as embeddings of random tokens of the vocabulary (words), or as noise (random)."
    )

    def peft_config(self, host: Any, shared: dict[str, Any]) -> Any:
        """Return the configuration; see `Prompted.peft_config`."""
        from peft import PromptTuningConfig

        start = "SAMPLE_VOCAB" if self.start == "words" else "RANDOM"
        return PromptTuningConfig(num_virtual_tokens=self.num_virtual_tokens, prompt_tuning_init=start, **shared)

    @classmethod
    def example(cls) -> PromptTuning:
        """Return settings that the contract tests run on."""
        return cls(num_virtual_tokens=5)
