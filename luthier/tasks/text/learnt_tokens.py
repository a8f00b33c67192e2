"""Cross-entropy over the tokens of a batch that are learnt: what tasks share whose models say tokens.

S learnt tokens; a batch has their places in `at`, the tokens in `tokens` and the row of each in `row`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import ConfigError, Fault
from luthier.core.work import Batch, Parts, Term, Terms, TokenOutputs
from luthier.losses.cross_entropy import CrossEntropy
from luthier.losses.loss import Loss

if TYPE_CHECKING:
    from luthier.losses.distillation.told import Told


def loss_over_tokens(loss: Loss | None, task: str) -> CrossEntropy:
    """Return the loss, by default cross-entropy.

    Args:
        loss: What the recipe says.
        task: Name of the task.

    Raises:
        ConfigError: if it is another one, or has what is for classes.
    """
    loss = loss or CrossEntropy()
    if not isinstance(loss, CrossEntropy) or loss.class_weights != "none" or loss.r_drop or loss.contrast or loss.mixup or loss.smart:
        what = f"{task} takes cross-entropy without class weights, r_drop, contrast, mixup and smart"
        raise ConfigError([Fault("loss", what, "leave loss out")])
    return loss


def number_learnt(batch: Batch) -> dict[str, float]:
    """Return how many tokens are learnt, which the loss is divided by; see `Work.weights`."""
    return {"loss": float(len(batch.targets["tokens"]))}


def losses_of_learnt(parts: Parts, batch: Batch, loss: CrossEntropy) -> Terms:
    """Return the one loss term; see `Work.losses`."""
    at_S, tokens_S = batch.targets["at"], batch.targets["tokens"]
    value = parts["model"].module(batch.inputs, at_S, tokens_S, loss.label_smoothing)
    return {"loss": Term(value, value.new_tensor(float(len(tokens_S))))}


def states_learnt(parts: Parts, batch: Batch) -> Any:
    """Return the states that the learnt tokens are said from; see `AnsweringWork.given`."""
    module: Any = parts["model"].module
    return module.states(batch.inputs, batch.targets["at"])


def words_told(parts: Parts, given: Any) -> dict[str, Told]:
    """Return the words that are expected of such states; see `AnsweringWork.told`."""
    from luthier.losses.distillation.told import Words
    from luthier.losses.distillation.words import Scored

    module: Any = parts["model"].module
    return {"loss": Words(Scored(given, *module.head()))}


def likelihoods_of_rows(parts: Parts, batch: Batch) -> TokenOutputs:
    """Return how likely the model finds the learnt tokens of each row."""
    model: Any = parts["model"].module
    nats_S, right_S = model.scores(batch.inputs, batch.targets["at"], batch.targets["tokens"])
    owners_S, num_rows = batch.targets["row"].cpu().numpy(), len(batch.ids)
    counted = [np.bincount(owners_S, weights, num_rows) for weights in (nats_S.double().numpy(), right_S.numpy(), None)]
    return TokenOutputs(np.asarray(batch.ids), *counted)
