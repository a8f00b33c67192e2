"""The weighted sum of several LoRAs of one base as one LoRA, by the PEFT library."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.adapters.injection.of_peft import NAME, WEIGHTS, WRAPPED
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

METHODS = ("svd", "cat", "linear", "ties", "dare_linear", "dare_ties")
THINNED = ("ties", "dare_linear", "dare_ties")
FACTOR = ".lora_"


@dataclass(frozen=True)
class Mixture:
    """How adapters are added up.

    Args:
        weights: What each is multiplied by.
        method: svd and cat add up their products, all others the factors of these.
        density: Share of the numbers that `ties` and `dare` keep.
    """

    weights: tuple[float, ...]
    method: str = "svd"
    density: float = 0.5

    def faults(self, num_adapters: int) -> list[Fault]:
        """Return what is wrong with it for so many adapters."""
        found = []
        if self.method not in METHODS:
            found.append(Fault("--method", f"got '{self.method}'", did_you_mean(self.method, METHODS)))
        if len(self.weights) != num_adapters:
            found.append(Fault("--weights", f"got {len(self.weights)} for {num_adapters} adapters", "name one for each"))
        if not 0 < self.density <= 1:
            found.append(Fault("--density", f"got {self.density}, wanted more than 0 and at most 1", "--density 0.5"))
        return found


def mixed(host: Any, folders: Sequence[Path], mixture: Mixture) -> tuple[dict[str, Tensor], Any]:
    """Return weights, by their names in a file, and configuration of the sum of several LoRAs, which is left in the model.

    Args:
        host: Their base, a model of transformers.
        folders: Where they are saved.
        mixture: How they are added up.

    Raises:
        ConfigError: if the method wants equal ranks.

    Reference: https://huggingface.co/docs/peft, add_weighted_adapter; TIES https://arxiv.org/abs/2306.01708;
        DARE https://arxiv.org/abs/2311.03099
    """
    from peft import get_peft_model_state_dict

    wrapped, names = _loaded(host, folders)
    ranks = [wrapped.peft_config[name].r for name in names]
    if mixture.method not in ("svd", "cat") and len(set(ranks)) > 1:
        what = f"{mixture.method} adds up factors, and their ranks are {', '.join(map(str, ranks))}"
        raise ConfigError([Fault("--method", what, "--method svd, or cat")])
    first = wrapped.peft_config[names[0]]
    first.use_rslora = False  # what it is multiplied by is in the layers by now; that of the sum is 1
    wrapped.base_model.add_weighted_adapter(
        names,
        list(mixture.weights),
        adapter_name=NAME,
        combination_type=mixture.method,
        svd_full_matrices=False,
        density=mixture.density if mixture.method in THINNED else None,
    )
    wrapped.set_adapter(NAME)
    host.__dict__[WRAPPED] = wrapped
    state = get_peft_model_state_dict(wrapped, adapter_name=NAME, save_embedding_layers=False)
    return {name: tensor.detach().contiguous() for name, tensor in state.items()}, copy.copy(wrapped.peft_config[NAME])


def mean_heads(folders: Sequence[Path], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of the heads that were trained beside several adapters, by their names in a file.

    Args:
        folders: Where the adapters are saved.
        weights: The weight of each; divided by their sum.

    Raises:
        ConfigError: if there are heads, and the sum is not above 0.
    """
    from safetensors.torch import load_file

    means: dict[str, Tensor] = {}
    for folder, weight in zip(folders, weights, strict=True):
        heads = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if FACTOR not in name}
        if heads and sum(weights) <= 0:
            what = f"their sum is {sum(weights):g}, and no mean of the heads has such weights"
            raise ConfigError([Fault("--weights", what, "name weights with a sum above 0")])
        for name, tensor in heads.items():
            means[name] = means.get(name, 0) + tensor * (weight / sum(weights))
    return means


def _loaded(host: Any, folders: Sequence[Path]) -> tuple[Any, list[str]]:
    """Return the model of the PEFT library with all of them in it, without their heads, and their names there."""
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    wrapped: Any = None
    names = [f"adapter-{number}" for number in range(len(folders))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, folder in zip(names, folders, strict=True):
            config: Any = LoraConfig.from_pretrained(str(folder))
            config.modules_to_save = None
            if wrapped is None:
                wrapped = PeftModel(host, config, adapter_name=name)
            else:
                wrapped.add_adapter(name, config)
            factors = {key: tensor for key, tensor in load_file(folder / WEIGHTS).items() if FACTOR in key}
            found: Any = set_peft_model_state_dict(wrapped, factors, adapter_name=name)
            assert not found.unexpected_keys, found.unexpected_keys
    return wrapped, names
