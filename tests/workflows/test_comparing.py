"""A comparison of variants: what is planned, what a run of its own leaves, what goes on, and what the table says."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from luthier.adapters import adapters
from luthier.core import files, yaml
from luthier.core.errors import ConfigError, Interrupted
from luthier.workflows.comparison import child
from luthier.workflows.comparison.comparison import Comparison, compare_variants
from luthier.workflows.comparison.findings import over_seeds
from luthier.workflows.comparison.section import SHIPPED, find_sweep, has_variants, read_comparison

Make = Callable[..., dict[str, Any]]
TRAIN_WITH_STAND_IN = """
import json, os, pathlib, signal, sys, time
recipe = sys.argv[2]
from luthier.core import yaml
settings = yaml.load_file(pathlib.Path(recipe))
run = pathlib.Path(settings["output"])
(run / "model").mkdir(parents=True, exist_ok=True)
with (run / "begun.txt").open("a") as begun:
    begun.write(f"{len(os.sched_getaffinity(0))}\\n")
seed, rate = settings["training"]["seed"], settings["optim"]["learning_rate"]
if rate == 13:
    sys.exit("error: 1 fault:\\n  - optim.learning_rate: brings bad luck\\n")
if rate == 11:
    os.kill(os.getpid(), signal.SIGKILL)
if rate == 60:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    time.sleep(60)
value = 0.5 + seed / 10
scores = {"test": {"accuracy": {"value": value, "low": value - 0.05, "high": value + 0.04}}}
sizes = {"trained_parameters": 10, "all_parameters": 1000, "training_seconds": 2.0 + seed, "peak_memory_bytes": 2**20}
for name in ("report.html", "card.md"):
    (run / name).write_text("")
(run / "metrics.json").write_text(json.dumps({"scores": scores, **sizes}))
"""


@pytest.fixture
def make(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> Make:
    """Make a sweep file's content: `make({"plain": {}, "slow": {"optim.learning_rate": 1e-5}})`."""

    def made(variants: dict[str, Any], names: tuple[str, ...] = ("tickets",), **keys: Any) -> dict[str, Any]:
        for name in names:
            base = recipe(changes={"training.max_steps": 2, "training.batch_size": 16, "model.head": {"start": "zero"}})
            base.pop("output")
            (tmp_path / f"{name}.yaml").write_text(yaml.dump(base), encoding="utf-8")
        recipes = [str(tmp_path / f"{name}.yaml") for name in names]
        return {"recipes": recipes, "variants": variants, "output": str(tmp_path / "compared"), **keys}

    return made


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end at once with made-up scores; the rate says whether they fail, die or wait."""
    monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", TRAIN_WITH_STAND_IN))


def begun(folder: Path) -> dict[str, int]:
    return {str(file.parent.relative_to(folder / "runs")): len(file.read_text().split()) for file in folder.rglob("begun.txt")}


# ---- what is planned


def test_variants_are_differences_and_words_go_into_all(make: Make) -> None:
    variants = {
        "full": None,
        "lora": {"adapter": {"type": "lora", "r": 2}, "optim.learning_rate": 1e-3},
        "head": {"model": {"freeze": "body"}},
    }
    plan = read_comparison(make(variants, ("a", "b"), seeds=[0, 5]), {}, [("training.batch_size", 4)])
    assert [run.name for run in plan.runs[:6]] == ["a/full/seed-0", "a/lora/seed-0", "a/head/seed-0"] + [
        f"b/{name}/seed-0" for name in variants
    ]
    assert len(plan.runs) == 12 and {run.settings["training"]["batch_size"] for run in plan.runs} == {4}
    made = plan.runs[7].settings
    assert (made["adapter"]["r"], made["optim"]["learning_rate"], made["training"]["seed"]) == (2, 1e-3, 5)
    assert made["optim"]["head_learning_rate"] == 1e-2, "what a variant does not name stays as in the recipe"
    assert plan.runs[2].settings["model"] == {**plan.runs[0].settings["model"], "freeze": "body"}
    narrow = read_comparison(make(variants, ("a", "b")), {"variants": ["head", "full"], "recipes": ["b"], "seeds": [3]})
    assert [run.name for run in narrow.runs] == ["b/full/seed-3", "b/head/seed-3"]


def test_the_shipped_sweep_compares_the_methods_of_the_issue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_DATA", "/data")
    for written in ("compare-methods", "recipes/compare-methods.yaml", str(SHIPPED / "compare-methods.yaml")):
        assert find_sweep(written) == SHIPPED / "compare-methods.yaml" and has_variants(written)
    variants = yaml.load_file(SHIPPED / "compare-methods.yaml")["variants"]
    methods = {name: change.get("adapter", {}).get("type", "lora") for name, change in variants.items()}
    known = [name for name, method in methods.items() if method in adapters.names()]
    plan = read_comparison("compare-methods", {"variants": known})
    assert len(plan.runs) == len(known) * 2 * 3 and plan.folder == Path("sweeps/compare-methods")
    assert {run.recipe for run in plan.runs} == {"sst2", "banking77"} and plan.metrics["sst2"] == "accuracy"
    assert {run.variant: run.settings["training"]["seed"] for run in plan.runs} == dict.fromkeys(known, 2), "seeds come in rounds"
    trained = {"full", "layer-wise-decay", "gradual-unfreezing", "last-2-layers", "head-only", "bitfit"}
    assert set(variants) == trained | {"lora", "dora", "adalora", "bottleneck", "prefix", "ia3"}
    with pytest.raises(ConfigError, match="did you mean 'compare-methods'"):
        find_sweep("compare-method")


@pytest.mark.parametrize(
    ("keys", "overrides", "said"),
    [
        ({"variants": {"a": {"optim": {"learning_rte": 1}}}}, {}, ["variants.a: optim.learning_rte", "learning_rate"]),
        ({"variants": {"a": {"optim.learning_rte": 1}, "b": {"optm": {}}}}, {}, ["variants.a", "variants.b", "2 faults"]),
        ({"variants": {}}, {}, ["variants"]),
        ({"variants": {"a/b": {}}}, {}, ["a/b", "letters, digits"]),
        ({"seeds": []}, {}, ["seeds"]),
        ({"sedes": [1]}, {}, ["sedes", "did you mean 'seeds'"]),
        ({"metric": "acuracy"}, {}, ["unknown score 'acuracy'"]),
        ({}, {"variants": ["plan"]}, ["--variants", "did you mean 'plain'"]),
        ({}, {"recipes": ["ticket"]}, ["--recipes", "did you mean 'tickets'"]),
    ],
)
def test_what_is_refused_before_anything_is_trained(
    make: Make, tmp_path: Path, keys: dict[str, Any], overrides: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        Comparison.begin({**make({"plain": {}}), **keys}, **overrides)
    assert all(words in str(error.value) for words in said), str(error.value)
    assert not (tmp_path / "compared").exists()


# ---- the table


def test_the_interval_allows_for_rows_and_for_seeds() -> None:
    scores = [{"value": value, "low": value - 0.02, "high": value + 0.03} for value in (0.80, 0.82, 0.84)]
    found = over_seeds(scores, "accuracy", confidence=0.95)
    half = stats.t.interval(0.95, 2, scale=stats.sem([0.80, 0.82, 0.84]))[1]
    assert found is not None and found["value"] == pytest.approx(0.82) and found["deviation"] == pytest.approx(0.02)
    assert found["low"] == pytest.approx(0.82 - (0.02**2 + half**2) ** 0.5)
    assert found["high"] == pytest.approx(0.82 + (0.03**2 + half**2) ** 0.5)
    alone = over_seeds(scores[:1], "accuracy", confidence=0.95)
    assert alone is not None and (alone["low"], alone["high"], alone["deviation"]) == (0.78, pytest.approx(0.83), None)
    assert over_seeds([], "accuracy", confidence=0.95) is None
    near = over_seeds([{"value": 0.99, "low": 0.9, "high": 1.0}, {"value": 0.91, "low": 0.9, "high": 1.0}], "accuracy", confidence=0.95)
    assert near is not None and near["high"] == 1.0


def test_one_that_fails_is_named_and_stops_no_other(stand_in: None, make: Make, tmp_path: Path) -> None:
    variants = {"bad": {"optim.learning_rate": 13}, "dies": {"optim.learning_rate": 11}, "good": {}}
    found = compare_variants(make(variants, ("a", "b"), seeds=[0, 1]))
    assert found["counts"] == {"finished": 4, "failed": 8, "stopped": 0, "waiting": 0}
    rows = {(row["recipe"], row["variant"]): row for row in found["rows"]}
    assert list(rows) == [(recipe, variant) for recipe in "ab" for variant in variants]
    good = rows["b", "good"]
    assert good["score"]["value"] == pytest.approx(0.55) and good["score"]["seeds"] == 2 and good["split"] == "test"
    assert (good["trained_share"], good["training_seconds"], good["peak_memory_bytes"]) == (0.01, 2.5, 2**20)
    assert rows["a", "bad"]["score"] is None and "brings bad luck" in rows["a", "bad"]["error"]
    assert "killed by signal 9" in rows["a", "dies"]["error"]
    folder = tmp_path / "compared"
    assert files.read_json(folder / "comparison.json") == json.loads(json.dumps(found))
    table = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "| b | good | 55.0" in table and "1.0" in table and "- bad on a failed: 1 fault" in table
    page, drawn = (folder / "comparison.html").read_text("utf-8"), (folder / "comparison.svg").read_text("utf-8")
    assert page.count("a: Accuracy, test rows") == 2, "said once above the table, and in the picture"
    assert "brings bad luck" in page and "<svg" in page and drawn.count("<circle") == 2 and "failed" in drawn


def test_what_is_finished_is_not_run_again(stand_in: None, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    compare_variants(make({"bad": {"optim.learning_rate": 13}, "good": {}}), variants=["good"])
    assert begun(folder) == {"tickets/good/seed-0": 1}
    found = compare_variants(make({"bad": {"optim.learning_rate": 13}, "good": {}}, seeds=[0, 1]))
    compare_variants(make({"bad": {"optim.learning_rate": 13}, "good": {}}))
    assert begun(folder) == {"tickets/good/seed-0": 1, "tickets/good/seed-1": 1, "tickets/bad/seed-0": 3 - 1, "tickets/bad/seed-1": 1}
    assert found["counts"]["finished"] == 2 and found["rows"][1]["score"]["seeds"] == 2
    with pytest.raises(ConfigError, match=r"tickets/good/seed-0: was begun in .* with another training.batch_size"):
        Comparison.begin(make({"good": {}}), {"training.batch_size": 4})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no comparison"):
        Comparison.begin({**make({"good": {}}), "output": str(tmp_path / "taken")})


def test_no_run_goes_on_after_the_time(stand_in: None, make: Make, tmp_path: Path) -> None:
    variants = {"waits": {"optim.learning_rate": 60}, "good": {}}
    found = compare_variants(make(variants, hours=1 / 3600))
    assert found["counts"] == {"finished": 0, "failed": 0, "stopped": 1, "waiting": 1}
    assert [row["state"] for row in found["rows"]] == ["stopped", "waiting"] and found["seconds"] >= 1
    assert "| tickets | good | waiting |" in (tmp_path / "compared" / "comparison.md").read_text(encoding="utf-8")
    found = compare_variants(make({"waits": {"optim.learning_rate": 60}, "good": {}}, hours=1), variants=["good"])
    assert found["counts"]["finished"] == 1, "more hours go on"


def test_workers_share_the_cores(stand_in: None, make: Make, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    live: list[int] = []
    content = Comparison.begin(make({"one": {}, "two": {}, "three": {}}), workers=2)
    for _ in content:
        live.append(len(content._live))
    assert content.findings()["counts"]["finished"] == 3 and max(live) == 2
    shares = [int(line) for file in (tmp_path / "compared").rglob("begun.txt") for line in file.read_text().split()]
    assert all(share in ((cores // 2, cores - cores // 2) if cores > 1 else (1,)) for share in shares)


def test_ctrl_c_ends_the_run_under_way_and_the_same_command_goes_on(stand_in: None, make: Make, tmp_path: Path) -> None:
    content = make({"waits": {"optim.learning_rate": 60}, "good": {}})
    with pytest.raises(Interrupted, match="go on with the same command") as stop:
        for news in Comparison.begin(content):
            assert news.run.variant == "waits" and news.state in ("begins", "stopped")
            if news.state == "begins":
                threading.Timer(0.5, signal.raise_signal, (signal.SIGINT,)).start()
    assert stop.value.exit_code == 130
    assert files.read_json(tmp_path / "compared" / "comparison.json")["counts"]["stopped"] == 1


# ---- a real run


@pytest.mark.slow
def test_runs_have_processes_of_their_own(make: Make, tmp_path: Path) -> None:
    variants = {"full": {}, "head-only": {"model": {"freeze": "body"}}, "lora": {"adapter": {"type": "lora", "r": 2}, "model.head": {}}}
    found = compare_variants(make({**variants, "odd": {"loss": "binary-cross-entropy"}}))
    assert found["counts"] == {"finished": 3, "failed": 1, "stopped": 0, "waiting": 0}, found
    full, head, lora, odd = found["rows"]
    assert full["trained_share"] == 1 and 0 < head["trained_share"] < lora["trained_share"] < 0.5
    assert "does not fit a single-label problem" in odd["error"]
    for row in (full, head, lora):
        stored = files.read_json(Path(row["runs"][0]["run"]) / "metrics.json")
        assert row["score"]["value"] == stored["scores"]["test"]["accuracy"]["value"] and row["training_seconds"] > 0
        assert row["score"]["low"] == stored["scores"]["test"]["accuracy"]["low"]
        assert row["peak_memory_bytes"] == stored["peak_memory_bytes"] > 100 * 2**20
        assert not (Path(row["runs"][0]["run"]) / "checkpoints").exists()
