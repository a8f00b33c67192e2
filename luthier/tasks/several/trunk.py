"""One body below the heads of several tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from luthier.core.errors import ConfigError, Fault


class Balance(nn.Module):
    """Weights of the tasks that a step rule moves, and the first loss of each; as parameters, so that every checkpoint has them.

    Args:
        names: Names of the tasks.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in names})
        self.first_losses = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in names})


class SharedTrunk(nn.Module):
    """Classifiers that have one body; each is whole, so that it is called, saved and loaded as if it were alone.

    Args:
        models: A classifier for each task, all of one family; the body of the first takes the place of the others'.
        weights: How the losses are weighed: by uncertainty a log-variance of each task's loss is learnt; by gradnorm there is a balance.

    Raises:
        ConfigError: if a name is one that a module of torch has already.
    """

    base_model_prefix = "trunk"

    def __init__(self, models: Mapping[str, Any], *, weights: str = "fixed") -> None:
        super().__init__()
        self.trunk = next(iter(models.values())).base_model
        for model in models.values():
            setattr(model, _place_of_body(model), self.trunk)
        self.tasks = nn.ModuleDict()
        for name, model in models.items():
            if hasattr(self.tasks, name):
                raise ConfigError([Fault("tasks", f"a task cannot be called '{name}', which is a word of torch's", f"{name}-1")])
            self.tasks[name] = model
        if weights == "uncertainty":
            self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in models})
        if weights == "gradnorm":
            self.balance = Balance(models)

    @property
    def config(self) -> Any:
        """The body's config."""
        return self.trunk.config

    @property
    def base_model(self) -> Any:
        """The body, by the name it has in every transformers model."""
        return self.trunk

    def get_input_embeddings(self) -> Any:
        """Return the word embeddings."""
        return self.trunk.get_input_embeddings()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Replace the word embeddings."""
        self.trunk.set_input_embeddings(embeddings)


def _place_of_body(model: Any) -> str:
    """Return the name that the body has in a classifier."""
    return next(name for name, child in model.named_children() if child is model.base_model)
