"""A classifier of our own on any encoder: pool the token states, then a small network.

B rows, T tokens, H width of the encoder, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput


def pool_cls(states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the state of the first real token, `(B, H)`."""
    first = mask_BT.long().argmax(dim=1)
    return states_BTH[torch.arange(len(states_BTH), device=states_BTH.device), first]


def pool_mean(states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the mean state of the real tokens, `(B, H)`."""
    mask_BT1 = mask_BT.unsqueeze(-1).to(states_BTH.dtype)
    return (states_BTH * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)


def pool_max(states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the largest value of each feature over the real tokens, `(B, H)`."""
    return states_BTH.masked_fill(~mask_BT.bool().unsqueeze(-1), float("-inf")).amax(1)


class AttentionPool(nn.Module):
    """Mean of the token states weighted by a learned score."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, states_BTH: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the weighted mean, `(B, H)`."""
        score_BT = self.score(states_BTH).squeeze(-1).masked_fill(~mask_BT.bool(), float("-inf"))
        return (score_BT.softmax(-1).unsqueeze(-1) * states_BTH).sum(1)


POOLINGS: dict[str, Any] = {"cls": pool_cls, "mean": pool_mean, "max": pool_max}


class Cosines(nn.Module):
    """A last layer without bias: cosines of the angles between a vector and the direction of each class, times `scale`.

    Args:
        width: Width H of the vector.
        num_labels: Number of classes C.
        scale: What cosines are multiplied by.
    """

    def __init__(self, width: int, num_labels: int, scale: float) -> None:
        super().__init__()
        self.scale, self.out_features = scale, num_labels
        self.weight = nn.Parameter(torch.randn(num_labels, width) / width**0.5)
        self.register_parameter("bias", None)

    def forward(self, vectors_BH: Tensor) -> Tensor:
        """Return the scores, `(B, C)`, in float32."""
        with torch.autocast(vectors_BH.device.type, enabled=False):
            units_BH, units_CH = (functional.normalize(values.float(), dim=-1) for values in (vectors_BH, self.weight))
            return self.scale * functional.linear(units_BH, units_CH)


class PooledClassifier(nn.Module):
    """An encoder, a pooling and a small network; called and answering like a transformers classifier.

    Args:
        encoder: Gives `last_hidden_state` of shape (B, T, H).
        pooling: cls, mean, max or attention.
        hidden: Widths of hidden layers.
        num_labels: Number of classes C.
        dropout: Before each layer.
        cosine_scale: Let the scores be cosines times this; none: any numbers.
    """

    def __init__(
        self, encoder: Any, *, pooling: str, hidden: list[int], num_labels: int, dropout: float, cosine_scale: float | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.settings: dict[str, Any] = {"pooling": pooling, "hidden": hidden, "num_labels": num_labels}
        if cosine_scale is not None:
            self.settings["cosine_scale"] = cosine_scale
        width = encoder.config.hidden_size
        self.pool = AttentionPool(width) if pooling == "attention" else None
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Dropout(dropout), nn.Linear(width, size), nn.GELU()]
            width = size
        last: nn.Module = nn.Linear(width, num_labels) if cosine_scale is None else Cosines(width, num_labels, cosine_scale)
        self.head = nn.Sequential(*layers, nn.Dropout(dropout), last)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> SequenceClassifierOutput:
        """Return `logits` of shape (B, C), in an object that DistributedDataParallel can look into."""
        states_BTH = self.encoder(attention_mask=attention_mask, **inputs).last_hidden_state
        pool = self.pool if self.pool is not None else POOLINGS[self.pooling]
        return SequenceClassifierOutput(logits=self.head(pool(states_BTH, attention_mask)))

    @property
    def config(self) -> Any:
        """The encoder's config."""
        return self.encoder.config

    @property
    def base_model(self) -> Any:
        """The encoder, by the name it has in every transformers model."""
        return self.encoder

    def get_input_embeddings(self) -> Any:
        """Return the encoder's word embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Replace the encoder's word embeddings."""
        self.encoder.set_input_embeddings(embeddings)
