"""An encoder-decoder as training, measuring and writing call it; never the logits of all positions.

B rows, T tokens of the source, U of the target, S supervised tokens, H width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch
from luthier.losses.vocabulary.chunked import Precision, linear_cross_entropy
from luthier.losses.vocabulary.likelihood import likelihoods
from luthier.models.content import has_content

IGNORED = -100


class EncoderDecoder(nn.Module):
    """An encoder-decoder of transformers whose forward pass ends in the summed loss of the target's tokens.

    Args:
        model: A model that reads a source and writes a target, with its vocabulary head.

    Raises:
        ConfigError: if it does not say how a target begins, or its logits are more than a product of states and weights.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.before_head = nn.Identity()
        self.start = _start_of(model)
        self.scale = _scale_of(self) if has_content(model) else 1.0

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    def forward(self, inputs: dict[str, Tensor], at_S: Tensor, tokens_S: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of the target's tokens, summed.

        Args:
            inputs: `input_ids` and `attention_mask` of the source, `labels` of the target, padded with -100.
            at_S: Place of each supervised token, in all targets laid end to end with their padding.
            tokens_S: The supervised tokens.
            label_smoothing: Share of the probability spread over the vocabulary.
        """
        weight, bias = self.head()
        precision: Precision = "bf16" if torch.is_autocast_enabled(at_S.device.type) else "fp32"
        states_SH = self.states(inputs, at_S)
        return linear_cross_entropy(states_SH, weight, tokens_S, bias_V=bias, label_smoothing=label_smoothing, precision=precision)

    @torch.no_grad()
    def scores(self, inputs: dict[str, Tensor], at_S: Tensor, tokens_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each supervised token its negative log-probability in nats, and whether it was the most likely one; `(S,)` each."""
        weight, bias = self.head()
        nats_S, right_S = likelihoods(self.states(inputs, at_S), weight, tokens_S, bias)
        return nats_S.cpu(), right_S.cpu()

    def states(self, inputs: dict[str, Tensor], at_S: Tensor) -> Tensor:
        """Return what the vocabulary head reads at some places of the targets, `(S, H)`."""
        states_SH: Tensor = self.before_head(self._decoded(inputs).flatten(0, 1).index_select(0, at_S) * self.scale)
        return states_SH

    def _decoded(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the decoder's last states over the targets shifted by one, `(B, U, H)`."""
        mask_BT, labels_BU = inputs["attention_mask"], inputs["labels"]
        read_BTH = self.model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask_BT).last_hidden_state
        shifted_BU = functional.pad(labels_BU[:, :-1], (1, 0), value=self.start)
        decoder = self.model.get_decoder()
        found = decoder(
            input_ids=shifted_BU.masked_fill(shifted_BU == IGNORED, self.config.pad_token_id or 0),
            encoder_hidden_states=read_BTH,
            encoder_attention_mask=mask_BT,
            use_cache=False,
        )
        states_BUH: Tensor = found.last_hidden_state
        return states_BUH

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the vocabulary head; BART and Marian keep the bias beside it."""
        head, beside_1V = self.model.get_output_embeddings(), getattr(self.model, "final_logits_bias", None)
        return head.weight, head.bias if beside_1V is None else beside_1V[0]


class Manner(Protocol):
    """How an answer is written; see the fields of `Seq2SeqTask`."""

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer."""

    @property
    def num_beams(self) -> int:
        """Beams of the search."""

    @property
    def temperature(self) -> float:
        """0 draws nothing."""

    @property
    def top_p(self) -> float:
        """Share of the probability that is drawn from."""

    @property
    def length_penalty(self) -> float:
        """Above 1 prefers longer answers."""

    @property
    def no_repeat_ngram_size(self) -> int:
        """So many tokens in a row are written once at most."""


def how_to_write(manner: Manner) -> dict[str, Any]:
    """Return settings of a manner as `generate` of transformers takes them."""
    how: dict[str, Any] = {"max_new_tokens": manner.max_new_tokens, "num_beams": manner.num_beams, "do_sample": manner.temperature > 0}
    how["no_repeat_ngram_size"] = manner.no_repeat_ngram_size
    if manner.num_beams > 1:
        how |= {"length_penalty": manner.length_penalty, "early_stopping": True}
    if manner.temperature > 0:
        how |= {"temperature": manner.temperature, "top_p": manner.top_p, "top_k": 0}
    return how


def write(module: Any, tokenizer: Any, batch: Batch, manner: Manner) -> list[tuple[int, str, np.ndarray]]:
    """Return for each source its id, the text that is written, and the logits `(V,)` of its first token.

    Args:
        module: An `EncoderDecoder`.
        tokenizer: Its tokenizer.
        batch: Sources.
        manner: How an answer is written.
    """
    first: list[Tensor] = []

    def keep_first(_: Any, __: Any, output: Any) -> None:
        if not first:
            first.append(output.logits[:: manner.num_beams, -1].detach().float().cpu())

    how, room = how_to_write(manner), (getattr(module.config, "max_position_embeddings", None) or 10**9) - 1
    hook = module.model.register_forward_hook(keep_first)
    try:
        found = module.model.generate(
            input_ids=batch.inputs["input_ids"],
            attention_mask=batch.inputs["attention_mask"],
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **{**how, "max_new_tokens": min(manner.max_new_tokens, room)},
        )
    finally:
        hook.remove()
    texts = [text.strip() for text in tokenizer.batch_decode(found, skip_special_tokens=True)]
    return list(zip(batch.ids, texts, first[0].numpy(), strict=True))


def _start_of(model: Any) -> int:
    """Return the token that every target begins with."""
    told = [getattr(said, "decoder_start_token_id", None) for said in (model.config, getattr(model, "generation_config", None))]
    start = next((token for token in told if token is not None), None)
    if start is None:
        what = f"the config of this {model.config.model_type} does not say which token a target begins with"
        raise ConfigError([Fault("model.path", what, "set decoder_start_token_id in its config.json")])
    return int(start)


@torch.no_grad()
def _scale_of(module: EncoderDecoder) -> float:
    """Return what the states are multiplied by before the head: 1, or in T5 one over the root of the width.

    Raises:
        ConfigError: if the logits are something else.
    """
    model, was_training = module.model, module.model.training
    ids = torch.arange(min(4, model.config.vocab_size), device=model.device)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    model.eval()
    states = module._decoded(inputs)
    shifted = functional.pad(ids[:, :-1], (1, 0), value=module.start)
    own = model(input_ids=ids, attention_mask=inputs["attention_mask"], decoder_input_ids=shifted, use_cache=False).logits
    model.train(was_training)
    weight, bias = module.head()
    for scale in (1.0, states.shape[-1] ** -0.5):
        plain = functional.linear(states * scale, weight, bias)
        if plain.shape == own.shape and torch.allclose(plain, own, atol=1e-4 * float(own.abs().max()), rtol=1e-3):
            return float(scale)
    what = f"the head of {model.config.model_type} does more than a matrix product, which is not supported"
    raise ConfigError([Fault("model", what, "use another architecture, such as t5, mt5, bart or marian")])
