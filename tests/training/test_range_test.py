"""The range test: rates grow by a factor, the loss is read off, and the model it is asked for stays as it is."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier import flow
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out, optimiser_of
from luthier.stages.layout.start_head import start_head
from luthier.training.range_test import Found, Point, Rates, has_exploded, range_test, read_off
from luthier.training.step_rules.accumulate import Accumulate


def curve(losses: list[float]) -> list[Point]:
    rates = Rates(steps=len(losses))
    return [Point(rates.at(step), loss, 1.0, loss) for step, loss in enumerate(losses)]


def found_by(bench: Bench, rates: Rates) -> Found:
    windows = iter(bench.saved.source)
    return range_test(
        windows, bench.parts, lambda parts: optimiser_of(bench.recipe, parts, bench.new), bench.work, Accumulate(), bench.care, rates
    )


@pytest.fixture
def bench(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> Bench:
    resolved = resolve(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path / "run"))
    return lay_out(resolved, flow.prepare(resolved))


def test_rates_grow_by_the_same_factor() -> None:
    rates = Rates(low=1e-7, high=1.0, steps=8)
    found = [rates.at(step) for step in range(8)]
    assert found[0] == 1e-7 and found[-1] == pytest.approx(1.0)
    assert all(after / before == pytest.approx(10) for before, after in zip(found, found[1:], strict=False))


def test_the_curve_is_read_off() -> None:
    losses = [1.0, 1.0, 0.9, 0.6, 0.5, 0.7, 3.0, 9.0]
    found = read_off(curve(losses), exploded=True)
    assert found.lowest == pytest.approx(1e-3) and found.rate == pytest.approx(1e-4)
    assert found.steepest == pytest.approx(1e-5), "from 0.9 to 0.6"


def test_an_explosion_is_seen() -> None:
    assert not has_exploded(curve([1.0, 0.5, 3.9])) and has_exploded(curve([1.0, 0.5, 4.1]))
    assert has_exploded(curve([1.0, math.nan])) and has_exploded(curve([1.0, math.inf]))


def test_a_curve_that_is_no_number_from_the_start_gives_the_first_rate() -> None:
    found = read_off([Point(1e-7, math.nan, 1.0, math.nan)], exploded=True)
    assert found.lowest == 1e-7 and found.rate == pytest.approx(1e-8)


def test_model_and_random_numbers_stay(bench: Bench) -> None:
    before = {name: tensor.clone() for name, tensor in bench.parts["model"].module.state_dict().items()}
    state = torch.get_rng_state()
    found = found_by(bench, Rates(low=1e-5, high=10.0, steps=20))
    assert torch.equal(state, torch.get_rng_state())
    after = bench.parts["model"].module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in bench.parts["model"].module.parameters())
    assert len({point.loss for point in found.points}) > 5, "the copy did move"


def test_easy_and_hard_rows_make_no_noise(bench: Bench) -> None:
    """At rates that move nothing the copy says what the model says, dropout included, however different the rows are."""
    start_head(bench)
    found = found_by(bench, Rates(low=1e-12, high=1e-11, steps=10))
    assert len({point.loss for point in found.points}) == 10, "the rows differ"
    assert all(point.loss == pytest.approx(point.untouched, rel=1e-5) for point in found.points)
    smooth = [point.smooth for point in found.points]
    assert max(smooth) - min(smooth) < 1e-4


def test_a_huge_rate_ends_the_test_early(bench: Bench) -> None:
    found = found_by(bench, Rates(low=1e-3, high=1e6, steps=60))
    assert found.exploded and len(found.points) < 60
    assert found.rate == pytest.approx(found.lowest / 10, rel=0.05) and found.rate < 100


def test_files_and_facts(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path / "run")
    found = flow.find_rate(recipe, folder=tmp_path / "rates", steps=30)
    stored = json.loads((tmp_path / "rates" / "find-lr.json").read_text())
    assert stored["points"] == found["points"] and stored["rate"] == found["rate"]
    root = xml.fromstring((tmp_path / "rates" / "find-lr.svg").read_text())
    assert root.tag.endswith("svg") and "proposed" in "".join(root.itertext())
    assert not (tmp_path / "run").exists(), "nothing was trained"


def test_it_is_the_same_twice(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    def once() -> Any:
        return flow.find_rate(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path / "run"), folder=tmp_path / "rates", steps=12)["points"]

    assert once() == once()
