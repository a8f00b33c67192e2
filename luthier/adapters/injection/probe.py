"""Whether a fresh adapter leaves a model as it was: a few tokens go through it before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from luthier.core.errors import ConfigError, Fault

NUM_TOKENS = 8
TOLERANCE = 1e-3
"""Largest change of a fresh adapter, relative to the largest state."""


@contextmanager
def unchanged(host: Any, switched_off: Callable[[], AbstractContextManager[None]], *, wanted: bool) -> Iterator[None]:
    """Refuse an adapter put into a model within the context if the model says something else then, or with it switched off.

    Args:
        host: A model of transformers.
        switched_off: Gives a context in which the adapter is left out.
        wanted: Whether to look at all.

    Raises:
        ConfigError: with how much it changed.
    """
    if not wanted or not _has_content(host):
        yield
        return
    before = _states(host)
    yield
    changed = _change(before, _states(host))
    if not changed <= TOLERANCE:
        what = f"a fresh adapter of this method changes the states of the model by {changed:.1%}, so that training would start elsewhere"
        raise ConfigError([Fault("adapter", what, "set its own switch, often init_weights=true, or use another method")])

    with switched_off():
        changed = _change(before, _states(host))
    if not changed <= TOLERANCE:
        what = f"this method changes the weights of the base: without it the states of the model differ by {changed:.1%}"
        raise ConfigError([Fault("adapter", what, "use another method, or adapter.type=lora with adapter.start=pissa")])


def require_effect(host: Any, switched_off: Callable[[], AbstractContextManager[None]]) -> None:
    """Refuse keys and values before those of the rows where the layers of the model cannot use them, or do not look at them.

    Args:
        host: The model with the adapter in it.
        switched_off: Gives a context in which the adapter is left out.

    Raises:
        ConfigError: with what the model says of them.
    """
    if not _has_content(host):
        return
    fix = "use adapter.type=prompt-tuning, or adapter.type=lora"
    try:
        found = _states(host)
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError, NotImplementedError) as error:
        what = f"the layers of a {host.config.model_type} do not take keys and values from before: {str(error).splitlines()[0]}"
        raise ConfigError([Fault("adapter.type", what, fix)]) from error
    with switched_off():
        if _change(_states(host), found) == 0:
            what = f"the layers of a {host.config.model_type} pass over keys and values from before"
            raise ConfigError([Fault("adapter.type", what, fix)])


def require_saved(host: Any, state: dict[str, Any]) -> None:
    """Refuse an adapter that would train parameters which its file does not hold.

    Args:
        host: The model with the adapter in it.
        state: What would be saved.

    Raises:
        ConfigError: naming one of them.
    """
    if not _has_content(host):
        return
    held = {tensor.data_ptr() for tensor in state.values()}
    lost = [name for name, parameter in host.named_parameters() if parameter.requires_grad and parameter.data_ptr() not in held]
    if lost:
        what = f"this method would train {len(lost)} parameters that its file does not hold, such as {lost[0]}"
        raise ConfigError([Fault("adapter.method", what, "use another method")])


def _has_content(host: Any) -> bool:
    from luthier.models.content import has_content

    return has_content(host)


def _change(before: Any, now: Any) -> float:
    """Return the largest difference of states as a share of the largest state."""
    return float((now - before).abs().max() / before.abs().max().clamp(min=1e-6))


def _states(host: Any) -> Any:
    """Return the last states of the body for a few tokens, `(1, T, H)`."""
    import torch

    was_training = host.training
    tokens = torch.arange(min(NUM_TOKENS, host.get_input_embeddings().num_embeddings), device=host.device)[None]
    host.eval()
    with torch.no_grad():
        found = host.base_model(input_ids=tokens, **({"decoder_input_ids": tokens} if host.config.is_encoder_decoder else {}))
    host.train(was_training)
    return found[0].float()
