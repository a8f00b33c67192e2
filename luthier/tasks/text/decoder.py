"""A decoder as training and measuring call it: states of supervised tokens in, their loss out; never the logits of all positions.

B rows, T tokens of the layout (all rows in one where they are packed), S supervised tokens, H width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.core.errors import ConfigError, Fault
from luthier.losses.vocabulary.chunked import Precision, linear_cross_entropy
from luthier.losses.vocabulary.likelihood import likelihoods
from luthier.models.content import has_content
from luthier.models.packed import attend_packed


class Decoder(nn.Module):
    """A causal model of transformers whose forward pass ends in the summed loss of the supervised tokens.

    Args:
        model: A causal language model with its vocabulary head.

    Raises:
        ConfigError: if its logits are more than a product of states and weights, so that the loss would not be its own.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.before_head = nn.Identity()
        attend_packed(model)
        if has_content(model):
            _require_plain_head(model)

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    def forward(self, inputs: dict[str, Tensor], at_S: Tensor, tokens_S: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of the supervised tokens, summed.

        Args:
            inputs: What the body is called with.
            at_S: Place, in all rows laid end to end, of the token before each supervised one.
            tokens_S: The supervised tokens.
            label_smoothing: Share of the probability spread over the vocabulary.
        """
        head = self.model.get_output_embeddings()
        precision: Precision = "bf16" if torch.is_autocast_enabled(at_S.device.type) else "fp32"
        states_SH = self.states(inputs, at_S)
        return linear_cross_entropy(
            states_SH, head.weight, tokens_S, bias_V=head.bias, label_smoothing=label_smoothing, precision=precision
        )

    @torch.no_grad()
    def scores(self, inputs: dict[str, Tensor], at_S: Tensor, tokens_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each supervised token its negative log-probability in nats, and whether it was the most likely one; `(S,)` each."""
        head = self.model.get_output_embeddings()
        states_SH = self.states(inputs, at_S)
        nats_S, right_S = likelihoods(states_SH, head.weight, tokens_S, head.bias)
        return nats_S.cpu(), right_S.cpu()

    def states(self, inputs: dict[str, Tensor], at_S: Tensor) -> Tensor:
        """Return what the vocabulary head reads at some places, `(S, H)`."""
        states_BTH = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        states_SH: Tensor = self.before_head(states_BTH.flatten(0, 1).index_select(0, at_S))
        return states_SH

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the vocabulary head."""
        head = self.model.get_output_embeddings()
        return head.weight, head.bias


@torch.no_grad()
def _require_plain_head(model: Any) -> None:
    ids = torch.arange(min(4, model.config.vocab_size), device=model.device)[None]
    was_training = model.training
    model.eval()
    head = model.get_output_embeddings()
    try:
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    except RuntimeError as error:
        what = f"{model.config.model_type} cannot be computed with these sizes: {str(error).splitlines()[0]}"
        raise ConfigError([Fault("model", what, "check heads, key-value heads and width of model.scratch")]) from error
    plain, own = functional.linear(states, head.weight, head.bias), model(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    if plain.shape != own.shape or not torch.allclose(plain, own, atol=1e-4, rtol=1e-3):
        what = f"the head of {model.config.model_type} does more than a matrix product, which is not supported"
        raise ConfigError([Fault("model", what, "use another architecture, such as gpt2, llama, qwen2 or mistral")])
