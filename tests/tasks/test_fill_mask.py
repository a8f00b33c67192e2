"""Fill-mask: what is learnt of which texts, the loss of plain transformers, what plain transformers can do with the saved model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from benches import bench_of
from row_tasks import fill_mask as rows_of_words
from tiny_decoder import make_tiny_decoder

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError, UserError
from luthier.models.grown_embedding import GrownEmbedding
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench
from luthier.stages.results.measure import outputs_of
from luthier.training.inference import measuring

MakeBench = Callable[..., Bench]
CHINESE = ["我的银行卡被盗了", "你是要我的银行卡", "他的银行卡不见了吗", "这个卡有你的名字", "我们时时到银行要卡", "以后就会可以了吧"]


@pytest.fixture
def bench(tiny_model: Path, tmp_path: Path) -> MakeBench:
    def make(changes: dict[str, Any] | None = None, *, rows: Path | None = None, model: Path = tiny_model) -> Bench:
        rows = rows_of_words.write(tmp_path) if rows is None else rows
        return bench_of(tiny.tiny_recipe(model, rows, tmp_path / "run", {"task": "fill-mask", **(changes or {})}))

    return make


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def test_training_rows_vary_and_held_out_rows_do_not(bench: MakeBench) -> None:
    laid = bench()
    row = laid.prepared.splits["train"].row(0)
    one, again, other = (laid.work.item(row, np.random.default_rng((0, epoch, row.id))) for epoch in (1, 1, 2))
    assert (one.windows[0] == again.windows[0]).all() and one.target.places_M.tolist() != other.target.places_M.tolist()
    held_out = [laid.prepared.splits["test"].row(index) for index in range(5)]
    first, second = laid.work.collate(held_out), laid.work.collate(held_out[::-1])
    assert first.inputs["input_ids"].equal(second.inputs["input_ids"].flip(0)), "a mask does not depend on the others"
    assert sorted(first.targets["tokens"].tolist()) == sorted(second.targets["tokens"].tolist())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_plain_transformers(smoothing: float, bench: MakeBench) -> None:
    laid = bench({"loss": {"type": "cross-entropy", "label_smoothing": smoothing}})
    split, model = laid.prepared.splits["test"], laid.parts["model"].module.model
    batch = laid.work.collate([split.row(index) for index in range(8)])
    with measuring(laid.parts):
        found = laid.work.losses(laid.parts, batch)["loss"]
        logits_BTV = model(**batch.inputs).logits
    at, tokens = batch.targets["at"], batch.targets["tokens"]
    wanted = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1)[at], tokens, label_smoothing=smoothing, reduction="sum")
    assert float(found.sum) == pytest.approx(float(wanted), rel=1e-5) and float(found.weight) == len(tokens)


def test_scores_are_those_of_all_masked_tokens(bench: MakeBench) -> None:
    laid = bench()
    split, model = laid.prepared.splits["test"], laid.parts["model"].module.model
    scores = laid.work.answered(outputs_of(laid.work, laid.parts, split, max_tokens=200, device="cpu")).scores(resamples=0)
    nats, right = [], []
    with measuring(laid.parts):
        for index in range(len(split)):
            batch = laid.work.collate([split.row(index)])
            logs = model(**batch.inputs).logits.log_softmax(-1).flatten(0, 1)[batch.targets["at"]]
            nats += (-logs.gather(1, batch.targets["tokens"][:, None])[:, 0]).tolist()
            right += (logs.argmax(1) == batch.targets["tokens"]).tolist()
    assert scores["loss"].value == pytest.approx(np.mean(nats), abs=1e-4)
    assert scores["perplexity"].value == pytest.approx(np.exp(np.mean(nats)), rel=1e-3)
    assert scores["token_accuracy"].value == pytest.approx(np.mean(right))


def test_a_text_file_comes_in_blocks_and_loses_nothing(bench: MakeBench, tmp_path: Path) -> None:
    words = [word for number in range(60) for word in rows_of_words.WORDS[number % 5 :][:7]]
    file = tmp_path / "long.txt"
    file.write_text("\n".join(" ".join(words[start : start + 10]) for start in range(0, len(words), 10)), encoding="utf-8")
    laid = bench({"data.max_length": 16, "data.split": {"test": 0.2}}, rows=file)
    tokenizer = laid.work.tokenizer
    every = [split.row(index) for split in laid.prepared.splits.values() for index in range(len(split))]
    assert len({row.id for row in every}) == len(every)
    train = len(laid.prepared.splits["train"])
    assert {len(row.windows[0]) for place, row in enumerate(every) if place not in (train - 1, len(every) - 1)} == {16}
    assert all(tokenizer.convert_ids_to_tokens(row.windows[0].tolist())[:: len(row.windows[0]) - 1] == ["[CLS]", "[SEP]"] for row in every)
    assert " ".join(tokenizer.decode(row.windows[0].tolist(), skip_special_tokens=True) for row in every).split() == words
    assert laid.prepared.facts["splits"]["train"]["rows"] == len(laid.prepared.splits["train"])


def test_a_long_text_goes_on_in_further_rows(bench: MakeBench, tmp_path: Path) -> None:
    texts = [" ".join(rows_of_words.WORDS[place:] + rows_of_words.WORDS[:place]) for place in range(10)]
    file = write_lines(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    laid = bench({"data.max_length": 12, "data.split": {"test": 0.2}}, rows=file)
    split = laid.prepared.splits["train"]
    assert len(split) == 8 * -(-len(texts[0].split()) // 10)
    assert any("8 texts are longer than 12 tokens" in note for note in laid.prepared.facts["notes"])
    assert sorted(" ".join(split.texts(range(len(split)))).split()) == sorted(" ".join(texts[:8]).split())


def test_rows_can_be_laid_end_to_end(bench: MakeBench) -> None:
    laid = bench({"task": {"type": "fill-mask", "blocks": True}, "data.max_length": 20})
    split = laid.prepared.splits["train"]
    lengths = [len(split.row(index).windows[0]) for index in range(len(split))]
    assert set(lengths[:-1]) == {20}
    inside = [token for index in range(len(split)) for token in laid.work.collate([split.row(index)]).targets["tokens"].tolist()]
    assert laid.work.tokenizer.sep_token_id not in inside, "what stands between texts is never hidden"


def test_whole_words_are_hidden_together(bench: MakeBench, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "rows.jsonl", [{"text": f"my zebra was {word} unknownword today"} for word in rows_of_words.WORDS])
    laid = bench({"task": {"type": "fill-mask", "whole_words": True, "mlm_probability": 0.4}}, rows=file)
    split, tokenizer = laid.prepared.splits["train"], laid.work.tokenizer
    for index in range(10):
        row = split.row(index)
        tokens = tokenizer.convert_ids_to_tokens(row.windows[0].tolist())
        hidden = set(laid.work.item(row, np.random.default_rng(index)).target.places_M.tolist())
        for place in range(1, len(tokens)):
            if tokens[place].startswith("##"):
                assert (place in hidden) == (place - 1 in hidden), tokens


def test_words_of_a_column_are_hidden_together(bench: MakeBench, tmp_path: Path) -> None:
    lines = [{"text": "我的不了" + "在有" * number, "words": "我的 不了 " + "在有 " * number} for number in range(2, 14)]
    task = {"type": "fill-mask", "whole_words": True, "words": "words", "mlm_probability": 0.3}
    laid = bench({"task": task}, rows=write_lines(tmp_path / "rows.jsonl", lines))
    split = laid.prepared.splits["train"]
    for index in range(len(split)):
        places = laid.work.item(split.row(index), np.random.default_rng(index)).target.places_M
        assert all(place + (1 if place % 2 else -1) in places for place in places), "words of two characters from place 1 on"


def test_characters_that_are_not_known_are_learnt_and_saved(bench: MakeBench, tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "rows.jsonl", [{"text": f"{text}{number}"} for number, text in enumerate(CHINESE * 3)])
    laid = bench(rows=rows)
    reader = laid.parts["model"].module
    words = reader.model.get_input_embeddings()
    assert isinstance(words, GrownEmbedding) and "银" in laid.work.tokenizer.get_vocab()
    batch = laid.work.collate([laid.prepared.splits["train"].row(index) for index in range(8)])
    term = laid.work.losses(laid.parts, batch)["loss"]
    term.sum.backward()
    assert float(words.new.grad.abs().sum()) > 0
    with torch.no_grad():
        words.new.add_(torch.randn_like(words.new))
    split = laid.prepared.splits["test"]
    before = outputs_of(laid.work, laid.parts, split, max_tokens=200, device="cpu")
    files.make_folder(tmp_path / "saved", lambda folder: laid.work.save(laid.parts, folder))
    work, parts = type(laid.recipe.task)().restore(tmp_path / "saved")
    after = outputs_of(work, parts, split, max_tokens=200, device="cpu")
    assert not isinstance(parts["model"].module.model.get_input_embeddings(), GrownEmbedding)
    assert all(np.abs(one.logs_SK - other.logs_SK).max() < 1e-5 for one, other in zip(before.said, after.said, strict=True))


def test_plain_transformers_fills_masks_as_predict_does(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    run = flow.train(tiny.tiny_recipe(tiny_model, rows_of_words.write(tmp_path), tmp_path / "run", {"task": "fill-mask"}))
    text = "parcel courier [MASK] shipping arrived"
    fill = pipeline("fill-mask", model=str(run.model))
    assert fill.model.get_output_embeddings().weight is fill.model.get_input_embeddings().weight, "the head is tied"
    theirs = fill(text, top_k=5)
    ours = next(iter(Predictor.open(run.path).answer([text]))).label
    assert len(ours) == 1
    assert [one["word"] for one in ours[0]] == [one["token_str"] for one in theirs]
    assert [one["probability"] for one in ours[0]] == pytest.approx([one["score"] for one in theirs], abs=1e-4)
    both = next(iter(Predictor.open(run.path).answer(["[MASK] courier late [MASK]"]))).label
    assert len(both) == 2 and all(len(found) == 5 for found in both)


def test_a_classifier_starts_from_the_saved_model(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = flow.train(tiny.tiny_recipe(tiny_model, rows_of_words.write(tmp_path), tmp_path / "run", {"task": "fill-mask"}))
    laid = bench_of(tiny.tiny_recipe(run.model, tiny_csv, tmp_path / "classes"))
    saved, started = load_file(run.model / "model.safetensors"), laid.parts["model"].module.state_dict()
    body = {name: tensor for name, tensor in saved.items() if name.startswith("bert.")}
    assert len(body) > 30 and all(torch.equal(started[name], tensor) for name, tensor in body.items())
    assert not any(name.startswith("bert.") and "pooler" not in name for name in laid.new)


@pytest.mark.parametrize("family", ["distilbert", "roberta", "electra", "albert"])
def test_other_families_have_the_loss_of_plain_transformers(family: str, bench: MakeBench, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    tokenizer = tiny._tokenizer(tiny.tiny_vocabulary())
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / family)
    tokenizer.save_pretrained(tmp_path / family)
    laid = bench(model=tmp_path / family)
    assert not laid.new, "the head came with the model"
    batch = laid.work.collate([laid.prepared.splits["test"].row(index) for index in range(4)])
    with measuring(laid.parts):
        found = laid.work.losses(laid.parts, batch)["loss"]
        logits = laid.parts["model"].module.model(**batch.inputs).logits.flatten(0, 1)[batch.targets["at"]]
    wanted = torch.nn.functional.cross_entropy(logits, batch.targets["tokens"], reduction="sum")
    assert float(found.sum) == pytest.approx(float(wanted), rel=1e-5)


def test_nothing_to_hide_is_said(bench: MakeBench, tmp_path: Path, tiny_model: Path) -> None:
    texts = [{"text": f"the {word} was late"} for word in rows_of_words.WORDS]
    file = write_lines(tmp_path / "rows.jsonl", [*texts, {"text": "[UNK]"}])
    recipe = tiny.tiny_recipe(tiny_model, file, tmp_path / "run", {"task": "fill-mask", "data.split": {"test": 0}})
    with pytest.raises(DataError, match=r"nothing would be learnt of 1 of 31 rows(.|\n)*max_unlearnt_rows=0\.033") as caught:
        flow.prepare(resolve(recipe))
    assert "row 31: no token but special and unknown ones" in str(caught.value)
    prepared = flow.prepare(resolve(recipe, {"data.max_unlearnt_rows": 0.05}))
    line = files.read_json_lines(prepared.quarantine)[-1]
    assert line["row"] == 31 and line["split"] == "train" and line["file"] == str(file) and line["reason"].startswith("nothing to learn (")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": {"type": "fill-mask", "mask_replace_prob": 0.95}}, "wanted at most 1"),
        ({"task": {"type": "fill-mask", "words": "words"}}, "whole_words=true"),
        ({"data.text_pair": "label"}, "one text a row"),
        ({"data.augment": ["word-dropout"]}, "vary from epoch to epoch"),
        ({"data.long_texts": "windows"}, "go on in rows of their own"),
        ({"loss": "focal"}, "cross-entropy"),
        ({"distill": {"logits": "answers.jsonl"}}, "answers each row in its own way"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, bench: MakeBench) -> None:
    with pytest.raises(ConfigError, match=said):
        bench(changes)


def test_a_decoder_is_refused(tmp_path: Path, bench: MakeBench) -> None:
    with pytest.raises(UserError, match="does not fill masked words in"):
        bench(model=make_tiny_decoder(tmp_path / "decoder"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "我的卡", "words": "我 的"}, "the words are not those of the text"),
        ({"text": "我的卡", "words": 7}, "words of a wrong type"),
    ],
)
def test_wrong_words_name_the_row(line: dict[str, Any], said: str, bench: MakeBench, tmp_path: Path) -> None:
    good = [{"text": text, "words": " ".join(text)} for text in CHINESE]
    file = write_lines(tmp_path / "rows.jsonl", [*good, line])
    with pytest.raises(DataError, match=said) as caught:
        bench({"task": {"type": "fill-mask", "whole_words": True, "words": "words"}}, rows=file)
    assert "row 7" in str(caught.value)


def test_texts_without_a_mask_are_refused(bench: MakeBench) -> None:
    work = bench().work
    with pytest.raises(DataError, match=r"text 2 has no \[MASK\]") as caught:
        work.encode(["my [MASK] was late", "my card was late"])
    assert "write [MASK] in the place of a word" in str(caught.value)
    with pytest.raises(DataError, match="among its first tokens"):
        work.encode(["the " * 100 + "[MASK]"])
    with pytest.raises(DataError, match="one text a row"):
        work.encode(["a [MASK]"], ["b"])


def test_an_adapter_is_merged_into_a_model_that_plain_transformers_loads(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    changes = {"task": "fill-mask", "adapter": {"type": "lora", "r": 4}, "training.max_steps": 6}
    run = flow.train(tiny.tiny_recipe(tiny_model, rows_of_words.write(tmp_path), tmp_path / "run", changes))
    merged = flow.merge(run.path)
    assert merged["inputs"] > 5 and merged["largest_difference"] <= merged["allowed"]
    text = "parcel courier [MASK] shipping arrived"
    theirs = pipeline("fill-mask", model=merged["model"])(text)[0]
    ours = next(iter(Predictor.open(run.path).answer([text]))).label[0][0]
    assert ours["word"] == theirs["token_str"] and ours["probability"] == pytest.approx(theirs["score"], abs=1e-3)
    assert "luthier merge" in run.card.read_text(encoding="utf-8")


@pytest.mark.real
@pytest.mark.slow
def test_real_texts_are_learnt_without_their_labels(tmp_path: Path) -> None:
    folder = os.environ.get("LUTHIER_DATA")
    if not folder:
        pytest.skip("LUTHIER_DATA names no folder with real data")
    recipe = {
        "task": "fill-mask",
        "data": {"train": f"{folder}/banking77/train.csv", "text": "text", "split": {"test": 0.05}},
        "training": {"max_steps": 40, "precision": "fp32"},
        "evaluate": {"resamples": 100},
        "track": {"trackers": []},
        "output": str(tmp_path / "run"),
    }
    run = flow.train(recipe)
    found = files.read_json(run.evaluation)["test"]["comparison"]
    assert found["metric"] == "loss" and found["verdict"] == "better" and found["tuned"] < found["base"] - 2
