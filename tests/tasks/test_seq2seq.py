"""Summarization, translation, text-to-text: what is learnt of which rows, the loss of plain transformers, what is written and saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches import bench_of, gradient, largest_difference
from tiny_seq2seq import FAMILIES, make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs, write_parallel

from luthier import flow
from luthier.cli.main import main
from luthier.core import files
from luthier.core.errors import DataError, UserError
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench
from luthier.stages.results.measure import outputs_of
from luthier.tasks import tasks
from luthier.training.inference import measuring

TASKS = ("summarization", "translation", "text-to-text")
MakeBench = Callable[..., Bench]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_seq2seq(tmp_path_factory.mktemp("models") / "tiny-t5")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("rows") / "pairs.jsonl", tiny_pairs(120))


@pytest.fixture
def bench(model: Path, rows: Path, tmp_path: Path) -> MakeBench:
    def make(changes: dict[str, Any] | None = None, *, file: Path = rows, base: Path = model) -> Bench:
        return bench_of(pairs_recipe(base, file, tmp_path / "run", changes))

    return make


@pytest.fixture(scope="module")
def run(model: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 150 steps with a prefix."""
    changes = {"task.prefix": "translate ", "training.max_steps": 150, "training.batch_size": 16, "task.written_rows": 20}
    return flow.train(pairs_recipe(model, rows, tmp_path_factory.mktemp("runs") / "run", changes)).path


def test_the_target_and_its_end_are_learnt_and_the_prefix_is_read(bench: MakeBench) -> None:
    laid = bench({"task.prefix": "translate "})
    split, tokenizer = laid.prepared.splits["train"], laid.work.tokenizer
    for index in range(20):
        row = split.row(index)
        source, target = row.windows[0][: int(row.target)], row.windows[0][int(row.target) :]
        assert tokenizer.decode(source) == f"translate {split.texts([index])[0]} </s>"
        assert tokenizer.decode(target) == json.loads(row.record)["targets"][0] + " </s>"
        batch = laid.work.collate([row])
        assert batch.targets["tokens"].tolist() == target.tolist() == batch.inputs["labels"][0].tolist()
        assert laid.work.weights(batch) == {"loss": float(len(target))} and batch.num_tokens == len(source) + len(target)
    padded = laid.work.collate([split.row(index) for index in range(20)])
    labels = padded.inputs["labels"]
    assert (labels == -100).any() and labels[labels != -100].tolist() == padded.targets["tokens"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_plain_transformers(family: str, bench: MakeBench, tmp_path: Path) -> None:
    laid = bench(base=make_tiny_seq2seq(tmp_path / family, family=family))
    split, module = laid.prepared.splits["test"], laid.parts["model"].module
    found = outputs_of(laid.work, laid.parts, split, max_tokens=200, device="cpu")
    if family != "t5":
        with torch.no_grad():
            module.model.final_logits_bias.normal_()
        found = outputs_of(laid.work, laid.parts, split, max_tokens=200, device="cpu")
    with measuring(laid.parts):
        for index in range(len(split)):
            row = split.row(index)
            source, target = (torch.tensor(part.astype(np.int64))[None] for part in np.split(row.windows[0], [int(row.target)]))
            own = module.model(input_ids=source, labels=target).loss
            assert float(found.nats_B[index] / found.tokens_B[index]) == pytest.approx(float(own), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_plain_transformers_and_of_any_micro_batches(family: str, bench: MakeBench, tmp_path: Path) -> None:
    laid = bench(base=make_tiny_seq2seq(tmp_path / family, family=family))
    whole = gradient(laid, [range(9)])
    pieces = gradient(laid, [range(2), range(2, 7), range(7, 9)])
    assert largest_difference(pieces, whole) <= 1e-6
    module, batch = laid.parts["model"].module, laid.work.collate([laid.prepared.splits["train"].row(index) for index in range(9)])
    module.zero_grad()
    module.model(**batch.inputs).loss.backward()
    plain = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert plain.keys() == whole.keys()
    assert max(float((whole[name] - plain[name]).abs().max()) for name in whole) <= 1e-5


def test_smoothing_is_that_of_torch(bench: MakeBench) -> None:
    laid = bench({"loss": {"type": "cross-entropy", "label_smoothing": 0.2}})
    batch = laid.work.collate([laid.prepared.splits["train"].row(index) for index in range(6)])
    module = laid.parts["model"].module.eval()
    logits = module.model(**batch.inputs).logits
    own = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.inputs["labels"].flatten(), label_smoothing=0.2, reduction="sum")
    assert float(laid.work.losses(laid.parts, batch)["loss"].sum.detach()) == pytest.approx(float(own), rel=1e-5)


def test_what_is_too_long_is_cut_counted_and_said_and_its_reference_is_whole(bench: MakeBench, tmp_path: Path) -> None:
    pairs = [("red " * 20 + f"{word} ", "rot " * 20 + word) for word in ("one", "two", "three", "four", "five", "blue")]
    laid = bench({"data.max_length": 8, "task.max_target_length": 5}, file=write_pairs(tmp_path / "long.jsonl", pairs))
    row, notes = laid.prepared.splits["train"].row(0), laid.prepared.facts["notes"]
    assert int(row.target) == 8 and len(row.windows[0]) == 13 and row.windows[0][7] == row.windows[0][12] == 1
    assert len(json.loads(row.record)["targets"][0].split()) == 21
    said = [note for note in notes if "were cut" in note]
    assert any("sources are longer than 8 tokens" in note and "data.max_length" in note for note in said)
    assert any("targets are longer than 5 tokens" in note and "task.max_target_length" in note for note in said)
    assert laid.prepared.facts["tokens"]["truncated"]["train"] == len(laid.prepared.splits["train"])


def test_a_run_learns_writes_and_says_so(run: Path) -> None:
    losses = [line["loss"] for line in files.read_json_lines(run / "events.jsonl") if "loss" in line]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    metrics, facts = files.read_json(run / "metrics.json"), files.read_json(run / "evaluation.json")["test"]
    scores = metrics["scores"]["test"]
    assert set(scores) == set(tasks.get("text-to-text").own_scores)
    assert scores["perplexity"]["value"] == pytest.approx(np.exp(scores["loss"]["value"]))
    assert scores["rougeL"]["low"] <= scores["rougeL"]["value"] <= scores["rougeL"]["high"]
    assert scores["rougeL"]["value"] > facts["baseline"]["scores"]["rougeL"]["value"]
    assert facts["written"]["num_rows"] == 20 and facts["num_rows"] == 30 and facts["comparison"]["verdict"] == "better"
    assert all({"text", "expected", "written", "untuned"} <= set(sample) for sample in facts["samples"]) and len(facts["samples"]) == 2
    page, card = (run / "report.html").read_text(encoding="utf-8"), (run / "card.md").read_text(encoding="utf-8")
    assert "wrote for 20 of the 30 rows" in page and "ROUGE-L" in page and "AutoModelForSeq2SeqLM" in card and "translate " in card


def test_a_run_predicts_what_its_reference_says(run: Path) -> None:
    lines, predictor = files.read_json_lines(run / "reference.jsonl"), Predictor.open(run)
    answers = [answer.label for answer in predictor.answer([line["text"] for line in lines])]
    assert len(set(answers)) > 5
    assert all(answer.startswith(line["label"]) for answer, line in zip(answers, lines, strict=True)), "in a batch as alone"


def test_the_saved_model_writes_the_same_in_plain_transformers(run: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    plain, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    texts = [line["text"] for line in files.read_json_lines(run / "reference.jsonl")][:10]
    ours = [answer.label for answer in Predictor.open(run).answer(texts)]
    theirs = [plain.generate(tokenizer("translate " + text, return_tensors="pt").input_ids) for text in texts]
    assert [tokenizer.decode(ids[0], skip_special_tokens=True) for ids in theirs] == ours


def test_evaluate_finds_the_same_scores(run: Path, rows: Path) -> None:
    stored = files.read_json(run / "metrics.json")["scores"]["test"]
    found = flow.evaluate(run)["scores"]["test"]
    assert {name: score["value"] for name, score in found.items()} == pytest.approx({n: s["value"] for n, s in stored.items()}, abs=1e-6)
    assert set(flow.evaluate(run, data=str(rows))["scores"]["test"]) == set(stored)


def test_beams_find_what_is_at_least_as_likely_and_drawing_differs(run: Path) -> None:
    predictor, texts = Predictor.open(run), [line["text"] for line in files.read_json_lines(run / "reference.jsonl")]
    greedy = [answer.label for answer in predictor.answer(texts)]
    beams = [answer.label for answer in predictor.writing(num_beams=4).answer(texts)]
    assert len(beams) == len(greedy)
    drawn = [answer.label for answer in predictor.writing(temperature=5.0).answer(texts)]
    assert drawn != greedy
    short = predictor.writing(max_new_tokens=2)
    assert all(len(answer.label.split()) <= 2 for answer in short.answer(texts))
    once = predictor.writing(no_repeat_ngram_size=1)
    assert all(len(words) == len(set(words)) for words in (answer.label.split() for answer in once.answer(texts)))


def test_the_command_line_reads_the_column_of_training(run: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    assert main(["predict", str(run), "--data", str(rows), "--out", str(out), "--num-beams", "2"]) == 0
    answers = files.read_json_lines(out)
    assert [answer["text"] for answer in answers] == [source for source, _ in tiny_pairs(120)]
    assert len({answer["label"] for answer in answers}) > 20


def test_an_adapter_is_trained_saved_and_merged(model: Path, rows: Path, tmp_path: Path) -> None:
    changes = {"adapter": {"type": "lora", "r": 4}, "training.max_steps": 6}
    trained = flow.train(pairs_recipe(model, rows, tmp_path / "run", changes))
    lines = files.read_json_lines(trained.reference)
    answers = [answer.label for answer in Predictor.open(trained.path).answer([line["text"] for line in lines])]
    assert all(answer.startswith(line["label"]) for answer, line in zip(answers, lines, strict=True))
    assert "AutoPeftModelForSeq2SeqLM" in trained.card.read_text(encoding="utf-8")
    assert main(["merge", str(trained.path), "--output", str(tmp_path / "merged")]) == 0
    merged = [answer.label for answer in Predictor.open(tmp_path / "merged").answer([line["text"] for line in lines])]
    assert merged == answers


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_scored_by_its_own_scores(task: str, model: Path, rows: Path, tmp_path: Path) -> None:
    trained = flow.train(pairs_recipe(model, rows, tmp_path / "run", {"task.type": task, "training.max_steps": 3}))
    scores = files.read_json(trained.metrics)["scores"]["test"]
    assert set(scores) == set(tasks.get(task).own_scores) and all(score["value"] is not None for score in scores.values())
    assert json.loads((trained.model / "luthier.json").read_text(encoding="utf-8"))["task"] == task


def test_two_files_are_read_line_by_line(model: Path, tmp_path: Path) -> None:
    pairs = tiny_pairs(90)
    for stem, part in (("train", pairs[:60]), ("val", pairs[60:75]), ("test_2016", pairs[75:])):
        write_parallel(tmp_path, stem, part)
    named = {"task": {"type": "translation", "target_file": str(tmp_path / "train.de")}, "data.split": {}}
    files_named = {"data.validation": str(tmp_path / "val.en"), "data.test": str(tmp_path / "test_2016.en")}
    folder = {"task": {"type": "translation", "source_language": "en", "target_language": "de"}, "data.split": {}}
    for changes, train in (({**named, **files_named}, tmp_path / "train.en"), (folder, tmp_path)):
        laid = bench_of(pairs_recipe(model, train, tmp_path / "run", changes))
        splits = laid.prepared.splits
        assert {name: len(split) for name, split in splits.items()} == {"train": 60, "validation": 15, "test": 15}
        found = [(splits["test"].texts([index])[0], json.loads(splits["test"].row(index).record)["targets"]) for index in range(15)]
        assert found == [(source, [target]) for source, target in pairs[75:]]
        assert (laid.work.settings.source_language, laid.work.settings.target_language) == ("en", "de")
        section = resolve(pairs_recipe(model, train, tmp_path / "run", changes)).data.model_copy(
            update={"train": None, "validation": None, "test": str(tmp_path / "val.en")}
        )
        assert len(laid.work.read_rows(section)["test"]) == 15


def test_nested_translations_and_columns_of_languages_are_found(model: Path, tmp_path: Path) -> None:
    pairs = tiny_pairs(20)
    nested = tmp_path / "nested.jsonl"
    nested.write_text("".join(json.dumps({"translation": {"en": one, "de": other}}) + "\n" for one, other in pairs), encoding="utf-8")
    backwards = {"task": {"type": "translation", "source_language": "de", "target_language": "en"}}
    for file in (nested, write_pairs(tmp_path / "columns.jsonl", pairs, names=("en", "de"))):
        laid = bench_of(pairs_recipe(model, file, tmp_path / "run", {**backwards, "data.split": {"test": 0.2}}))
        assert json.loads(laid.prepared.splits["train"].row(0).record)["targets"][0] in dict(pairs)
    laid = bench_of(pairs_recipe(model, nested, tmp_path / "run", {"task": "translation"}))
    assert any("from en to de (guessed" in note for note in laid.prepared.facts["notes"])


def test_sentences_are_joined_and_several_targets_are_all_right(bench: MakeBench, tmp_path: Path) -> None:
    lines = [
        {"source": ["red one", f"blue {word}"], "target": [word, f"{word} {word}"]} for word in ("one", "two", "three", "four", "five")
    ]
    file = tmp_path / "lists.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    laid = bench({"task.type": "summarization"}, file=file)
    row = laid.prepared.splits["train"].row(0)
    text, record = laid.prepared.splits["train"].texts([0])[0], json.loads(row.record)
    assert text.startswith("red one blue ") and len(record["targets"]) == 2
    found = laid.work.scored([row], [record["targets"][1]]).scores(resamples=0)
    assert found["rouge1"].value == found["rougeL"].value == 1.0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"source": "red", "target": ""}] * 4, "empty target"),
        ([{"source": " ", "target": "rot"}] * 4, "empty source"),
        ([{"source": "red", "target": 7}] * 4, "target of a wrong type"),
        ([{"words": "red", "other": "rot"}] * 4, "data.text"),
        ([{"source": "red", "other": "rot"}] * 4, "data.label"),
        ([{"translation": {"en": "red", "de": "rot", "fr": "rouge"}}] * 4, "source_language"),
    ],
    ids=["empty target", "empty source", "number", "no source", "no target", "three languages"],
)
def test_wrong_rows_are_a_data_error(lines: list[dict[str, Any]], said: str, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        flow.prepare(resolve(pairs_recipe(model, file, tmp_path / "run", {"task": "translation", "data.split": {"test": 0}})))
    assert said in str(caught.value) and caught.value.fix and caught.value.exit_code == 2


def test_files_of_different_length_say_both_lengths(model: Path, tmp_path: Path) -> None:
    pairs = tiny_pairs(30)
    source = write_parallel(tmp_path, "train", pairs)
    (tmp_path / "train.de").write_text("".join(f"{target}\n" for _, target in pairs[:-1]), encoding="utf-8")
    task = {"type": "translation", "source_language": "en", "target_language": "de"}
    with pytest.raises(DataError, match="has 30 lines and .* has 29"):
        flow.prepare(resolve(pairs_recipe(model, source, tmp_path / "run", {"task": task})))
    (tmp_path / "train.de").unlink()
    with pytest.raises(DataError, match="no such file"):
        flow.prepare(resolve(pairs_recipe(model, source, tmp_path / "run", {"task": task})))


def test_an_empty_line_is_a_bad_row(model: Path, tmp_path: Path) -> None:
    pairs = tiny_pairs(40)
    pairs[6] = ("red blue", "")
    task = {"type": "translation", "source_language": "en", "target_language": "de"}
    laid = bench_of(pairs_recipe(model, write_parallel(tmp_path, "train", pairs), tmp_path / "run", {"task": task}))
    bad = files.read_json_lines(laid.prepared.quarantine)
    assert [(one["row"], one["reason"]) for one in bad] == [(7, "empty target")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.text_pair": "target"}, "one source for each target"),
        ({"data.long_texts": "windows"}, "no windows"),
        ({"loss": "focal"}, "takes cross-entropy"),
        ({"evaluate.metrics": ["bleu"]}, "unknown score 'bleu'"),
        ({"evaluate.metrics": ["rougeL"], "task.written_rows": 0}, "task.written_rows=0"),
        ({"training.best_metric": "rougeL", "data.split": {"validation": 0.2}}, "after the training"),
        ({"adapter": "prefix-tuning"}, "keys and values"),
        ({"task.beams": 3}, "num_beams"),
        ({"task": {"type": "translation", "source_language": "en"}}, "target_language"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], said: str, bench: MakeBench) -> None:
    with pytest.raises(UserError) as caught:
        bench(changes)
    assert said in str(caught.value)


def test_a_model_that_only_reads_is_refused(tiny_model: Path, bench: MakeBench) -> None:
    with pytest.raises(UserError, match="no encoder-decoder"):
        bench(base=tiny_model)


def test_a_run_is_resumed_bit_by_bit(model: Path, rows: Path, tmp_path: Path) -> None:
    settings = {"training.max_steps": 12, "training.save_every": "3steps"}
    whole = flow.train(pairs_recipe(model, rows, tmp_path / "whole", settings))
    training = flow.Training.begin(pairs_recipe(model, rows, tmp_path / "run", settings))
    ticks = iter(training)
    while next(ticks).step < 7:
        pass
    ticks.close()  # type: ignore[attr-defined]
    again = flow.resume(training.run.path)
    weights = [files.sha256_file(one.model / "model.safetensors") for one in (whole, again)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("architecture", ["t5", "bart", "marian"])
def test_a_model_is_built_from_nothing(architecture: str, model: Path, rows: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"d_model": 32}
    if architecture == "t5":
        sizes |= {"num_layers": 2, "d_kv": 8, "d_ff": 64, "num_heads": 4}
    else:
        sizes |= {
            f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 64))
        }
    changes = {"model": {"scratch": {"architecture": architecture, **sizes}, "tokenizer": str(model)}, "training.max_steps": 60}
    trained = flow.train(pairs_recipe(model, rows, tmp_path / "run", {**changes, "training.batch_size": 16}))
    losses = [line["loss"] for line in files.read_json_lines(trained.events) if "loss" in line]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    config = files.read_json(trained.model / "config.json")
    assert config["vocab_size"] == len(Predictor.open(trained.path).work.tokenizer)  # type: ignore[attr-defined]
    assert config.get("decoder_start_token_id") == (1 if architecture == "bart" else 0)
    assert "rougeL" not in files.read_json(trained.evaluation)["test"]["baseline"]["scores"]


def test_an_architecture_that_is_no_encoder_decoder_is_refused(bench: MakeBench, model: Path) -> None:
    with pytest.raises(UserError, match="no encoder-decoder architecture 'gpt2'"):
        bench({"model": {"scratch": {"architecture": "gpt2"}, "tokenizer": str(model)}})
