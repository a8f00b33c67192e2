"""Ensembles of runs whose rows have answers of their own: numbers, cosines, choices, relations, intents with slots."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier import flow
from luthier.cli.main import main
from luthier.core.errors import ConfigError, DataError
from luthier.core.work import Answer, RowOutputs
from luthier.metrics.probabilities import mean_as_scores, softmax
from luthier.recipe import resolve
from luthier.serve.ensemble import EnsemblePredictor
from luthier.serve.mean_of_rows import mean_of_rows, with_spread
from luthier.serve.predictor import Predictor
from luthier.tasks import tasks
from luthier.tasks.intent_and_slots import Said as Framed
from luthier.tasks.task import RowWork
from luthier.workflows.crossval import cross_validate
from luthier.workflows.ensemble import ensemble

ROW_TASKS = [name for name in tasks.names() if tasks.get(name).answers_with == "rows"]
AVERAGED = [name for name in ROW_TASKS if tasks.get(name).has_mean]
QUICK = {"training.max_steps": 15, "evaluate.baseline": False, "data.split": {"test": 0.3}}


def recipe_of(task: str, folder: Path, tiny_model: Path, name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    module = import_module(f"row_tasks.{task.replace('-', '_')}")
    model = module.make_model(folder / "model") if hasattr(module, "make_model") else tiny_model
    return tiny.tiny_recipe(model, module.write(folder), folder / name, {"task": task, **module.CHANGES, **QUICK, **(changes or {})})


def runs_of(task: str, folder: Path, tiny_model: Path, **changes: Any) -> list[Path]:
    return [flow.train(recipe_of(task, folder, tiny_model, f"run-{seed}", {"training.seed": seed, **changes})).path for seed in (0, 1)]


@pytest.mark.parametrize("task", AVERAGED)
def test_two_runs_answer_together(task: str, tiny_model: Path, tmp_path: Path) -> None:
    runs = runs_of(task, tmp_path, tiny_model)
    found = ensemble(runs, output=tmp_path / "together")
    primary = tasks.get(task).primary_metric
    assert found["split"] == "test" and found["rows"] > 20 and found["weights"] is None
    for run, single in zip(runs, found["singles"], strict=True):
        assert single["run"] == str(run)
        stored = json.loads((run / "metrics.json").read_text())["scores"]["test"][primary]["value"]
        assert single["scores"][primary]["value"] == pytest.approx(stored, abs=1e-6), "the same rows, scored as the run itself was"
    score = found["scores"][primary]
    assert score["low"] <= score["value"] <= score["high"]
    lines = [json.loads(line) for line in (runs[0] / "reference.jsonl").read_text(encoding="utf-8").splitlines()][:8]
    pairs = [line["text_pair"] for line in lines] if "text_pair" in lines[0] else None
    asked = [line["text"] for line in lines]
    answers = list(EnsemblePredictor.open(tmp_path / "together").answer(asked, pairs))
    own = [list(Predictor.open(run).answer(asked, pairs)) for run in runs]
    for place, answer in enumerate(answers):
        each = [one[place].label for one in own]
        assert answer.uncertainty is not None
        if isinstance(answer.label, float):
            assert answer.label == pytest.approx(np.mean(each), abs=1e-5)
            assert answer.uncertainty["deviation"] == pytest.approx(np.std(each), abs=1e-5)
        else:
            assert answer.uncertainty["agreement"] in (0.0, 0.5, 1.0)
    with pytest.raises(ConfigError, match=f"'vote' is over classes, and {task} has none"):
        ensemble(runs, how="vote")


@pytest.mark.parametrize("task", sorted(set(ROW_TASKS) - set(AVERAGED)))
def test_answers_without_a_mean_are_refused(task: str, tiny_model: Path, tmp_path: Path) -> None:
    runs = runs_of(task, tmp_path, tiny_model, **{"training.max_steps": 1})
    with pytest.raises(ConfigError, match=f"{task} keeps the best .* have no mean .average the weights instead.*luthier soup"):
        ensemble(runs)


def test_texts_that_are_written_are_refused(tmp_path: Path) -> None:
    model, rows = make_tiny_decoder(tmp_path / "model"), write_instructions(tmp_path / "rows.jsonl", tiny_instructions(40))
    quick = {"training.max_steps": 1, "evaluate.baseline": False}
    runs = [flow.train(writing_recipe(model, rows, tmp_path / f"run-{seed}", {**quick, "training.seed": seed})).path for seed in (0, 1)]
    with pytest.raises(ConfigError, match="text-generation writes texts.*luthier soup"):
        ensemble(runs)


def test_the_command_line_says_it(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_of("text-regression", tmp_path, tiny_model)
    assert main(["ensemble", *map(str, runs), "--output", str(tmp_path / "both")]) == 0
    said = "".join(capsys.readouterr())
    assert "test: " in said and "agree" not in said, "numbers are never alike"
    assert main(["predict", str(tmp_path / "both"), "the refund was late"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    own = [next(iter(flow.predict(run, ["the refund was late"]))).label for run in runs]
    assert line["label"] == pytest.approx(np.mean(own), abs=1e-5) and line["deviation"] == pytest.approx(np.std(own), abs=1e-5)


def test_folds_answer_together_about_other_rows(tiny_model: Path, tmp_path: Path) -> None:
    content = recipe_of("text-regression", tmp_path, tiny_model, "cv", {"training.max_steps": 2, "data.split": {}})
    cross_validate(content, num_folds=2)
    with pytest.raises(DataError, match="one may have trained on those of the other"):
        ensemble([tmp_path / "cv"])
    found = ensemble([tmp_path / "cv"], data=content["data"]["train"])
    assert len(found["runs"]) == 2 and found["rows"] == 120 and found["all_agree"] is None


# ---- by hand


def test_the_mean_of_probabilities_by_hand() -> None:
    scores = mean_as_scores([np.log([0.9, 0.1]), np.log([0.5, 0.5])])
    assert softmax(scores) == pytest.approx([0.7, 0.3])
    assert np.isfinite(mean_as_scores([np.array([0.0, -np.inf]), np.array([0.0, -np.inf])])).all()


def test_each_kind_by_hand(tiny_model: Path, tmp_path: Path) -> None:
    def mean_said(task: str, said: list[Any]) -> Any:
        resolved = resolve(recipe_of(task, tmp_path, tiny_model, "none"))
        work = resolved.task.start(flow.prepare(resolved), data=resolved.data, loss=None)
        assert isinstance(work, RowWork)
        return mean_of_rows(work, [RowOutputs.of([3], [one]) for one in said]).said[0]

    assert mean_said("text-regression", [(1.0, 5.0), (4.0, 5.0)]) == (2.5, 5.0)
    shares_K, record = mean_said("multiple-choice", [(np.log([0.9, 0.1]), {"right": 1}), (np.log([0.3, 0.7]), {"right": 1})])
    assert np.exp(shares_K) == pytest.approx([0.6, 0.4]) and record == {"right": 1}
    framed = [Framed(np.log([0.8, 0.2]), np.log([[0.6, 0.4]]), "{}"), Framed(np.log([0.1, 0.9]), np.log([[0.2, 0.8]]), "{}")]
    both = mean_said("intent-and-slots", framed)
    assert np.exp(both.intents) == pytest.approx([0.45, 0.55]) and np.exp(both.tags[0]) == pytest.approx([0.4, 0.6])


def test_vectors_of_several_models_have_the_mean_of_their_cosines() -> None:
    from luthier.tasks.text.similarity_work import Said, SentenceSimilarityWork, _cosine

    rng = np.random.default_rng(0)
    each = [Said([rng.normal(size=width), rng.normal(size=width)], (0, 1), 2.0) for width in (4, 7, 5)]
    both = SentenceSimilarityWork.mean_said(None, each)  # type: ignore[arg-type]
    assert _cosine(both.vectors) == pytest.approx(np.mean([_cosine(one.vectors) for one in each])) and both.score == 2.0


def test_how_far_models_are_apart() -> None:
    sure = with_spread(Answer({"intent": "a", "probability": 0.9}, {}), [Answer({"intent": one, "probability": 0.1}, {}) for one in "aab"])
    assert sure.uncertainty == {"agreement": pytest.approx(2 / 3, abs=1e-6)}
    assert with_spread(Answer(2.0, {}), [Answer(1.0, {}), Answer(3.0, {})]).uncertainty == {"deviation": 1.0}
    assert with_spread(Answer([0.1, 0.2], {}), [Answer([0.1, 0.2], {})]).uncertainty is None
