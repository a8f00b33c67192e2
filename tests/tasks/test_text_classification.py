"""Text classification from rows to answers: heads, losses, long texts, pairs, start of the head."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from benches import bench_of, prepared_of, reference_of, same_after_loading
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, UserError
from luthier.flow import Training
from luthier.models.pretrained import open_tokenizer
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.start_head import start_head
from luthier.stages.results.measure import outputs_of
from luthier.tasks.text.class_weights import class_weights

MakeRecipe = Callable[..., dict[str, Any]]
QUICK = {"training.max_steps": 3, "evaluate.baseline": False, "model.head.start": "zero"}


# ---- heads


HEADS: dict[str, dict[str, Any]] = {
    "auto": {"pooling": "auto"},
    "cls": {"pooling": "cls"},
    "mean": {"pooling": "mean"},
    "max": {"pooling": "max"},
    "attention": {"pooling": "attention"},
    "hidden": {"pooling": "mean", "hidden": [16, 8]},
    "dropout": {"pooling": "attention", "hidden": [16], "dropout": 0.3},
}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_saved_and_loaded(head: str, recipe: MakeRecipe) -> None:
    run = flow.train(recipe("run", {**QUICK, "model.head": {**HEADS[head], "start": "zero"}})).path
    same_after_loading(run)
    names = {file.name for file in (run / "model").iterdir()}
    assert "model.safetensors" in names and ("luthier_head.safetensors" in names) is (head != "auto")
    if head == "hidden":
        shapes = {name: tuple(tensor.shape) for name, tensor in load_file(run / "model" / "luthier_head.safetensors").items()}
        assert [shape for name, shape in sorted(shapes.items()) if name.endswith("weight")] == [(16, 32), (8, 16), (3, 8)]


def test_dropout_of_the_head(recipe: MakeRecipe) -> None:
    own = bench_of(recipe("run", {"model.head": {"pooling": "mean", "hidden": [4], "dropout": 0.4}})).parts["model"].module
    assert [layer.p for layer in own.head if isinstance(layer, torch.nn.Dropout)] == [0.4, 0.4]
    family = bench_of(recipe("run", {"model.head": {"dropout": 0.4}})).parts["model"].module
    assert family.dropout.p == 0.4 and family.bert.embeddings.dropout.p == 0.1


def test_poolings_by_hand() -> None:
    from luthier.models.pooled import AttentionPool, pool_cls, pool_max, pool_mean

    states_BTH = torch.tensor([[[9.0, 9.0], [1.0, -2.0], [3.0, -4.0]], [[1.0, 5.0], [2.0, 6.0], [100.0, 100.0]]])
    mask_BT = torch.tensor([[0, 1, 1], [1, 1, 0]])
    assert pool_cls(states_BTH, mask_BT).tolist() == [[1.0, -2.0], [1.0, 5.0]]
    assert pool_mean(states_BTH, mask_BT).tolist() == [[2.0, -3.0], [1.5, 5.5]]
    assert pool_max(states_BTH, mask_BT).tolist() == [[3.0, -2.0], [2.0, 6.0]]
    pool = AttentionPool(2)
    with torch.no_grad():
        pool.score.weight.zero_()
        assert torch.allclose(pool(states_BTH, mask_BT), pool_mean(states_BTH, mask_BT))
        pool.score.weight.copy_(torch.tensor([[50.0, 0.0]]))
        assert torch.allclose(pool(states_BTH, mask_BT), torch.tensor([[3.0, -4.0], [2.0, 6.0]]))


def test_padding_changes_no_answer(tiny_run: Path) -> None:
    predictor = Predictor.open(tiny_run)
    short = "my parcel is late"
    alone = predictor.outputs([short]).logits_BC[0]
    beside = predictor.outputs([short, "please " * 50]).logits_BC[0]
    assert np.abs(alone - beside).max() < 1e-5


# ---- start of the head


def test_the_head_starts_as_a_probe_of_the_pretrained_features(recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run"))
    layer = bench.parts["model"].module.classifier
    assert layer.weight.abs().max() == 0, "before the probe every class starts equal"
    body = {name: p.clone() for name, p in bench.parts["model"].module.named_parameters() if not name.startswith("classifier")}
    assert start_head(bench) > 0
    assert all(torch.equal(p, body[name]) for name, p in bench.parts["model"].module.named_parameters() if name in body)
    split = bench.prepared.splits["train"]
    outputs = outputs_of(bench.work, bench.parts, split, max_tokens=4096, device="cpu")
    value = bench.work.loss(torch.from_numpy(outputs.logits_BC), torch.from_numpy(outputs.targets))
    assert float(value.sum / value.weight) < np.log(3) - 1e-5, "better than equal chances"
    assert (outputs.logits_BC.argmax(1) == outputs.targets).mean() > np.bincount(split.targets).max() / len(split) + 0.05


def test_the_head_starts_at_0_where_that_is_asked(recipe: MakeRecipe) -> None:
    bench = bench_of(recipe("run", {"model.head.start": "zero"}))
    assert start_head(bench) == 0.0 and bench.parts["model"].module.classifier.weight.abs().max() == 0


def test_a_head_that_came_with_the_model_is_kept(recipe: MakeRecipe, tiny_run: Path) -> None:
    bench = bench_of(recipe("run", model=tiny_run / "model"))
    assert bench.new == frozenset() and start_head(bench) == 0.0
    saved = load_file(tiny_run / "model" / "model.safetensors")
    assert torch.equal(bench.parts["model"].module.classifier.weight, saved["classifier.weight"])
    assert torch.equal(bench.parts["model"].module.classifier.bias, saved["classifier.bias"])


def test_a_head_for_other_classes_is_made_anew(recipe: MakeRecipe, tiny_run: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "two.csv", [row for row in tiny.tiny_rows(90) if row[1] != "login"])
    bench = bench_of(recipe("run", model=tiny_run / "model", rows=rows))
    layer = bench.parts["model"].module.classifier
    assert tuple(layer.weight.shape) == (2, 32) and "classifier.weight" in bench.new and layer.weight.abs().max() == 0
    assert start_head(bench) > 0 and layer.weight.abs().max() > 0


def test_a_head_whose_classes_stand_in_another_order_is_put_in_ours(recipe: MakeRecipe, tiny_run: Path, tmp_path: Path) -> None:
    """Each score must mean the class it is called by."""
    theirs = ["payment", "delivery", "login"]
    folder = shutil.copytree(tiny_run / "model", tmp_path / "theirs")
    config = files.read_json(folder / "config.json")
    config |= {"id2label": dict(enumerate(theirs)), "label2id": {name: index for index, name in enumerate(theirs)}}
    files.write_json(folder / "config.json", config)
    bench = bench_of(recipe("run", model=folder))
    assert bench.work.describe()["labels"] == ["delivery", "login", "payment"] and bench.new == frozenset()
    saved, layer = load_file(folder / "model.safetensors"), bench.parts["model"].module.classifier
    assert torch.equal(layer.weight, saved["classifier.weight"][[1, 2, 0]]) and torch.equal(layer.bias, saved["classifier.bias"][[1, 2, 0]])


# ---- losses and problems


@pytest.mark.parametrize(
    "loss",
    [
        {"type": "focal", "gamma": 1.0},
        {"type": "cross-entropy", "label_smoothing": 0.1},
        {"type": "cross-entropy", "class_weights": "balanced"},
        {"type": "cross-entropy", "class_weights": {"login": 3.0}},
    ],
    ids=["focal", "smoothing", "balanced", "named"],
)
def test_losses_learn_and_are_written_down(loss: dict[str, Any], recipe: MakeRecipe) -> None:
    losses = []
    training = Training.begin(recipe("run", {**QUICK, "training.max_steps": 30, "loss": loss}))
    for tick in training:
        losses.append(tick.loss)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]
    written = training.recipe.as_dict()["loss"]
    assert {key: written[key] for key in loss} == loss
    same_after_loading(training.run.path)


def test_balanced_class_weights(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [row for index, row in enumerate(tiny.tiny_rows(180)) if row[1] != "login" or index % 4 == 0]
    given = tiny.write_rows(tmp_path / "rows.csv", rows)
    resolved, prepared = prepared_of(recipe("run", {"loss": {"type": "cross-entropy", "class_weights": "balanced"}}, rows=given))
    assert resolved.loss is not None
    weights = class_weights(resolved.loss, prepared)
    counts = np.bincount(prepared.splits["train"].targets)
    assert weights == pytest.approx(tuple(counts.sum() / (3 * counts))) and max(weights) > 2 * min(weights)
    work = resolved.task.start(prepared, data=resolved.data, loss=resolved.loss)
    targets = torch.tensor([0, 1, 1, 2])
    value = work.loss(torch.zeros(4, 3), targets, torch.tensor(weights))
    assert float(value.weight) == pytest.approx(weights[0] + 2 * weights[1] + weights[2])
    assert float(value.sum / value.weight) == pytest.approx(np.log(3), rel=1e-5)


def test_effective_class_weights_lie_between_none_and_balanced(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [row for index, row in enumerate(tiny.tiny_rows(180)) if row[1] != "login" or index % 4 == 0]
    given = tiny.write_rows(tmp_path / "rows.csv", rows)
    found = {}
    for beta in (1e-9, 0.98, 1 - 1e-9):
        loss = {"type": "focal", "class_weights": "effective", "effective_beta": beta}
        resolved, prepared = prepared_of(recipe("run", {"loss": loss}, rows=given))
        assert resolved.loss is not None
        found[beta] = class_weights(resolved.loss, prepared)
    counts = np.bincount(prepared.splits["train"].targets)
    by_hand = 0.02 / (1 - 0.98**counts)
    assert found[0.98] == pytest.approx(tuple(3 * by_hand / by_hand.sum()))
    assert found[1e-9] == pytest.approx((1.0, 1.0, 1.0)) and found[1 - 1e-9] == pytest.approx(
        tuple(3 / counts / (1 / counts).sum()), rel=1e-4
    )
    assert 1 < max(found[0.98]) < max(found[1 - 1e-9])


def test_several_labels_from_rows_to_answers(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = tiny.tiny_multi_label_rows(160)
    given = tiny.write_rows(tmp_path / "rows.csv", rows)
    changes = {"data.label_separator": "|", "training.max_steps": 150, "optim.learning_rate": 4e-3}
    run = flow.train(recipe("run", changes, rows=given)).path
    metrics = files.read_json(run / "metrics.json")
    assert metrics["scores"]["test"]["f1_micro"]["value"] > 0.8
    assert (run / "report.html").is_file() and files.read_json(run / "evaluation.json")["test"]["multi_label"] is True
    same_after_loading(run)
    lines, logits = reference_of(run)
    for line, row in zip(lines, logits, strict=True):
        assert set(line["label"]) == {name for name, p in line["probabilities"].items() if p >= 0.5}
        assert sorted(line["probabilities"].values()) == pytest.approx(sorted(1 / (1 + np.exp(-row))), abs=1e-5)
    assert {len(line["label"]) for line in lines} >= {1, 2}
    answers = Predictor.open(run).answer([text for text, _ in rows])
    right = [sorted(answer.label) == label.split("|") for answer, (_, label) in zip(answers, rows, strict=True)]
    assert np.mean(right) > 0.7
    assert flow.evaluate(run)["scores"] == metrics["scores"]


@pytest.mark.parametrize("loss", ["focal", {"type": "binary-cross-entropy", "class_weights": "balanced"}])
def test_other_losses_for_several_labels(loss: Any, recipe: MakeRecipe, tmp_path: Path) -> None:
    given = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_multi_label_rows(80))
    run = flow.train(recipe("run", {**QUICK, "data.label_separator": "|", "loss": loss}, rows=given)).path
    same_after_loading(run)


# ---- long texts and pairs


def long_rows(count: int) -> list[tuple[str, str]]:
    """Every third text is far longer than the model's 64 tokens."""
    more = "please help me with it " * 30
    return [(text if index % 3 else f"{text} {more}", label) for index, (text, label) in enumerate(tiny.tiny_rows(count))]


def test_cut_texts_are_counted_and_said(recipe: MakeRecipe, tmp_path: Path) -> None:
    given = tiny.write_rows(tmp_path / "rows.csv", long_rows(60))
    _, prepared = prepared_of(recipe("run", rows=given))
    truncated = prepared.facts["tokens"]["truncated"]
    assert truncated["train"] + truncated["test"] == 20 and prepared.facts["tokens"]["longest"] == 64
    said = [note for note in prepared.facts["notes"] if "were cut" in note]
    assert f"train: {truncated['train']} texts are longer than 64 tokens and were cut (data.long_texts=windows reads them whole)" in said


def test_windows_are_read_whole_and_averaged(recipe: MakeRecipe, tmp_path: Path) -> None:
    given = tiny.write_rows(tmp_path / "rows.csv", long_rows(60))
    changes = {**QUICK, "data.long_texts": "windows", "data.window_stride": 8, "data.max_length": 32}
    run = flow.train(recipe("run", changes, rows=given)).path
    same_after_loading(run)
    facts = files.read_json(run / "data.json")["tokens"]
    assert facts["truncated"] == {"train": 0, "test": 0} and facts["longest"] > 64
    predictor = Predictor.open(run)
    text = long_rows(1)[0][0]
    row = next(iter(predictor.work.encode([text])))
    assert len(row.windows) > 4 and max(map(len, row.windows)) <= 32
    assert np.array_equal(row.windows[0][-9:-1], row.windows[1][1:9]), "neighbours share 8 tokens"
    model = predictor.parts["model"].module
    with torch.inference_mode():
        ids = [torch.from_numpy(window.astype(np.int64))[None] for window in row.windows]
        each = torch.cat([model(input_ids=one, attention_mask=torch.ones_like(one)).logits for one in ids])
    assert np.abs(predictor.outputs([text]).logits_BC[0] - each.mean(0).numpy()).max() < 1e-5


def test_windows_change_nothing_for_short_texts(recipe: MakeRecipe) -> None:
    cut = flow.train(recipe("cut", QUICK)).path
    windows = flow.train(recipe("windows", {**QUICK, "data.long_texts": "windows", "data.window_stride": 16})).path
    assert np.abs(reference_of(cut)[1] - reference_of(windows)[1]).max() <= 1e-6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.long_texts": "windows"}, "data.window_stride: got 64, but windows of 64 tokens hold 62 of a text"),
        ({"data.long_texts": "windows", "data.max_length": 20}, "data.window_stride: got 64, but windows of 20 tokens hold 18"),
    ],
)
def test_windows_that_cannot_move_on_are_refused(recipe: MakeRecipe, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        flow.prepare(resolve(recipe("run", changes)))
    assert "data.window_stride=" in str(caught.value.faults[0].fix)


@pytest.mark.parametrize("length", [-1, 0, 1, 3])
def test_a_length_without_room_for_a_word_is_refused(recipe: MakeRecipe, length: int) -> None:
    with pytest.raises(ConfigError, match=f"data.max_length: got {length}, wanted at least 4 tokens"):
        resolve(recipe("run", {"data.max_length": length}))


def test_a_second_text_that_fills_the_window_leaves_no_room(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [(f"{text} " * 20, "refund money back " * 40, label) for text, label in tiny.tiny_rows(40)]
    given = tiny.write_rows(tmp_path / "rows.csv", rows, header=("first", "second", "label"))
    windows = {"data.text": "first", "data.text_pair": "second", "data.long_texts": "windows", "data.window_stride": 8}
    with pytest.raises(UserError, match="second text"):
        flow.prepare(resolve(recipe("run", windows, rows=given)))


def test_pairs_are_encoded_as_the_tokenizer_does(recipe: MakeRecipe, tmp_path: Path, tiny_model: Path) -> None:
    texts = tiny.tiny_rows(60)
    rows = [(text, texts[(index * 7) % 60][0], label) for index, (text, label) in enumerate(texts)]
    given = tiny.write_rows(tmp_path / "rows.csv", rows, header=("first", "second", "label"))
    bench = bench_of(recipe("run", {"data.text": "first", "data.text_pair": "second"}, rows=given))
    split = bench.prepared.splits["train"]
    batch = bench.work.collate([split.row(index) for index in range(4)])
    wanted = open_tokenizer(tiny_model)(split.texts(range(4)), split.pairs(range(4)), padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch.inputs[name], wanted[name]), name
    assert batch.inputs["token_type_ids"].max() == 1


def test_long_pairs_keep_something_of_both(recipe: MakeRecipe, tmp_path: Path) -> None:
    rows = [(f"{text} " * 12, "refund money back " * 40, label) for text, label in tiny.tiny_rows(40)]
    given = tiny.write_rows(tmp_path / "rows.csv", rows, header=("first", "second", "label"))
    pair = {"data.text": "first", "data.text_pair": "second"}
    run = flow.train(recipe("run", {**QUICK, **pair}, rows=given)).path
    lines, logits = reference_of(run)
    outputs = Predictor.open(run).outputs([line["text"] for line in lines], [line["text_pair"] for line in lines])
    assert np.abs(outputs.logits_BC - logits).max() <= 1e-5
    assert files.read_json(run / "data.json")["tokens"]["truncated"]["train"] == 30
