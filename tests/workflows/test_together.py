"""Ensembles and soups of several runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.metrics.answered import Answered
from luthier.serve.combining import uncertainty
from luthier.serve.ensemble import EnsemblePredictor
from luthier.stages.asking.predict import section_of
from luthier.workflows.crossval import cross_validate
from luthier.workflows.ensemble import ensemble, put_together
from luthier.workflows.soup import soup
from luthier.workflows.stacking import fit_stack

MakeRecipe = Callable[..., dict[str, Any]]
BASE = {"data.split": {"validation": 0.2, "test": 0.25}, "evaluate.baseline": False, "model.head": {"start": "zero"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> list[Path]:
    """Three runs of the same rows with other seeds and lengths, none of them perfect."""
    folder = tmp_path_factory.mktemp("members")
    made = []
    for seed, steps in ((0, 40), (1, 45), (2, 50)):
        changes = {**BASE, "training.seed": seed, "training.max_steps": steps, "optim.learning_rate": 5e-3}
        made.append(flow.train(tiny.tiny_recipe(tiny_model, tiny_csv, folder / f"seed-{seed}", changes)).path)
    return made


def stored(run: Path, split: str, key: str = "accuracy") -> dict[str, float]:
    return files.read_json(run / "metrics.json")["scores"][split][key]


def answered(probabilities: list[list[float]], *, multi_label: bool = False) -> Answered:
    truth = np.zeros((len(probabilities), 2), bool) if multi_label else np.zeros(len(probabilities), int)
    return Answered(np.arange(len(probabilities)), np.array(probabilities), truth, ("a", "b"), multi_label)


# ---- ensemble


def test_mean_and_vote_by_hand() -> None:
    singles = [answered([[0.9, 0.1], [0.6, 0.4]]), answered([[0.4, 0.6], [0.45, 0.55]]), answered([[0.4, 0.6], [0.45, 0.55]])]
    assert np.allclose(put_together(singles, how="mean").probabilities_NC, [[1.7 / 3, 1.3 / 3], [0.5, 0.5]])
    assert put_together(singles, how="vote").predictions.tolist() == [1, 1], "two of three, however sure the third is"
    even = put_together(singles[:2], how="vote")
    assert even.predictions.tolist() == [0, 0] and np.allclose(even.probabilities_NC.sum(1), 1), "the mean decides even votes"


def test_votes_of_several_labels() -> None:
    singles = [answered([[0.9, 0.2]], multi_label=True), answered([[0.4, 0.6]], multi_label=True)]
    assert np.allclose(put_together(singles, how="vote").probabilities_NC, [[0.65, 0.4]]), "the mean decides even votes"
    three = [*singles, answered([[0.1, 0.9]], multi_label=True)]
    assert np.allclose(put_together(three, how="vote").probabilities_NC, [[1 / 3, 2 / 3]])


def noisy(truth_N: np.ndarray, *, right: float, sure: float, seed: int, multi_label: bool = False) -> Answered:
    """Made-up answers over three labels that are right for a share of the rows."""
    rng = np.random.default_rng(seed)
    truth_NC = truth_N[:, None] == np.arange(3)
    said_N = np.where(rng.random(len(truth_N)) < right, truth_N, rng.integers(0, 3, len(truth_N)))
    given_NC = np.where(said_N[:, None] == np.arange(3), sure, (1 - sure) / 2)
    return Answered(np.arange(len(truth_N)), given_NC, truth_NC if multi_label else truth_N, ("a", "b", "c"), multi_label)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_stack_believes_the_better_model(multi_label: bool) -> None:
    truth_N = np.random.default_rng(0).integers(0, 3, 1200)
    good, loud = ({"right": 0.9, "sure": 0.6}, {"right": 0.1, "sure": 0.98})
    singles = [noisy(truth_N, **one, seed=seed, multi_label=multi_label) for seed, one in enumerate((good, loud))]
    first = [Answered(one.ids_N[:600], one.probabilities_NC[:600], one.truth[:600], one.labels, multi_label) for one in singles]
    rest = [Answered(one.ids_N[600:], one.probabilities_NC[600:], one.truth[600:], one.labels, multi_label) for one in singles]
    stack = fit_stack(first)
    assert stack.weights_M[0] > 1 > 5 * abs(stack.weights_M[1])
    mean, stacked = put_together(rest, how="mean"), put_together(rest, how="stack", stack=stack)
    right = [(one.predictions_NC == one.truth_NC).all(1).mean() for one in (mean, stacked, rest[0])]
    assert right[1] > right[0] + 0.2 and right[1] >= right[2] - 0.01


def test_a_stack_of_two_classes_is_the_logistic_regression_of_sklearn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(3)
    odds_MN, truth_N = rng.normal(size=(2, 4000)), rng.integers(0, 2, 4000)
    odds_MN[0] += 2 * truth_N - 1
    each = [1 / (1 + np.exp(-odds_N)) for odds_N in odds_MN]
    stack = fit_stack([Answered(np.arange(4000), np.stack([1 - p, p], 1), truth_N, ("no", "yes")) for p in each])
    plain = LogisticRegression(C=1e6).fit(odds_MN.T, truth_N)
    assert stack.weights_M == pytest.approx(plain.coef_[0], abs=0.01)
    assert stack.offsets_C[1] - stack.offsets_C[0] == pytest.approx(plain.intercept_[0], abs=0.01)


def test_uncertainty_by_hand() -> None:
    alike = np.array([[[0.5, 0.5]], [[0.5, 0.5]]])
    apart = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    answer_NC = np.array([[True, False]])
    first, second = (uncertainty(one, answer_NC, multi_label=False) for one in (alike, apart))
    assert first["entropy"] == pytest.approx(np.log(2)) == second["entropy"]
    assert first["mutual_information"] == pytest.approx(0) and second["mutual_information"] == pytest.approx(np.log(2))
    assert (first["agreement"], second["agreement"]) == (1.0, 0.5)
    several = uncertainty(np.array([[[0.5, 1.0]], [[0.5, 1.0]]]), np.array([[True, True]]), multi_label=True)
    assert several["entropy"] == pytest.approx(np.log(2)), "of each label, summed"


def test_models_of_other_rows_are_not_put_together() -> None:
    with pytest.raises(ValueError, match="other rows"):
        put_together([answered([[0.9, 0.1]]), answered([[0.9, 0.1], [0.6, 0.4]])], how="mean")


@pytest.mark.parametrize("how", ["mean", "vote", "stack"])
def test_an_ensemble_beside_each_run(runs: list[Path], how: str) -> None:
    found = ensemble(runs, how=how)
    assert (found["weights"] is not None) == (how == "stack") and found["output"] is None
    assert found["split"] == "test" and found["rows"] == 30 and 0 < found["all_agree"] < 1
    for run, single in zip(runs, found["singles"], strict=True):
        assert single["run"] == str(run)
        assert single["scores"]["accuracy"] == stored(run, "test"), "the same rows, scored as the run itself was"
        compared = single["comparison"]
        assert compared["tuned"] == found["scores"]["accuracy"]["value"] and compared["base"] == single["scores"]["accuracy"]["value"]
        assert compared["low"] <= compared["difference"] <= compared["high"]
    score = found["scores"]["accuracy"]
    assert score["low"] <= score["value"] <= score["high"]


def test_the_mean_is_that_of_the_probabilities_that_predict_gives(runs: list[Path], tmp_path: Path) -> None:
    rows = tiny.tiny_rows(24, seed=9)
    found = ensemble(runs, data=str(tiny.write_rows(tmp_path / "other.csv", rows)))
    texts, labels = zip(*rows, strict=True)
    each = [[answer.probabilities for answer in flow.predict(run, texts)] for run in runs]
    means = [{label: np.mean([one[row][label] for one in each]) for label in each[0][row]} for row in range(len(rows))]
    right = np.mean([max(mean, key=mean.__getitem__) == label for mean, label in zip(means, labels, strict=True)])
    assert found["rows"] == 24 and found["scores"]["accuracy"]["value"] == pytest.approx(right)


@pytest.mark.parametrize("how", ["mean", "vote", "stack"])
def test_predict_answers_with_all_runs_of_a_folder(runs: list[Path], how: str, tmp_path: Path) -> None:
    rows = tiny.tiny_rows(24, seed=9)
    other = tiny.write_rows(tmp_path / "other.csv", rows)
    found = ensemble(runs, how=how, data=str(other), output=tmp_path / "together")
    answers = list(flow.predict(tmp_path / "together", [text for text, _ in rows]))
    right = [answer.label == label for answer, (_, label) in zip(answers, rows, strict=True)]
    assert np.mean(right) == pytest.approx(found["scores"]["accuracy"]["value"]), "what is predicted is what was measured"
    each = [list(flow.predict(run, [text for text, _ in rows])) for run in runs]
    for place, answer in enumerate(answers):
        assert answer.uncertainty is not None and list(answer.probabilities)[0] == answer.label
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
        agree = np.mean([one[place].label == answer.label for one in each])
        assert answer.uncertainty["agreement"] == pytest.approx(agree, abs=1e-5)
        assert 0 <= answer.uncertainty["mutual_information"] <= answer.uncertainty["entropy"] <= np.log(3) + 1e-6
    assert section_of(tmp_path / "together") == section_of(runs[0])
    with pytest.raises(ConfigError, match="--top-p: an ensemble writes no text"):
        EnsemblePredictor.open(tmp_path / "together").writing(top_p=0.5)
    with pytest.raises(ConfigError, match="exists and is not empty"):
        ensemble(runs, output=tmp_path / "together")


def test_the_folds_of_a_cross_validation_answer_together(recipe: MakeRecipe, tmp_path: Path) -> None:
    quick = {"training.max_steps": 2, "model.head": {"start": "zero"}, "evaluate.baseline": False}
    cross_validate(recipe("cv", quick), num_folds=2)
    with pytest.raises(DataError, match="one may have trained on those of the other"):
        ensemble([tmp_path / "cv"])
    other = tiny.write_rows(tmp_path / "other.csv", tiny.tiny_rows(24, seed=9))
    found = ensemble([tmp_path / "cv"], data=str(other))
    assert found["runs"] == [str(tmp_path / "cv" / f"fold-{number}") for number in (1, 2)] and found["rows"] == 24


def test_cross_validations_are_stacked_by_their_out_of_fold_answers(recipe: MakeRecipe, tmp_path: Path) -> None:
    common = {"model.head": {"start": "zero"}, "evaluate.baseline": False}
    cross_validate(recipe("good", {**common, "training.max_steps": 40}), num_folds=2)
    cross_validate(recipe("poor", {**common, "training.max_steps": 1, "optim.learning_rate": 1e-9}), num_folds=2)
    other = tiny.write_rows(tmp_path / "other.csv", tiny.tiny_rows(24, seed=9))
    both = [tmp_path / "good", tmp_path / "poor"]
    found = ensemble(both, how="stack", data=str(other), output=tmp_path / "together")
    weights = found["weights"]
    assert list(weights) == [str(one) for one in both] == [one["run"] for one in found["singles"]] and len(found["runs"]) == 4
    assert weights[str(both[0])] > abs(weights[str(both[1])]) and weights[str(both[0])] > 1 / 2, "it believes the better one"
    texts, labels = zip(*tiny.tiny_rows(24, seed=9), strict=True)
    right = [answer.label == label for answer, label in zip(flow.predict(tmp_path / "together", texts), labels, strict=True)]
    assert np.mean(right) == pytest.approx(found["scores"]["accuracy"]["value"]), "what is predicted is what was measured"
    with pytest.raises(ConfigError, match="two or more cross-validations of the same rows"):
        ensemble(both[:1], how="stack", data=str(other))
    cross_validate(recipe("three", {**common, "training.max_steps": 1}), num_folds=3)
    with pytest.raises(DataError, match="other folds"):
        ensemble([both[0], tmp_path / "three"], how="stack", data=str(other))


def test_a_stack_is_never_measured_on_the_rows_it_was_fitted_to(recipe: MakeRecipe, tmp_path: Path) -> None:
    quick = {**BASE, "data.split": {"test": 0.25}, "training.max_steps": 1}
    pair = [flow.train(recipe(f"run-{seed}", {**quick, "training.seed": seed})).path for seed in (0, 1)]
    with pytest.raises(DataError, match="fitted to validation rows and measured on test rows; the runs held out test alone"):
        ensemble(pair, how="stack")
    other = tiny.write_rows(tmp_path / "other.csv", tiny.tiny_rows(24, seed=9))
    with pytest.raises(DataError, match="the runs held none out"):
        ensemble(pair, how="stack", data=str(other))


def test_runs_that_do_not_fit_together_are_refused(runs: list[Path], recipe: MakeRecipe, tmp_path: Path) -> None:
    quick = {**BASE, "training.max_steps": 1}
    two = tiny.write_rows(tmp_path / "two.csv", tiny.tiny_rows(60, classes=("delivery", "login")))
    labels = flow.train(recipe("labels", quick, rows=two)).path
    with pytest.raises(ConfigError, match="has other labels than .*: payment"):
        ensemble([runs[0], labels])
    split = flow.train(recipe("split", {**quick, "data.split": {"validation": 0.2, "test": 0.25, "seed": 7}})).path
    with pytest.raises(DataError, match="held other test rows out: one may have trained"):
        ensemble([runs[0], split])
    with pytest.raises(ConfigError, match="two or more"):
        ensemble(runs[:1])
    with pytest.raises(ConfigError, match="named twice"):
        ensemble([runs[0], runs[0]])
    with pytest.raises(ConfigError, match="did you mean 'vote'"):
        ensemble(runs, how="votes")


# ---- soup


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_a_uniform_soup_is_the_mean_of_the_weights(runs: list[Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    found = soup(runs, tmp_path / "soup", how="uniform")
    mixed, each = weights_of(tmp_path / "soup"), [weights_of(run / "model") for run in runs]
    assert mixed.keys() == each[0].keys()
    for name, tensor in mixed.items():
        assert torch.allclose(tensor, sum(one[name] for one in each) / 3, atol=1e-7), name
    assert found["chosen"] == [str(run) for run in runs]
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup")
    assert torch.equal(plain.state_dict()["classifier.weight"], mixed["classifier.weight"])
    rows = tiny.tiny_rows(12, seed=5)
    answers = list(flow.predict(tmp_path / "soup", [text for text, _ in rows]))
    assert {answer.label for answer in answers} <= set(tiny.WORDS_BY_CLASS)
    assert set(found["scores"]) == {"validation", "test"}
    assert found["singles"][0]["comparison"]["test"]["tuned"] == found["scores"]["test"]["accuracy"]["value"]


def test_a_greedy_soup_is_not_worse_than_its_best_run_on_the_validation_rows(runs: list[Path], tmp_path: Path) -> None:
    found = soup(runs, tmp_path / "soup")
    best = max(runs, key=lambda run: stored(run, "validation")["value"])
    assert found["chosen"][0] == str(best)
    assert found["scores"]["validation"]["accuracy"]["value"] >= stored(best, "validation")["value"]
    assert [one["run"] for one in found["singles"] if one["chosen"]] == sorted(found["chosen"])
    assert files.read_json(tmp_path / "soup" / "soup.json")["runs"] == found["chosen"]
    assert not list(tmp_path.glob(".soup-*")), "no candidate is left behind"


def test_a_greedy_soup_takes_runs_that_lie_close_together(runs: list[Path], recipe: MakeRecipe, tmp_path: Path) -> None:
    changes = {**BASE, "training.max_steps": 40, "optim.learning_rate": 5e-3, "optim.weight_decay": 1e-6}
    near = flow.train(recipe("near", changes)).path
    found = soup([runs[0], near], tmp_path / "soup")
    assert len(found["chosen"]) == 2, "the mean of two all but equal models answers as they do"
    assert found["scores"]["validation"]["accuracy"]["value"] >= stored(near, "validation")["value"]


def test_runs_without_a_mean_are_refused(runs: list[Path], recipe: MakeRecipe, tmp_path: Path) -> None:
    quick = {**BASE, "training.max_steps": 1}
    adapted = flow.train(recipe("adapted", {**quick, "model.head": {}, "adapter": {"type": "lora", "r": 2}})).path
    with pytest.raises(ConfigError, match="has an adapter"):
        soup([runs[0], adapted], tmp_path / "soup")
    other = tiny.make_tiny_model(tmp_path / "other-base", seed=1)
    elsewhere = flow.train(recipe("elsewhere", quick, model=other)).path
    with pytest.raises(ConfigError, match="started from .*other-base"):
        soup([runs[0], elsewhere], tmp_path / "soup")
    with pytest.raises(ConfigError, match="exists and is not empty"):
        soup(runs, runs[0])
    assert not (tmp_path / "soup").exists()


def test_test_rows_choose_nothing(recipe: MakeRecipe, tmp_path: Path) -> None:
    quick = {**BASE, "data.split": {"test": 0.25}, "training.max_steps": 1}
    pair = [flow.train(recipe(f"run-{seed}", {**quick, "training.seed": seed})).path for seed in (0, 1)]
    with pytest.raises(DataError, match="test rows choose nothing"):
        soup(pair, tmp_path / "soup")
    assert soup(pair, tmp_path / "soup", how="uniform")["scores"].keys() == {"test"}
