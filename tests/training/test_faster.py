"""Every means that makes training faster leaves the numbers as they are, switch by switch; a resume with all of them is bit-exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from safetensors.torch import load_file

from luthier import flow
from luthier.stages.layout.begin import lay_out

Make = Callable[..., dict[str, Any]]
MEANS = ("fast_dropout", "lean_blocks", "needed_positions", "row_embedding")
STILL = {"training.max_steps": 12, "model.head": {"dropout": 0.0}}


def speed(**switches: bool) -> dict[str, bool]:
    return {f"training.speed.{name}": switches.get(name, False) for name in MEANS}


@pytest.fixture
def still(recipe: Make, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Recipes with a model without dropout, so that only rounding can differ."""
    from tiny import make_tiny_model

    path = str(make_tiny_model(tmp_path_factory.mktemp("still") / "model", dropout=0.0))
    return lambda name, changes: recipe(name, {**STILL, **changes, "model": {"path": path}})


def losses(recipe: dict[str, Any]) -> list[float]:
    return [tick.loss for tick in flow.Training.begin(recipe)]


def test_the_loss_curve_is_that_of_plain_modules(still: Make) -> None:
    plain = losses(still("plain", speed()))
    assert plain[-1] < plain[0]
    for number, names in enumerate([*((name,) for name in MEANS), MEANS]):
        assert losses(still(f"fast-{number}", speed(**dict.fromkeys(names, True)))) == pytest.approx(plain, abs=1e-5), names


def test_the_weights_end_where_plain_modules_leave_them(still: Make) -> None:
    whole = {"optim.weight_decay": 0.5}
    ends = [
        load_file(flow.train(still(name, {**whole, **switches})).model / "model.safetensors")
        for name, switches in (("plain", speed()), ("fast", speed(**dict.fromkeys(MEANS, True))))
    ]
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert tensor.shape == ends[1][name].shape and (tensor - ends[1][name]).abs().max() <= 2e-4, name


def test_every_means_is_at_work_by_default(recipe: Make) -> None:
    from luthier.models.lean.bert import LeanForward
    from luthier.models.lean.dropout import FastDropout
    from luthier.models.lean.row_embedding import RowEmbedding
    from luthier.recipe import resolve

    def modules(changes: dict[str, Any]) -> list[Any]:
        resolved = resolve(recipe("run", changes))
        return list(lay_out(resolved, flow.prepare(resolved)).parts["model"].module.modules())

    on, off = modules({}), modules(speed())
    blocks = [m for m in on if isinstance(getattr(m, "forward", None), LeanForward)]
    assert len(blocks) == 2 and [b.forward.first_only for b in blocks] == [False, True]
    assert any(isinstance(m, FastDropout) for m in on) and any(isinstance(m, RowEmbedding) for m in on)
    assert not any(isinstance(m, (FastDropout, RowEmbedding)) or isinstance(m.forward, LeanForward) for m in off)
