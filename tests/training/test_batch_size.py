"""`batch_size: auto`: the largest micro-batch that fits and pays; model, random numbers and the rows of a step stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from runs import losses

from luthier import flow
from luthier.core import yaml
from luthier.core.errors import ConfigError, RunStopped
from luthier.core.work import Batch
from luthier.recipe import resolve
from luthier.stages.layout import decide
from luthier.stages.layout.begin import lay_out
from luthier.tasks.text_classification import TextClassificationWork
from luthier.training import batch_size
from luthier.training.batch_size import Sizes

AUTO = {"training.batch_size": "auto", "training.effective_batch_size": 16, "training.max_steps": 4, "evaluate.baseline": False}
Limit = Callable[[int], list[int]]


@pytest.fixture
def rows_that_fit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Limit]:
    """Let more rows than a limit run out of memory; returns the sizes that were tried."""
    plain = TextClassificationWork.losses

    def limit(rows: int) -> list[int]:
        tried: list[int] = []

        def limited(self: TextClassificationWork, parts: Any, batch: Batch) -> Any:
            tried.append(len(batch.ids))
            if len(batch.ids) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return plain(self, parts, batch)

        monkeypatch.setattr(TextClassificationWork, "losses", limited)
        return tried

    yield limit


@pytest.fixture(autouse=True)
def every_size_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pays is a matter of the clock; here only what fits counts, except where a test says otherwise."""
    monkeypatch.setattr(batch_size, "WORTH_IT", 0.0)


def test_sizes_divide_the_effective_batch() -> None:
    def all_of(effective: int) -> list[int]:
        return Sizes(effective, lambda size: Batch([], {}), lambda size: Batch([], {})).all

    assert all_of(32) == [1, 2, 4, 8, 16, 32] and all_of(31) == [1, 31] and all_of(1) == [1]
    assert all_of(48) == [1, 2, 3, 6, 12, 24, 48] and all(48 % size == 0 for size in all_of(48))


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (5, 4), (16, 16), (100, 16)])
def test_the_largest_that_fits_is_taken(rows: int, size: int, recipe: Callable[..., Any], rows_that_fit: Limit) -> None:
    tried = rows_that_fit(rows)
    run = flow.train(recipe("run", AUTO)).path
    written = yaml.load_file(run / "recipe.yaml")["training"]
    assert (written["batch_size"], written["gradient_accumulation_steps"]) == (size, 16 // size)
    assert max(tried) <= 2 * size or size == 16, "sizes far above the one that failed are not tried"


def test_not_even_one_row_fits(recipe: Callable[..., Any], rows_that_fit: Limit) -> None:
    rows_that_fit(0)
    with pytest.raises(RunStopped, match="even with 1 row") as caught:
        flow.train(recipe("run", AUTO))
    assert "batch_size=auto" in str(caught.value) and "max_length" in str(caught.value)


def test_other_errors_are_raised_as_they_are(recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(TextClassificationWork, "losses", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        flow.train(recipe("run", AUTO))


def test_the_run_is_the_one_with_the_numbers_written(recipe: Callable[..., Any], rows_that_fit: Limit) -> None:
    """The tiny model has dropout: a single draw too many, or a gradient left behind, and the curves would part."""
    rows_that_fit(8)
    found = losses(recipe("auto", AUTO))
    by_number = {"training.batch_size": 8, "training.gradient_accumulation_steps": 2, "training.max_steps": 4, "evaluate.baseline": False}
    assert found == losses(recipe("number", by_number)) and len(found) == 4


def test_nothing_is_left_behind(recipe: Callable[..., Any]) -> None:
    resolved = resolve(recipe("run", AUTO))
    prepared = flow.prepare(resolved)
    auto = lay_out(resolved, prepared)
    drawn = torch.rand(3)
    sized = {"training.batch_size": auto.recipe.training.batch_size, "training.gradient_accumulation_steps": 1}
    plain = lay_out(resolve(recipe("run", {**AUTO, **sized})), prepared)
    assert torch.equal(drawn, torch.rand(3)), "the random numbers go on as if nothing had been tried"
    for mine, theirs in zip(auto.parts["model"].module.parameters(), plain.parts["model"].module.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine.grad is None


def test_what_does_not_pay_is_not_taken(recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {1: 100.0, 2: 190.0, 4: 300.0, 8: 310.0, 16: 312.0}
    monkeypatch.setattr(batch_size, "WORTH_IT", 1.05)
    monkeypatch.setattr(batch_size, "_tokens_per_second", lambda sizes, size, *given: rates[size])
    run = flow.train(recipe("run", AUTO)).path
    assert yaml.load_file(run / "recipe.yaml")["training"]["batch_size"] == 4


def test_a_size_beyond_the_free_memory_is_not_tried(recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "available_memory_bytes", lambda: 0)
    run = flow.train(recipe("run", AUTO)).path
    assert yaml.load_file(run / "recipe.yaml")["training"]["batch_size"] == 1


@pytest.mark.parametrize(
    ("changes", "times"), [({}, 2), ({"training.ema": 0.9}, 3), ({"optim": {"type": "lion"}}, 1), ({"optim": {"type": "sgd"}}, 1)], ids=str
)
def test_what_the_run_keeps_is_left_free(changes: dict[str, Any], times: int, recipe: Callable[..., Any], monkeypatch: Any) -> None:
    asked: list[float] = []
    monkeypatch.setattr(batch_size, "_has_room", lambda parts, kept, growth: asked.append(kept) or True)
    resolved = resolve(recipe("run", AUTO | changes))
    bench = lay_out(resolved, flow.prepare(resolved))
    gradients = sum(p.nbytes for p in bench.parts["model"].module.parameters() if p.requires_grad)
    assert set(asked) == {gradients * (1 + times)}


def test_several_processes_are_refused(recipe: Callable[..., Any]) -> None:
    class Two:
        size, rank, local_rank = 2, 0, 0

    with pytest.raises(ConfigError, match="2 processes") as caught:
        decide.require_one_process(resolve(recipe("run", AUTO)), Two())  # type: ignore[arg-type]
    assert "training.batch_size=32" in str(caught.value)


@pytest.mark.parametrize("wrong", [0, -4, "many", 2.5])
def test_a_wrong_size_is_refused(wrong: object, recipe: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size"):
        resolve(recipe("run", {"training.batch_size": wrong}))
