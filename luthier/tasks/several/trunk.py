"""One body below the heads of several tasks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
    """Models that have one body; each is whole, so that it is called, saved and loaded as if it were alone.

    Models that end in the vocabulary (those that write, or fill words in) share that last layer too: it is what the words of all are.

    Args:
        models: A model for each task, all of one family, with a head, without one, or held as `model` by a module of ours. The body
            of a model of the vocabulary takes the place of the others', else that of one without a head, else the first.
        weights: How the losses are weighed: by uncertainty a log-variance of each task's loss is learnt; by gradnorm there is a balance.

    Raises:
        ConfigError: if bodies are not of one class, or a name is one that a module of torch has already.
    """

    base_model_prefix = "trunk"

    def __init__(self, models: Mapping[str, Any], *, weights: str = "fixed") -> None:
        super().__init__()
        self.own_children = {name: _children(_held(model).base_model) for name, model in models.items()}
        self.trunk = _joined(models)
        self.tasks = nn.ModuleDict()
        for name, model in models.items():
            if hasattr(self.tasks, name):
                raise ConfigError([Fault("tasks", f"a task cannot be called '{name}', which is a word of torch's", f"{name}-1")])
            self.tasks[name] = _put_on(model, self.trunk)
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

    def get_encoder(self) -> Any:
        """Return the encoder, where the body has a decoder too."""
        return self.trunk.get_encoder()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Replace the word embeddings."""
        self.trunk.set_input_embeddings(embeddings)

    def freeze_vocabulary(self, new: frozenset[str]) -> None:
        """Freeze the last layers that end in the vocabulary, as an adapter does that is alone with one.

        Args:
            new: Names of parameters of this module that started from nothing, which stay as they are.
        """
        kept = {id(parameter) for name, parameter in self.named_parameters() if name in new}
        for model in self.tasks.values():
            if _held(model) is not model:
                for parameter in model.parameters():
                    if id(parameter) not in kept and not _is_in(parameter, self.trunk):
                        parameter.requires_grad_(False)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Within the context, the body is as the task has it: without what only other tasks read, such as the pooler of classifiers."""
        foreign = {child: module for child, module in self.trunk.named_children() if child not in self.own_children[name]}
        held: Any = _held(self.tasks[name])
        manner = copy.deepcopy(getattr(held, "generation_config", None))
        for child in foreign:
            setattr(self.trunk, child, None)
        try:
            yield
        finally:
            for child, module in foreign.items():
                setattr(self.trunk, child, module)
            if manner is not None:
                held.generation_config = manner


def _held(module: Any) -> Any:
    """Return the model of transformers that a module is, or holds as `model`."""
    return module if hasattr(module, "base_model") else module.model


def _children(body: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in body.named_children())


def _is_in(parameter: nn.Parameter, module: nn.Module) -> bool:
    return any(parameter is one for one in module.parameters())


def _joined(models: Mapping[str, Any]) -> Any:
    """Return one body for all models, with what any of them reads, and trained where any of them trains it."""
    bodies = {name: _held(model).base_model for name, model in models.items()}
    of_words = [name for name, model in models.items() if _held(model) is not model]
    bare = [name for name, model in models.items() if bodies[name] is model]
    first = [*of_words, *bare, *models][0]
    trunk = bodies[first]
    for name, body in bodies.items():
        if type(body) is not type(trunk):
            what = f"the body of '{name}' is a {type(body).__name__}, and that of '{first}' a {type(trunk).__name__}: they cannot be one"
            raise ConfigError([Fault(f"tasks.{name}.task", what, "train it in a run of its own, or use a model of another family")])
    trained = {name for body in bodies.values() for name, parameter in body.named_parameters() if parameter.requires_grad}
    for body in bodies.values():
        for name, child in list(body.named_children()):
            if getattr(trunk, name, None) is None:
                setattr(trunk, name, child)
    for name, parameter in trunk.named_parameters():
        if name in trained:
            parameter.requires_grad_(True)
    if of_words:
        for name in of_words:
            models[name].model = models[first].model
    return trunk


def _put_on(model: Any, trunk: Any) -> Any:
    """Return a model with another body of the same kind."""
    held = _held(model)
    body = held.base_model
    if body is trunk:
        return model
    if body is held:
        return trunk
    setattr(held, next(name for name, child in held.named_children() if child is body), trunk)
    held.config._attn_implementation = trunk.config._attn_implementation  # else a later change of the head's would be the body's too
    return model
