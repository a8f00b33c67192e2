"""In the place of frozen layers: while it is fed what they gave before, they give it again without computing anything.

W windows, T tokens, H width, E width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import local
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = "tokens"
POOLED = "pooled"


@dataclass(frozen=True)
class Cut:
    """Where a model is cut into a frozen part and the rest.

    Args:
        body: The whole body, where all of it is frozen; else None.
        blocks: The frozen blocks, lowest first.
        embeddings: What makes the input of the first block, if it is one module.
    """

    body: nn.Module | None
    blocks: Sequence[nn.Module]
    embeddings: nn.Module | None


@dataclass(frozen=True)
class Seen:
    """What the frozen part gave for a batch: states of its tokens and, where the body makes one, the pooled vector."""

    states_WTH: Tensor
    pooled_WH: Tensor | None


class _Reached(Exception):
    """Ends a forward pass at the cut, with what the frozen part gave there."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


class _Here(local):
    """What the forward passes of one thread are for."""

    fed: tuple[str, Tensor] | None = None
    watched = False


class StandIn:
    """Takes the place of the frozen modules of one model while it is fed; otherwise they compute as ever.

    Args:
        cut: The frozen modules.
    """

    def __init__(self, cut: Cut) -> None:
        site = cut.body if cut.body is not None else cut.blocks[-1]
        self._here = _Here()
        self._answer: Callable[[Tensor, Tensor | None], Any] = lambda states, pooled: states
        self._width_of_embeddings: int | None = None
        self._dtypes = {TOKENS: torch.float32, POOLED: torch.float32}
        for module in [cut.body] if cut.body is not None else cut.blocks:
            module.forward = partial(self._in_place_of, module.forward, module is site)
        if cut.embeddings is not None:
            cut.embeddings.forward = partial(self._embedded, cut.embeddings.forward)

    @contextmanager
    def fed(self, form: str, states: Tensor) -> Iterator[None]:
        """Within the context, forward passes go on from stored states.

        Args:
            form: `tokens` for states of all tokens `(W, T, H)`; else one vector for each window `(W, H)`, where `pooled` is the
                pooled vector, and anything else stands for the state of a single token.
            states: What was stored.
        """
        self._here.fed = (form, states.to(self._dtypes[POOLED if form == POOLED else TOKENS]))
        try:
            yield
        finally:
            self._here.fed = None

    def seen(self, call: Callable[[], Any]) -> Seen | None:
        """Run a forward pass up to the cut, and return what the frozen part gave there; None if it is of no known kind."""
        self._here.watched = True
        try:
            call()
        except _Reached as reached:
            return self._understood(reached.output)
        finally:
            self._here.watched = False
        return None

    def _understood(self, output: Any) -> Seen | None:
        """Learn how to answer in the place of the module that gave this output."""
        states, pooled = output, None
        if isinstance(output, tuple) and output:
            states = output[0]
            self._answer = lambda states, pooled: (states,)
        elif hasattr(output, "last_hidden_state"):
            states, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
            self._answer = partial(_output, type(output))
        if not isinstance(states, Tensor) or states.ndim != 3:
            return None
        self._dtypes = {TOKENS: states.dtype, POOLED: (states if pooled is None else pooled).dtype}
        return Seen(states, pooled)

    def _in_place_of(self, computed: Callable[..., Any], is_site: bool, *args: Any, **kwargs: Any) -> Any:
        if self._here.fed is None:
            output = computed(*args, **kwargs)
            if is_site and self._here.watched:
                raise _Reached(output)
            return output
        form, states = self._here.fed
        if form == POOLED:
            nothing_WTH = states.new_full((1, 1, 1), float("nan")).expand(len(states), 1, states.shape[1])
            return self._answer(nothing_WTH, states)
        return self._answer(states if form == TOKENS else states.unsqueeze(1), None)

    def _embedded(self, computed: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Give something of the right shape for masks to be made from."""
        if self._here.fed is None or self._width_of_embeddings is None:
            output = computed(*args, **kwargs)
            if self._here.watched:
                self._width_of_embeddings = output.shape[-1] if isinstance(output, Tensor) and output.ndim == 3 else None
            return output
        form, states = self._here.fed
        num_tokens = states.shape[1] if form == TOKENS else 1
        return states.new_zeros(()).expand(len(states), num_tokens, self._width_of_embeddings)


def _output(kind: type, states: Tensor, pooled: Tensor | None) -> Any:
    return kind(last_hidden_state=states) if pooled is None else kind(last_hidden_state=states, pooler_output=pooled)
