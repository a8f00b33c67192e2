"""What adapters have in common that leave the model whole: trained vectors go before the embedded rows, or before their keys and values."""

from __future__ import annotations

import warnings
from abc import ABC
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.adapters.injection.kept_states import TAKES, KeptStates
from luthier.adapters.injection.of_peft import NAME, WEIGHTS, WRAPPED, OfPeft, heads_of, host_of
from luthier.adapters.injection.probe import require_effect
from luthier.adapters.injection.staying import staying
from luthier.adapters.injection.virtual_tokens import VirtualTokens
from luthier.core.errors import ConfigError, Fault

if TYPE_CHECKING:
    from torch import nn

VIRTUAL = "virtual_tokens"
READS = "SEQ_2_SEQ_LM"
OF_A_ROW = ("ForSequenceClassification", "ForMultipleChoice")
"""Ends of the names of models whose head reads one vector of a row: that of the first virtual token, as in plain peft."""


class Prompted(OfPeft, ABC):
    """An adapter whose trained part is virtual tokens before the rows, or keys and values before theirs.

    Reference: https://github.com/huggingface/peft
    """

    wants_rows_apart: ClassVar[bool] = True

    goes_before: ClassVar[str] = "rows"
    """What the trained part stands before: the embedded `rows`, or their `states`, the keys and values of every layer."""

    @property
    def base_may_be_quantized(self) -> bool:
        """Whether the frozen weights may be held in 4 or 8 bits; see `Adapter.base_may_be_quantized`."""
        return True

    def attach(self, module: nn.Module, new: frozenset[str]) -> frozenset[str]:
        """Freeze the module and put virtual tokens before its rows; see `Adapter.attach`."""
        from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING

        host, prefix = host_of(module)
        heads = heads_of(host, {name.removeprefix(prefix) for name in new})
        kind = _kind_of(host)
        self._refuse_what_takes_none(host, kind)
        shared = {"modules_to_save": heads or None, "task_type": kind}
        config = self.peft_config(host, shared | ({"num_transformer_submodules": 1} if kind == READS else {}))
        with warnings.catch_warnings(), staying(host):
            warnings.simplefilter("ignore")
            wrapped = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[kind](host, config, adapter_name=NAME)
        host.__dict__[WRAPPED] = wrapped
        host.add_module("prompt_encoder", wrapped.prompt_encoder)
        if kind == READS:
            host.__dict__[VIRTUAL] = VirtualTokens(host, wrapped, by_token=False, apart=True)
        elif self.goes_before == "rows":
            host.__dict__[VIRTUAL] = VirtualTokens(host, wrapped, by_token=not type(host).__name__.endswith(OF_A_ROW))
        else:
            host.__dict__[VIRTUAL] = KeptStates(host, wrapped, host.base_model)
            require_effect(host, lambda: self.switched_off(module))
        if kind == "CAUSAL_LM" and self.goes_before == "rows":
            host.generation_config.use_cache = False  # a cache would count the virtual tokens among those written
        return frozenset(name for name, parameter in module.named_parameters() if parameter.requires_grad and "modules_to_save" in name)

    def load(self, module: nn.Module, folder: Path) -> None:
        """Put saved virtual tokens and heads into the module; from here on they are what they are, and no network makes them."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        wrapped = host_of(module)[0].__dict__[WRAPPED]
        set_peft_model_state_dict(wrapped, load_file(folder / WEIGHTS), adapter_name=NAME)
        wrapped.peft_config[NAME].inference_mode = True

    def merge(self, module: nn.Module) -> None:
        """Refuse: virtual tokens are no change of weights."""
        what = f"{self.registered_name} is no change of weights that could be written into the base"
        raise ConfigError([Fault("adapter.type", what, "serve the run as it is")])

    def switched_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within the context no virtual tokens go before the rows."""
        off: AbstractContextManager[None] = host_of(module)[0].__dict__[VIRTUAL].off()
        return off

    def _refuse_what_takes_none(self, host: Any, kind: str) -> None:
        import inspect

        takes = inspect.signature(host.base_model.forward).parameters
        if self.goes_before == "states":
            if TAKES not in takes:
                what = f"a {host.config.model_type} has no cache, through which keys and values would reach its layers"
                raise ConfigError([Fault("adapter.type", what, "use adapter.type=prompt-tuning, or adapter.type=lora")])
            return
        if "inputs_embeds" not in takes:
            what = f"a {host.config.model_type} takes no embedded rows to put virtual tokens before"
            raise ConfigError([Fault("adapter.type", what, "use adapter.type=lora")])
        if kind == "SEQ_CLS" and hasattr(host, "score"):
            what = f"the head of a {host.config.model_type} reads the last token of a row, which plain peft loses behind virtual tokens"
            raise ConfigError([Fault("adapter.type", what, "use adapter.type=lora")])


def _kind_of(host: Any) -> str:
    """Return what the PEFT library calls the task of a model."""
    writes = type(host).__name__.endswith("ForCausalLM") or hasattr(host, "lm_head")
    if writes and host.config.is_encoder_decoder:
        return READS
    return "CAUSAL_LM" if writes else "SEQ_CLS"
