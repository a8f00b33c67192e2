"""Text generation: what is learnt of which rows, the same gradient however they are laid out, the same model after saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches import bench_of, gradient, largest_difference
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, write_text, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench
from luthier.stages.results.measure import outputs_of
from luthier.training.inference import measuring

MakeBench = Callable[..., Bench]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_decoder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_instructions(tmp_path_factory.mktemp("rows") / "tiny.jsonl", tiny_instructions(120))


@pytest.fixture
def bench(decoder: Path, instructions: Path, tmp_path: Path) -> MakeBench:
    def make(changes: dict[str, Any] | None = None, *, rows: Path = instructions, model: Path = decoder) -> Bench:
        return bench_of(writing_recipe(model, rows, tmp_path / "run", changes))

    return make


@pytest.mark.parametrize("chat", [False, True])
def test_only_the_response_and_its_end_are_learnt(chat: bool, bench: MakeBench, tmp_path: Path) -> None:
    template = "{% for message in messages %}<s> Instruction : {{ message.content }} Response :{% endfor %}" if chat else None
    model = make_tiny_decoder(tmp_path / "chat", chat_template=template)
    laid = bench(model=model)
    split, tokenizer = laid.prepared.splits["train"], laid.work.tokenizer
    for index in range(20):
        row = split.row(index)
        tokens = row.windows[0].tolist()
        response = split.texts([index])[0]
        assert tokenizer.decode(tokens[int(row.target) :]) == f"{response} </s>"
        assert tokens[0] == 1 and tokens.count(1) == 1, "one beginning of text"
        assert ("###" not in tokenizer.decode(tokens)) == chat
        batch = laid.work.collate([row])
        assert batch.targets["tokens"].tolist() == tokens[int(row.target) :]
        assert laid.work.weights(batch) == {"loss": float(len(response.split()) + 1)}


def test_the_prompt_is_learnt_where_it_is_wanted(bench: MakeBench) -> None:
    laid = bench({"task.train_on_prompt": True})
    row = laid.prepared.splits["train"].row(0)
    assert laid.work.collate([row]).targets["tokens"].tolist() == row.windows[0].tolist()[1:]


@pytest.mark.parametrize("rows", ["instructions", "text"])
def test_packing_and_padding_give_the_same_gradient(rows: str, bench: MakeBench, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"data.max_length": 24} if rows == "text" else {}
    where = {"rows": write_text(tmp_path / "tiny.txt")} if rows == "text" else {}
    packed, padded = (bench({**changes, "data.packing": packing}, **where) for packing in (True, False))
    last = len(packed.prepared.splits["train"])
    chosen = [range(last - 8, last)]
    batch = packed.work.collate([packed.prepared.splits["train"].row(index) for index in chosen[0]])
    assert batch.inputs["input_ids"].shape[0] == 1 and batch.num_tokens == batch.inputs["input_ids"].numel()
    assert largest_difference(gradient(packed, chosen), gradient(padded, chosen)) <= 1e-5


@pytest.mark.parametrize("packing", [True, False])
def test_micro_batches_give_the_gradient_of_the_whole(packing: bool, bench: MakeBench) -> None:
    laid = bench({"data.packing": packing})
    whole = gradient(laid, [range(9)])
    assert largest_difference(gradient(laid, [range(2), range(2, 7), range(7, 9)]), whole) <= 1e-6
    assert largest_difference(gradient(laid, [range(i, i + 1) for i in range(9)]), whole) <= 1e-6


def test_the_loss_is_that_of_plain_transformers(bench: MakeBench) -> None:
    laid = bench()
    split, model = laid.prepared.splits["test"], laid.parts["model"].module.model
    found = outputs_of(laid.work, laid.parts, split, max_tokens=200, device="cpu")
    with measuring(laid.parts):
        for index in range(len(split)):
            row = split.row(index)
            ids = torch.tensor(row.windows[0], dtype=torch.int64)[None]
            labels = ids.clone()
            labels[:, : int(row.target)] = -100
            own = model(input_ids=ids, labels=labels).loss
            assert float(found.nats_B[index] / found.tokens_B[index]) == pytest.approx(float(own), abs=1e-5)


def test_plain_text_comes_in_blocks_and_loses_nothing(bench: MakeBench, tmp_path: Path) -> None:
    file = write_text(tmp_path / "tiny.txt", num_words=500)
    laid = bench({"data.max_length": 16, "data.split": {"test": 0.2}}, rows=file)
    splits = laid.prepared.splits
    tokens = [token for name in ("train", "test") for i in range(len(splits[name])) for token in splits[name].row(i).windows[0].tolist()]
    assert laid.work.tokenizer.decode([token for token in tokens if token not in (1, 2)]) == " ".join(file.read_text().split())
    assert [len(splits["train"].row(i).windows[0]) for i in range(len(splits["train"]) - 1)] == [16] * (len(splits["train"]) - 1)
    ids = [*splits["train"].ids_N.tolist(), *splits["test"].ids_N.tolist()]
    assert len(set(ids)) == len(ids)


@pytest.fixture(scope="module")
def run(decoder: Path, instructions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 60 steps."""
    output = tmp_path_factory.mktemp("runs") / "run"
    changes = {"training.max_steps": 60, "training.batch_size": 16, "data.split": {"validation": 0.1, "test": 0.2}}
    return flow.train(writing_recipe(decoder, instructions, output, changes)).path


def test_a_run_learns_and_says_so(run: Path) -> None:
    scores = files.read_json(run / "metrics.json")["scores"]["test"]
    facts = files.read_json(run / "evaluation.json")["test"]
    assert set(scores) == {"loss", "perplexity", "token_accuracy"}
    assert scores["perplexity"]["value"] == pytest.approx(np.exp(scores["loss"]["value"]))
    assert scores["loss"]["low"] < scores["loss"]["value"] < scores["loss"]["high"] < facts["baseline"]["scores"]["loss"]["low"]
    assert facts["comparison"]["verdict"] == "better" and facts["comparison"]["high"] < 0
    assert all({"text", "expected", "written", "untuned"} <= set(sample) for sample in facts["samples"]) and len(facts["samples"]) == 2
    assert any(sample["written"] != sample["untuned"] for sample in facts["samples"])


def test_the_pages_tell_of_text_not_of_classes(run: Path) -> None:
    page, card = (run / "report.html").read_text(encoding="utf-8"), (run / "card.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert "perplexity" in text.lower() and "Without tuning" in text
        assert "confus" not in text.lower() and "accuracy on" not in text and "labels" not in text
    assert 'id="samples"' in page and 'id="classes"' not in page and 'id="calibration"' not in page
    assert 'pipeline("text-generation"' in card and "pipeline_tag: text-generation" in card


def test_a_run_predicts_what_its_reference_says(run: Path) -> None:
    lines = files.read_json_lines(run / "reference.jsonl")
    predictor = Predictor.open(run)
    assert len(lines) > 10 and len({line["label"] for line in lines}) > 3
    prompts, inputs = zip(*(line["text"].split("\n") for line in lines), strict=True)
    answers = list(predictor.answer(list(prompts), list(inputs)))
    assert [answer.label for answer in answers] == [line["label"] for line in lines], "left padding changes no answer"
    for line in lines[:6]:
        with measuring(predictor.parts):
            logits = predictor.parts["model"].module.model(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
        assert logits[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)


def test_the_model_folder_is_plain_transformers(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    line = files.read_json_lines(run / "reference.jsonl")[0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([line["tokens"]])).logits[0, -1]
    assert logits[line["top_tokens"]].tolist() == pytest.approx(line["logits"], abs=1e-5)
    assert len(tokenizer) == model.config.vocab_size


def test_evaluate_finds_the_same_scores(run: Path, instructions: Path) -> None:
    stored = files.read_json(run / "metrics.json")["scores"]
    found = flow.evaluate(run)["scores"]
    assert found["test"]["loss"]["value"] == pytest.approx(stored["test"]["loss"]["value"], abs=1e-6)
    assert set(flow.evaluate(run, data=str(instructions))["scores"]["test"]) == set(stored["test"])


def test_answers_are_drawn_where_a_temperature_is_set(run: Path) -> None:
    predictor = Predictor.open(run)
    object.__setattr__(predictor.work, "settings", predictor.work.settings.model_copy(update={"temperature": 5.0}))
    drawn = {tuple(answer.label for answer in predictor.answer(["say"] * 8, ["sun"] * 8)) for _ in range(2)}
    assert len({label for labels in drawn for label in labels}) > 2


def test_the_manner_of_writing_can_be_changed(bench: MakeBench) -> None:
    changed = bench().work.writing(temperature=0.5, max_new_tokens=3)  # type: ignore[attr-defined]
    assert (changed.settings.temperature, changed.settings.max_new_tokens, changed.settings.samples) == (0.5, 3, 2)
