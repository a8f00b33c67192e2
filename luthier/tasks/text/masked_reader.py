"""A model that fills masked words in, as the task calls it: only masked places reach the vocabulary.

B rows, T tokens, S masked places, H width of a state, V words, K likeliest ones.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.core.errors import ConfigError, Fault
from luthier.losses.vocabulary.chunked import Precision, linear_cross_entropy
from luthier.losses.vocabulary.likelihood import most_likely
from luthier.models.content import has_content
from luthier.models.grown_embedding import GrownEmbedding

ROWS = 128  # places whose logits are held together: 16 MiB for 30,000 words

_asked = threading.local()


class MaskedReader(nn.Module):
    """A model of transformers for masked words whose forward pass ends in the summed loss of the masked places.

    Args:
        model: A masked language model with its vocabulary head.

    Raises:
        ConfigError: if its logits are more than a product of states, weights and a bias, so that the loss would not be its own.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.before_head = nn.Identity()
        if has_content(model):
            _require_plain_head(self)

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    def forward(self, inputs: dict[str, Tensor], at_S: Tensor, tokens_S: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of the masked tokens, summed.

        Args:
            inputs: What the model is called with.
            at_S: Places of the masked tokens, in all rows laid end to end.
            tokens_S: What stood there.
            label_smoothing: Share of the probability spread over the vocabulary.
        """
        precision: Precision = "bf16" if torch.is_autocast_enabled(at_S.device.type) else "fp32"
        weight_VH, bias_V = self.head()
        states_SH = self.states(inputs, at_S)
        return linear_cross_entropy(states_SH, weight_VH, tokens_S, bias_V=bias_V, label_smoothing=label_smoothing, precision=precision)

    @torch.no_grad()
    def scores(self, inputs: dict[str, Tensor], at_S: Tensor, tokens_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each masked place the negative log-probability of its token in nats, and the likeliest token; `(S,)` each."""
        weight_VH, bias_V = self.head()
        nats_S, best_S = most_likely(self.states(inputs, at_S), weight_VH, tokens_S, bias_V)
        return nats_S.cpu(), best_S.cpu()

    @torch.no_grad()
    def likeliest(self, inputs: dict[str, Tensor], at_S: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """Return the likeliest tokens of each place, best first, and their log-probabilities; `(S, K)` each."""
        weight_VH, bias_V = self.head()
        found = []
        for states_RH in self.states(inputs, at_S).split(ROWS):
            logits_RV = functional.linear(states_RH, weight_VH, bias_V).float()
            top = logits_RV.log_softmax(1).topk(min(num, logits_RV.shape[1]), dim=1)
            found.append((top.indices.cpu(), top.values.cpu()))
        return torch.cat([words for words, _ in found]), torch.cat([logs for _, logs in found])

    def states(self, inputs: dict[str, Tensor], at_S: Tensor) -> Tensor:
        """Return what the vocabulary is multiplied by at some places, `(S, H)`: after the head's own layers."""
        head = self.model.get_output_embeddings()
        if not isinstance(head.__dict__.get("forward"), partial):
            head.forward = partial(_states_or_logits, head)
        _asked.for_states = True
        try:
            states_BTH = self.model(**inputs).logits
        finally:
            _asked.for_states = False
        states_SH: Tensor = self.before_head(states_BTH.flatten(0, 1).index_select(0, at_S))
        return states_SH

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the vocabulary; tokens that were added are read and written by one table, without a bias."""
        head, words = self.model.get_output_embeddings(), self.model.get_input_embeddings()
        if not isinstance(words, GrownEmbedding):
            return head.weight, head.bias
        bias_V = None if head.bias is None else functional.pad(head.bias, (0, len(words.new)))
        return torch.cat([head.weight, words.new]), bias_V


def _states_or_logits(head: Any, states: Tensor) -> Tensor:
    """Hand the states on where they are wanted in this thread, in the place of the logits of every position."""
    if getattr(_asked, "for_states", False):
        return states
    logits: Tensor = type(head).forward(head, states)
    return logits


@torch.no_grad()
def _require_plain_head(reader: MaskedReader) -> None:
    """Refuse a model whose logits are not the product of what its head reads."""
    model = reader.model
    kind, fix = model.config.model_type, "use another architecture, such as bert, roberta, distilbert or electra"
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError([Fault("model.path", f"the head of a {kind} for masked words is not known", fix)])
    ids = torch.arange(min(4, model.config.vocab_size), device=model.device)[None]
    was_training = model.training
    model.eval()
    own = model(input_ids=ids).logits[0]
    try:
        states = reader.states({"input_ids": ids}, torch.arange(ids.numel(), device=ids.device))
    except RuntimeError:  # what comes after the product does not fit what goes into it
        states = own
    model.train(was_training)
    plain = functional.linear(states, head.weight, head.bias) if states.shape[1] == head.weight.shape[1] else None
    if plain is None or plain.shape != own.shape or not torch.allclose(plain, own, atol=1e-4, rtol=1e-3):
        what = f"the head of a {kind} does more than a matrix product, which is not supported"
        raise ConfigError([Fault("model.path", what, fix)])
