"""Characters that a tokenizer does not know: taught, learnt, resumed, saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from benches import bench_of, prepared_of, same_after_loading
from safetensors.torch import load_file

from luthier import flow
from luthier.core import files
from luthier.flow import Training
from luthier.models.pretrained import open_tokenizer
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench

MakeRecipe = Callable[..., dict[str, Any]]
QUICK = {"training.max_steps": 3, "evaluate.baseline": False, "model.head.start": "zero"}


def chinese_rows() -> list[tuple[str, str, str]]:
    good, bad = "房间很大服务周到早餐丰富", "隔音极差设施陈旧态度恶劣"
    zh = [(f"{(good if index % 2 else bad)[index % 7 :]}{index}", "好" if index % 2 else "坏", "zh") for index in range(40)]
    en = [(f"parcel late {index}" if index % 2 else f"password locked {index}", "好" if index % 2 else "坏", "en") for index in range(40)]
    return zh + en


def word_vectors(bench: Bench) -> torch.Tensor:
    """What the model makes of every token before it looks at its neighbours."""
    with torch.inference_mode():
        return bench.parts["model"].module.get_input_embeddings()(torch.arange(len(bench.work.tokenizer)))


@pytest.fixture
def chinese(tmp_path: Path) -> Path:
    return tiny.write_rows(tmp_path / "zh.csv", chinese_rows(), header=("text", "label", "language"))


def test_unknown_characters_are_taught_and_start_from_the_mean(recipe: MakeRecipe, chinese: Path, tiny_model: Path) -> None:
    bench = bench_of(recipe("run", {"data.slice_by": "language"}, rows=chinese))
    old = load_file(tiny_model / "model.safetensors")["embeddings.word_embeddings.weight"]
    facts = bench.prepared.facts["tokens"]
    new = word_vectors(bench)
    characters = {c for text, _, language in chinese_rows() if language == "zh" for c in text if not c.isascii()}
    lacking = {c for c in characters if c not in tiny.CHINESE}
    train = bench.prepared.splits["train"]
    assert facts["added_characters"] == len(lacking & set("".join(train.texts(range(len(train)))))) > 15
    assert new.shape[0] == old.shape[0] + facts["added_characters"]
    assert torch.equal(new[: old.shape[0]], old)
    assert torch.allclose(new[old.shape[0] :], old.mean(0).expand(facts["added_characters"], -1), atol=1e-6)


def test_taught_characters_learn_and_the_model_is_one_table(recipe: MakeRecipe, chinese: Path, tiny_model: Path) -> None:
    run = flow.train(recipe("run", {**QUICK, "training.max_steps": 20}, rows=chinese)).path
    old = load_file(tiny_model / "model.safetensors")["embeddings.word_embeddings.weight"]
    saved = load_file(run / "model" / "model.safetensors")
    assert [name for name in saved if "word_embeddings" in name] == ["bert.embeddings.word_embeddings.weight"]
    table = saved["bert.embeddings.word_embeddings.weight"]
    moved = (table[old.shape[0] :] - old.mean(0)).abs().amax(1)
    assert len(moved) == files.read_json(run / "data.json")["tokens"]["added_characters"] and (moved > 1e-3).float().mean() > 0.9


def test_a_taught_vocabulary_resumes_as_it_was(recipe: MakeRecipe, chinese: Path) -> None:
    changes = {**QUICK, "training.max_steps": 6, "training.save_every": "2steps"}
    whole = flow.train(recipe("whole", changes, rows=chinese)).path
    training = Training.begin(recipe("stopped", changes, rows=chinese))
    ticks = iter(training)
    while next(ticks).step < 5:
        pass
    ticks.close()  # type: ignore[attr-defined]
    flow.resume(training.run.path)
    assert files.read_json(training.run.metrics)["resumed_from_step"] == 4
    one, other = (load_file(run / "model" / "model.safetensors") for run in (whole, training.run.path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    same_after_loading(training.run.path)


def test_the_unknown_share_is_reported_before_and_after_and_by_slice(recipe: MakeRecipe, chinese: Path) -> None:
    _, taught = prepared_of(recipe("run", {"data.slice_by": "language"}, rows=chinese))
    _, untaught = prepared_of(recipe("run", {"data.slice_by": "language", "model.extend_vocabulary": False}, rows=chinese))
    before, after = untaught.facts["tokens"], taught.facts["tokens"]
    assert before["unknown_share"] == pytest.approx(after["unknown_share_before"], abs=0.02) and before["unknown_share"] > 0.2
    assert before["by_slice"]["zh"] > 0.5 and before["by_slice"]["en"] == 0
    assert after["by_slice"] == {"en": 0, "zh": 0} and after["unknown_share"] == 0
    assert before["added_characters"] == 0
    assert any("warning: the tokenizer does not know" in note and "none were added" in note for note in untaught.facts["notes"])
    assert any("characters of the training rows were added and start from the mean" in note for note in taught.facts["notes"])


@pytest.mark.parametrize("head", ["auto", "mean"])
def test_a_taught_vocabulary_is_saved_and_loaded(head: str, recipe: MakeRecipe, chinese: Path) -> None:
    run = flow.train(
        recipe("run", {**QUICK, "training.max_steps": 20, "model.head": {"pooling": head, "start": "zero"}}, rows=chinese)
    ).path
    same_after_loading(run)
    tokenizer = open_tokenizer(run / "model")
    assert tokenizer.unk_token_id not in tokenizer("房间很大服务周到")["input_ids"]
    config = files.read_json(run / "model" / "config.json")
    assert config["vocab_size"] == len(tokenizer)
    good, bad = Predictor.open(run).answer(["房间很大服务周到早餐", "隔音极差设施陈旧态度"])
    assert (good.label, bad.label) == ("好", "坏")


def test_a_known_vocabulary_is_left_as_it_is(recipe: MakeRecipe, tiny_model: Path) -> None:
    bench = bench_of(recipe("run"))
    assert bench.prepared.facts["tokens"]["added_characters"] == 0
    old = load_file(tiny_model / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(word_vectors(bench), old)
