"""Tasks of different kinds on one trunk: each learns as it would alone, is saved as a whole model, and answers as in training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_decoder
import tiny_seq2seq
import torch
from tiny_mixtures import CLASSES, ON_ENCODERS, mixture, name_of, translators, writers

from luthier import flow
from luthier.cli.main import main
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.data.prepared import Row
from luthier.recipe import Recipe, resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.results.written import REFERENCE_TOKENS
from luthier.tasks import tasks
from luthier.tasks.several.scores import mean_of_primary, scores_of, upwards
from luthier.tasks.several.task import SeveralTasks

THREE = (CLASSES, "token-classification", "sentence-similarity")
QUICK: dict[str, Any] = {"training.max_steps": 6, "evaluate.baseline": False}
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Make:
    def made(names: tuple[str, ...] = THREE, changes: dict[str, Any] | None = None, name: str = "run") -> dict[str, Any]:
        return mixture(tiny_model, tmp_path, names, changes, name)

    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A finished run of every task that an encoder takes; read it, never write into it."""
    changes = {"training.max_steps": 330, "optim.learning_rate": 5e-3, "training.eval_every": "110steps"}
    return flow.train(mixture(tiny_model, tmp_path_factory.mktemp("mixture"), ON_ENCODERS, changes)).path


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder.make_tiny_decoder(tmp_path_factory.mktemp("decoder"))


def bench_of(recipe: dict[str, Any] | Recipe) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def test_every_task_learns_and_is_measured_by_its_own_scores(trained: Path) -> None:
    metrics = files.read_json(trained / "metrics.json")
    values = {name: {key: one["value"] for key, one in found["scores"]["test"].items()} for name, found in metrics["tasks"].items()}
    assert set(values) == set(map(name_of, ON_ENCODERS))
    assert values["text_regression"]["spearman"] > 0.5 and values["sentence_similarity"]["spearman"] > 0.5, values
    assert values["span_extraction"]["f1"] > 0.3 and values["multiple_choice"]["accuracy"] > 0.6, values
    assert values["fill_mask"]["loss"] < 4.5, values
    entries = {entry.name: entry.task for entry in resolve(trained / "recipe.yaml").tasks or ()}
    assert metrics["scores"]["test"]["score"]["value"] == pytest.approx(mean_of_primary(values, entries))
    ticks = [line for line in files.read_json_lines(trained / "events.jsonl") if line.get("scores")]
    assert "fill_mask/perplexity" in ticks[-1]["scores"]["validation"]


@pytest.mark.parametrize("task", ON_ENCODERS)
def test_a_saved_task_answers_as_in_training(task: str, trained: Path) -> None:
    predictor = Predictor.open(trained / "tasks" / name_of(task))
    for line in files.read_json_lines(trained / "tasks" / name_of(task) / "reference.jsonl")[:6]:
        said = predictor.outputs([line["text"]], [line["text_pair"]] if "text_pair" in line else None)
        assert predictor.work.numbers(said)[0].ravel().tolist() == pytest.approx(line["logits"], abs=1e-5)


@pytest.mark.parametrize("task", ON_ENCODERS)
def test_a_saved_task_is_whole_in_plain_transformers(task: str, trained: Path) -> None:
    import transformers

    folder = trained / "model" / name_of(task)
    named = files.read_json(folder / "config.json")["architectures"][0]
    model, info = getattr(transformers, named).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    body = transformers.AutoModel.from_pretrained(trained / "model" / "sentence_similarity").state_dict()
    mine = {name.removeprefix("bert."): tensor for name, tensor in model.state_dict().items()}
    shared = [name for name in body if name in mine]
    assert len(shared) >= len(body) - 2 and all(torch.equal(mine[name], body[name]) for name in shared)


def test_every_verb_takes_a_task_by_its_name(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(trained), "--as", "token_classification", "the card was late"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out.splitlines()[-1])["label"], list)
    assert main(["predict", str(trained), "--as", "sentence_similarity", "the card was late"]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["label"]) == 32
    assert main(["evaluate", str(trained), "--json"]) == 0
    again, stored = json.loads(capsys.readouterr().out.splitlines()[-1])["tasks"], files.read_json(trained / "metrics.json")["tasks"]
    for name, found in again.items():
        for score, value in stored[name]["scores"]["test"].items():
            assert found["scores"]["test"][score]["value"] == pytest.approx(value["value"], abs=1e-6), (name, score)
    assert main(["runs", str(trained.parent)]) == 0
    assert "spearman" in capsys.readouterr().out
    report, card = ((trained / page).read_text(encoding="utf-8") for page in ("report.html", "card.md"))
    for page in (report, card):
        assert "Spearman" in page and "The loss of fill_mask counts in it as e to the power" in page
    assert "`BertForTokenClassification`" in card


@pytest.mark.parametrize("task", ON_ENCODERS)
def test_the_gradient_is_that_of_the_task_alone(task: str, make: Make) -> None:
    recipe = resolve(make(ON_ENCODERS, {"training.speed": {"lean_blocks": False, "row_embedding": False}}))
    together, name = bench_of(recipe), name_of(task)
    alone = lay_out(recipe.of_task(name), together.prepared.members[name])
    shared, single = (bench.parts["model"].module for bench in (together, alone))
    mine: Any = shared.tasks[name]  # type: ignore[union-attr, index]
    for module in (shared, single):
        module.eval()
    assert set(dict(single.named_parameters())) <= set(dict(mine.named_parameters()))
    theirs = dict(single.named_parameters())
    with torch.no_grad():
        for inner, parameter in mine.named_parameters():
            if inner in theirs:
                parameter.copy_(parameter + 0.02 * torch.randn_like(parameter))
                theirs[inner].copy_(parameter)
    batch = next(window[0] for window in together.saved.source if window[0].task == name)
    for bench in (together, alone):
        torch.manual_seed(0)
        terms = bench.work.losses(bench.parts, batch).values()
        sum(term.coefficient * term.sum / term.weight for term in terms).backward()  # type: ignore[union-attr]
    own = dict(mine.named_parameters())
    for inner, parameter in theirs.items():
        gradient = own[inner].grad
        assert (gradient is None) == (parameter.grad is None), inner
        if parameter.grad is not None:
            assert gradient is not None and torch.allclose(gradient, parameter.grad, rtol=1e-6, atol=1e-6), inner


def test_what_some_tasks_read_is_there_whichever_task_is_first(make: Make) -> None:
    for names in (("token-classification", CLASSES), (CLASSES, "token-classification"), ("sentence-similarity", CLASSES)):
        bench = bench_of(make(names))
        module: Any = bench.parts["model"].module
        assert module.tasks[name_of(CLASSES)].bert is module.trunk and module.trunk.pooler is not None
        assert all(parameter.requires_grad for parameter in module.trunk.pooler.parameters())
    bench = bench_of(make(("sentence-similarity", "token-classification")))
    module = bench.parts["model"].module
    assert module.tasks["sentence_similarity"] is module.trunk
    assert not any(parameter.requires_grad for parameter in module.trunk.pooler.parameters())  # nobody reads it


def test_scores_that_count_down_are_turned_in_the_mean() -> None:
    regression, masks = tasks.get("text-regression")(), tasks.get("fill-mask")()
    assert upwards(regression, 0.25) == 0.25 and upwards(masks, 0.0) == 1.0 and upwards(masks, 2.0) == pytest.approx(math.exp(-2))
    assert upwards(regression, None) == upwards(regression, math.nan) == 0.0
    both = {"numbers": regression, "words": masks}
    assert mean_of_primary({"numbers": {"spearman": 0.5}, "words": {"loss": 1.0}}, both) == pytest.approx((0.5 + math.exp(-1)) / 2)
    assert mean_of_primary({"numbers": {}, "words": {"loss": 1.0}}, both) == pytest.approx(math.exp(-1) / 2)


@pytest.mark.parametrize("task", tasks.names())
def test_several_tasks_know_the_direction_of_every_score(task: str) -> None:
    kind = tasks.get(task)
    for score in scores_of(kind()):
        assert SeveralTasks.greater_is_better(f"one/{score}") == kind.greater_is_better(score), score


def test_the_best_step_goes_by_a_score_of_one_task(make: Make) -> None:
    plan = bench_of(make(("text-regression", CLASSES), {"training.best_metric": "text_regression/rmse"})).plan
    assert (plan.metric, plan.greater_is_better) == ("text_regression/rmse", False)


def test_each_task_shows_the_wanted_scores_that_it_has(make: Make) -> None:
    run = flow.train(make((CLASSES, "text-regression"), {**QUICK, "evaluate.metrics": ["accuracy", "rmse"]})).path
    found = files.read_json(run / "metrics.json")["tasks"]
    assert {name: list(one["scores"]["test"]) for name, one in found.items()} == {
        "text_classification": ["accuracy"],
        "text_regression": ["rmse"],
    }


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        (
            lambda r: r["tasks"][1].update(task={"type": "relation-extraction"}),
            "markers that are tokens of their own",
            "tasks.token_classification.task.markers=words",
        ),
        (lambda r: r["tasks"][1].update(task="translation"), "translation has an encoder and a decoder", "run of its own"),
        (lambda r: r["training"].update(step_rule="grad-cache"), "gathers the rows of one task", "leave it out"),
        (lambda r: r["training"].update(best_metric="sentence_similarity/f1"), "unknown score", "sentence_similarity"),
        (lambda r: r["training"].update(most_tokens_at_once=64), "compares the rows of a batch", "training.batch_tokens"),
    ],
)
def test_what_does_not_go_is_said(change: Callable[[dict[str, Any]], Any], said: str, fix: str, make: Make) -> None:
    recipe = make()
    change(recipe)
    with pytest.raises(ConfigError) as caught:
        resolve(recipe)
    assert said in str(caught.value) and fix in str(caught.value), caught.value


def test_bodies_of_two_kinds_are_refused(tmp_path: Path) -> None:
    model = tiny_seq2seq.make_tiny_seq2seq(tmp_path / "t5")
    with pytest.raises(ConfigError, match="T5EncoderModel") as caught:
        bench_of(mixture(model, tmp_path, (CLASSES, "token-classification")))
    assert "run of its own" in str(caught.value)


def answers_again(run: Path, name: str) -> None:
    """Assert that the saved model of a task that writes gives the texts and numbers of the training."""
    predictor = Predictor.open(run / "tasks" / name)
    work: Any = predictor.work
    lines = files.read_json_lines(run / "tasks" / name / "reference.jsonl")[:6]
    assert len({tuple(line["logits"]) for line in lines}) > 1, "all answers are the same: nothing is compared"
    for line in lines:
        batch = work.prompted([Row(0, [np.array(line["tokens"])], None, None)])
        ((_, text, logits_V),) = work.written(predictor.parts, batch, max_new_tokens=REFERENCE_TOKENS, greedy=True)
        assert text == line["label"]
        assert logits_V[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)


def test_two_writers_are_one_model(decoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = flow.train(writers(decoder, tmp_path, {"training.max_steps": 80, "optim.learning_rate": 1e-2})).path
    metrics = files.read_json(run / "metrics.json")
    losses = {name: found["scores"]["test"]["loss"]["value"] for name, found in metrics["tasks"].items()}
    assert losses["plain"] < 2.5 and losses["asked"] < 3.5, losses
    assert metrics["scores"]["test"]["score"]["value"] == pytest.approx(np.mean([math.exp(-loss) for loss in losses.values()]))
    models = [AutoModelForCausalLM.from_pretrained(run / "model" / name).state_dict() for name in ("asked", "plain")]
    assert models[0].keys() == models[1].keys() and all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    for name in ("asked", "plain"):
        answers_again(run, name)


def test_a_writer_and_a_classifier_share_a_decoder(decoder: Path, tmp_path: Path) -> None:
    recipe = writers(decoder, tmp_path, {"training.max_steps": 40, "optim.learning_rate": 1e-2}, classes=True)
    bench = bench_of(recipe)
    module: Any = bench.parts["model"].module
    assert module.tasks["kind"].model is module.tasks["asked"].model.model is module.trunk
    assert module.tasks["asked"].model.lm_head.weight is module.trunk.embed_tokens.weight
    run = flow.train(recipe).path
    assert files.read_json(run / "metrics.json")["tasks"]["kind"]["scores"]["test"]["accuracy"]["value"] > 0.8
    answers_again(run, "asked")
    lines = files.read_json_lines(run / "tasks" / "kind" / "reference.jsonl")
    outputs = Predictor.open(run / "tasks" / "kind").outputs([line["text"] for line in lines])
    assert np.abs(outputs.logits_BC - [line["logits"] for line in lines]).max() <= 1e-4


def test_the_last_layer_of_writers_is_frozen_under_an_adapter(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tiny_decoder.make_tiny_decoder(tmp_path / "model")
    config = LlamaConfig.from_pretrained(folder, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    bench = bench_of(writers(folder, tmp_path, {"adapter": {"type": "lora", "r": 2}}, classes=True))
    trained = {name for name, parameter in bench.parts["model"].module.named_parameters() if parameter.requires_grad}
    assert not any("lm_head" in name or "embed" in name for name in trained)
    assert any("lora" in name for name in trained) and any(name.startswith("tasks.kind.score") for name in trained)


def test_two_tasks_on_one_encoder_decoder(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model = tiny_seq2seq.make_tiny_seq2seq(tmp_path / "t5")
    recipe = translators(model, tmp_path, {"training.max_steps": 60, "optim.learning_rate": 1e-2})
    recipe["tasks"][1]["task"]["num_beams"] = 2
    run = flow.train(recipe).path
    metrics = files.read_json(run / "metrics.json")["tasks"]
    assert all(found["scores"]["test"]["loss"]["value"] < 3 for found in metrics.values())
    assert "bleu" in metrics["whole"]["scores"]["test"]
    beams = [AutoModelForSeq2SeqLM.from_pretrained(run / "model" / name).generation_config.num_beams for name in ("whole", "initials")]
    assert beams == [1, 2]
    for name in ("whole", "initials"):
        answers_again(run, name)
