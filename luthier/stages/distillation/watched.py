"""What the layers of a model give while it runs: states after its blocks, and the values that its attention mixes.

W windows, T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from luthier.core.errors import ConfigError, Fault
from luthier.models.blocks import blocks_of
from luthier.models.lean.bert import LeanForward

VALUES = ("value", "v_lin", "v_proj", "value_proj", "v")  # what the layer that makes values is called in models of transformers


@dataclass
class Seen:
    """What was seen of the forward passes.

    Args:
        given: What the model gave in each pass; where its pass ends in a loss over words, the states before its vocabulary.
        after: States after a block in the last one, by its place from 0, `(W, T, H)`.
        values: Values in a block, `(W, T, H)`.
    """

    given: list[Any] = field(default_factory=list)
    after: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


@contextmanager
def watching(model: Any, *, after: tuple[int, ...] = (), values: tuple[int, ...] = ()) -> Iterator[Seen]:
    """Within the context, remember what a model and its blocks give.

    No model is asked for its attentions: fused and lean blocks never make them.

    Args:
        model: The model.
        after: Blocks whose output is wanted.
        values: Blocks whose values are wanted.
    """
    seen = Seen()
    with ExitStack() as stack:

        def hook(module: nn.Module, act: Any, *, before: bool = False) -> None:
            add = module.register_forward_pre_hook if before else module.register_forward_hook
            handle = add(act, with_kwargs=True) if before else add(act)
            stack.callback(handle.remove)

        hook(getattr(model, "before_head", model), lambda _, __, given: seen.given.append(given))
        blocks = blocks_of(model, "distill.layers") if after or values else ()
        for place in after:
            hook(blocks[place], lambda _, __, given, place=place: seen.after.__setitem__(place, _states(given)))
        for place in values:
            layer = value_layer(blocks[place])
            if isinstance(blocks[place].forward, LeanForward):  # the layer is not called: its product is one with two others
                hook(blocks[place], _make_values(seen.values, place, layer), before=True)
            else:
                hook(layer, lambda _, __, given, place=place: seen.values.__setitem__(place, given))
        yield seen


def value_layer(block: nn.Module) -> Any:
    """Return the layer of a block that makes the values of its attention.

    Raises:
        ConfigError: if there is none of a known name.
    """
    found = [module for name, module in block.named_modules() if name.rpartition(".")[2] in VALUES and hasattr(module, "weight")]
    if len(found) == 1:
        return found[0]
    what = f"no layer that makes values alone was found in a {type(block).__name__} (looked for {', '.join(VALUES)})"
    raise ConfigError([Fault("distill.attention", what, "use distill.hidden instead")])


def _make_values(values: dict[int, Tensor], place: int, layer: Any) -> Any:
    def make(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        states = given[0] if given else named["hidden_states"]
        values[place] = functional.linear(states, layer.weight, layer.bias)

    return make


def _states(output: Any) -> Tensor:
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
