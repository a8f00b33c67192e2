"""Every way to tune with every task: a few steps of it train what they should and nothing else, or are refused with what to change.

refused_methods.yaml says which key refuses which pair; a new refusal fails here, and so does a pair that is no longer refused. Write it
anew with LUTHIER_RENEW=1 and -m slow, and look at what changed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import every_method
import pytest
from every_method import CASES, METHODS, Trained

from luthier.core import yaml
from luthier.core.errors import SetupError

TABLE = Path(__file__).parent / "refused_methods.yaml"
ALL = "all"
AS_FULL = {"full", "training.step_rule accumulate", "optim.type adamw", "schedule.type linear", "ema", "swa", "early stopping"}
"""Methods whose weights, after a few steps, are those of plain training: the usual ones, averages beside the weights, later stops."""
MAY_BE_AS_FULL = {"pieces", "activation checkpointing", "loss.class_weights"}
"""Methods that may change nothing but the last digits: of how a gradient is computed, and of rows whose classes are balanced already."""
ONCE = [(method, list(CASES)[7 * number % len(CASES)]) for number, method in enumerate(METHODS)]
"""Each method with one task or another."""
REST = [(method, case) for method in METHODS for case in CASES if (method, case) not in ONCE]
Outcome = Callable[[str, str], Trained | str]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Train a case with a method, or learn which keys refuse it; plain training of each case is kept."""
    folder = tmp_path_factory.mktemp("every-method")
    models, recipes, plain = every_method.make_models(folder / "models"), {}, {}

    def run(method: str, case: str) -> Trained | str:
        if case not in recipes:
            recipes[case] = every_method.recipe_of(case, folder / case, models)
        if method == "full" and case in plain:
            return plain[case]
        try:
            found = every_method.train(recipes[case], METHODS[method], folder / "runs" / case / method)
        except SetupError as error:
            if "not installed" not in str(error):
                raise
            pytest.skip(str(error))
        if method == "full":
            plain[case] = found
        return found

    yield run


@pytest.fixture(scope="module")
def refused() -> Iterator[dict[str, dict[str, str]]]:
    """What is refused: by method, the key of each case; written down anew where that is wanted."""
    found = {
        method: {case: key for key, cases in by_key.items() for case in (list(CASES) if cases == ALL else cases)}
        for method, by_key in (yaml.load_file(TABLE) if TABLE.is_file() else {}).items()
    }
    yield found
    if os.environ.get("LUTHIER_RENEW"):
        TABLE.write_text(yaml.dump(_by_key(found)), encoding="utf-8")


def _by_key(refused: dict[str, dict[str, str]]) -> dict[str, dict[str, list[str] | str]]:
    table: dict[str, dict[str, list[str] | str]] = {}
    for method in METHODS:
        of_method = refused.get(method, {})
        for key in sorted(set(of_method.values())):
            cases = [case for case in CASES if of_method.get(case) == key]
            table.setdefault(method, {})[key] = ALL if len(cases) == len(CASES) else cases
    return table


@pytest.mark.parametrize(("method", "case"), ONCE)
def test_each_method_with_a_task(method: str, case: str, outcome: Outcome, refused: dict[str, dict[str, str]], tmp_path: Path) -> None:
    look_at(method, case, outcome, refused, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "case"), REST)
def test_each_method_with_each_task(method: str, case: str, outcome: Outcome, refused: dict[str, dict[str, str]], tmp_path: Path) -> None:
    look_at(method, case, outcome, refused, tmp_path)


def test_the_table_names_what_there_is(refused: dict[str, dict[str, str]]) -> None:
    assert refused.keys() <= METHODS.keys() and all(keys.keys() <= CASES.keys() for keys in refused.values())
    assert "full" not in refused


def look_at(method: str, case: str, outcome: Outcome, refused: dict[str, dict[str, str]], folder: Path) -> None:
    found = outcome(method, case)
    if os.environ.get("LUTHIER_RENEW"):
        refused.get(method, {}).pop(case, None)
        if isinstance(found, str):
            refused.setdefault(method, {})[case] = found
    wanted = refused.get(method, {}).get(case)
    if isinstance(found, str) or wanted is not None:
        assert found == wanted, f"{method} with {case}: refused now by {found if isinstance(found, str) else None}, before by {wanted}"
        return
    full = outcome("full", case)
    assert isinstance(full, Trained), f"plain training of {case} is refused by {full}"
    assert found.moved and found.moved <= found.stepped, sorted(found.moved - found.stepped)
    _trains_what_it_should(method, found, full)
    if method in AS_FULL or _is_the_usual_loss(method, found, full):
        assert found.is_as(full)
    elif method not in MAY_BE_AS_FULL:
        assert not found.is_as(full), "the method does nothing"
    if method in ("ema", "swa"):
        assert "ema" in found.bench.parts
    assert every_method.answers_again(found, folder / "saved") <= 1e-5


def _is_the_usual_loss(method: str, found: Trained, full: Trained) -> bool:
    """Whether the loss that is named is what the task takes by itself."""
    return method.startswith("loss.type ") and found.bench.recipe.loss == full.bench.recipe.loss


def _trains_what_it_should(method: str, found: Trained, full: Trained) -> None:
    new = {f"model/{name}" for name in found.bench.new}
    biases = re.compile(r"\bbias$")
    if method.startswith("adapter "):
        assert not found.stepped & full.stepped, "parameters of the base train"
        return
    if method == "fewer layers":
        assert len(found.stepped) < len(full.stepped)
        return
    frozen = full.stepped - found.stepped
    if method == "freeze the body":
        assert not any(re.search(r"\blayers?\.\d", name) for name in found.stepped)
    elif method == "train bitfit":
        assert all(biases.search(name) for name in found.stepped - new) and found.stepped - new
    elif method.startswith(("freeze", "train ")):
        assert frozen and found.stepped - new
    elif method == "unfreeze lisa":
        assert found.bench.turns is not None
    elif method.startswith("unfreeze"):
        assert full.moved - found.moved, "some layers have not had their turn"
    elif method != "a head of our own" and not method.startswith("loss.type"):
        assert not frozen
