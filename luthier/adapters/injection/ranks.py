"""How the ranks of AdaLoRA move: after each step the PEFT library weighs every direction, and the least worth are set to 0.

R directions of a product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.adapters.injection.follower import Follower
from luthier.adapters.injection.of_peft import NAME, WRAPPED

SENSITIVITY, UNCERTAINTY, KEPT = "sensitivity", "uncertainty", "kept"


class Ranks(Follower):
    """The memory of AdaLoRA's choices, and how they are made.

    Args:
        host: The model of transformers with the adapter in it.
        total: Steps of the run.
        warmup: Steps in which no direction is dropped.
        final: Steps at the end in which the same directions stay.

    Reference: Q. Zhang and others, https://arxiv.org/abs/2303.10512; peft.tuners.adalora
    """

    term = "orthogonality"

    def __init__(self, host: Any, *, total: int, warmup: int, final: int) -> None:
        super().__init__()
        self._held: tuple[Any] = (host.__dict__[WRAPPED].base_model,)  # not a module of this one, which would save it
        config = self._held[0].peft_config[NAME]
        config.total_step, config.tinit, config.tfinal = total, warmup, final
        self.coefficient = config.orth_reg_weight
        self._followed: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in host.named_parameters() if "lora_" in name and NAME in name
        }
        self._memory = {
            kind: {name: self._remembered(f"{kind}/{name}", torch.zeros_like(p)) for name, p in self._followed.items()}
            for kind in (SENSITIVITY, UNCERTAINTY)
        }
        self._kept = {
            name: self._remembered(f"{KEPT}/{name}", torch.ones_like(p, dtype=torch.uint8))
            for name, p in self._followed.items()
            if ".lora_E." in name
        }
        self.steps = nn.Parameter(torch.zeros((), dtype=torch.int64), requires_grad=False)

    def penalty(self) -> Tensor:
        """Return how far the directions are from right angles and length 1, as a mean over the matrices."""
        distances = []
        with torch.autocast(next(iter(self._followed.values())).device.type, enabled=False):
            for name, parameter in self._followed.items():
                if ".lora_E." not in name:
                    gram_RR = parameter @ parameter.T if ".lora_A." in name else parameter.T @ parameter
                    distances.append(torch.linalg.norm(gram_RR - torch.eye(len(gram_RR), device=gram_RR.device)))
            return torch.stack(distances).mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Weigh every direction by its weights and gradients, and set those to 0 for which there is no room any more."""
        self.steps.add_(1)
        (tuner,) = self._held
        config, allocator = tuner.peft_config[NAME], tuner.rankallocator
        for parameter in self._followed.values():
            if parameter.grad is None:  # no loss reached it: it has no say
                parameter.grad = torch.zeros_like(parameter)
        allocator.ipt = dict(self._memory[SENSITIVITY])  # looked at only for its names
        allocator.exp_avg_ipt, allocator.exp_avg_unc = (dict(self._memory[kind]) for kind in (SENSITIVITY, UNCERTAINTY))
        config.rank_pattern = {name: kept.view(-1).bool().tolist() for name, kept in self._kept.items()}
        tuner.update_and_allocate(int(self.steps))
        for kind, found in ((SENSITIVITY, allocator.exp_avg_ipt), (UNCERTAINTY, allocator.exp_avg_unc)):
            for name, tensor in found.items():
                self._memory[kind][name].copy_(tensor)
        for name, kept_R in config.rank_pattern.items():
            self._kept[name].copy_(torch.tensor(kept_R).view(-1, 1))
        config.rank_pattern = None  # all directions are in the model; those at 0 are left out when it is written
        allocator.reset_ipt()

    def _remembered(self, name: str, start: Tensor) -> nn.Parameter:
        parameter = nn.Parameter(start, requires_grad=False)
        self.register_parameter(name.replace(".", "/"), parameter)
        return parameter
