"""Intent and slots: what is read, what is learnt, what is answered, and what is said of bad rows."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from row_tasks import intent_and_slots as made
from torch.nn import functional

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.core.run_folder import RunFolder
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.tasks.frames.tags import Decoder, fault_of_tags, slots_of
from luthier.tasks.frames.words import UNREAD, encode_words, words_of
from luthier.tasks.intent_and_slots import IntentAndSlotsWork

DATA = Path(os.environ["LUTHIER_DATA"]) / "atis_snips" if os.environ.get("LUTHIER_DATA") else None


def recipe(tiny_model: Path, rows: Path, folder: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return tiny.tiny_recipe(tiny_model, rows, folder / "run", {"task": "intent-and-slots", **made.CHANGES, **(changes or {})})


def bench(tiny_model: Path, folder: Path, changes: dict[str, Any] | None = None) -> Bench:
    resolved = resolve(recipe(tiny_model, made.write(folder), folder, changes))
    return lay_out(resolved, flow.prepare(resolved))


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("frames")
    changes = {"training.max_steps": 300, "training.batch_size": 16, "optim.learning_rate": 3e-3}
    return flow.train(recipe(tiny_model, made.write(folder, num_rows=600), folder, changes))


# -- tags


def test_slots_of_tags() -> None:
    assert slots_of(["O", "B-a", "I-a", "B-a", "O", "B-b"]) == [("a", 1, 3), ("a", 3, 4), ("b", 5, 6)]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["O", "I-a"], "I-a after O at word 2"),
        (["B-a", "I-b"], "I-b after B-a at word 2"),
        (["I-a"], "I-a after O at word 1"),
        (["S-a"], "'S-a' at word 1"),
        (["B-"], "'B-' at word 1"),
        (["city"], "'city' at word 1"),
    ],
)
def test_tags_that_break_bio_are_named(tags: list[str], said: str) -> None:
    assert said in str(fault_of_tags(tags))
    assert fault_of_tags(["B-a", "I-a", "I-a", "B-a", "O"]) is None


def test_decoded_tags_are_the_best_of_all_that_keep_to_bio() -> None:
    tags = ["O", "B-a", "I-a", "B-b", "I-b"]
    whole = [path for path in itertools.product(tags, repeat=4) if fault_of_tags(path) is None]
    scores_WS = np.random.default_rng(0).normal(size=(30, 4, 5))
    greedy = 0
    for one in scores_WS:
        best = max(whole, key=lambda path: sum(one[place, tags.index(tag)] for place, tag in enumerate(path)))
        assert Decoder(tags)(one) == list(best)
        greedy += [tags[index] for index in one.argmax(1)] == list(best)
    assert greedy < 30, "the best tag of each word was always whole: nothing was shown"


# -- words


def test_words_of_a_text() -> None:
    assert words_of(" a  bc. ", "spaces") == [(1, 2), (4, 7)]
    assert words_of("去 北京 by bus", "characters") == [(0, 1), (2, 3), (3, 4), (5, 7), (8, 11)]


def test_first_tokens_of_words(tiny_model: Path) -> None:
    from luthier.models.pretrained import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model))
    texts = ["my xy card", "a \u200b b c d e f g"]
    words = [words_of(text, "spaces") for text in texts]
    encoded, places = encode_words(tokenizer, texts, words, max_length=6)
    assert tokenizer.convert_ids_to_tokens(encoded.tokens[:6].tolist()) == ["[CLS]", "my", "x", "##y", "card", "[SEP]"]
    assert places[0] == [1, 2, 4]
    assert places[1] == [1, UNREAD, 2, 3, 4, UNREAD, UNREAD, UNREAD], "a word without a token, and three beyond the end"
    assert encoded.too_long_N.tolist() == [False, True]


# -- learning


def test_losses_are_cross_entropies_of_the_first_token_and_of_first_pieces(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"task": {"type": "intent-and-slots", "intent_weight": 0.5, "slots_weight": 2.0}}
    laid = bench(tiny_model, tmp_path, changes)
    work, split = laid.work, laid.prepared.splits["train"]
    assert isinstance(work, IntentAndSlotsWork)
    module = laid.parts["model"].module.eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rows = [split.row(index) for index in range(5)]
    terms = work.losses(laid.parts, work.collate(rows))
    intents, tags = [], []
    for row in rows:
        record = json.loads(row.record or "")
        logits_TL = module(input_ids=torch.tensor(row.windows[0].astype(int))[None]).logits[0].float()
        number = len(work.intents)
        intents.append(functional.cross_entropy(logits_TL[0, :number], torch.tensor(work.intents.index(record["intent"]))))
        for place, tag in zip(record["places"], record["tags"], strict=True):
            tags.append(functional.cross_entropy(logits_TL[place, number:], torch.tensor(work.tags.index(tag))))
    assert terms["intent"].sum.item() == pytest.approx(sum(intents).item(), rel=1e-5)
    assert terms["slots"].sum.item() == pytest.approx(sum(tags).item(), rel=1e-5)
    assert (float(terms["intent"].weight), float(terms["slots"].weight)) == (5, len(tags))
    assert (terms["intent"].coefficient, terms["slots"].coefficient) == (0.5, 2.0)


def test_it_learns_frames_and_answers_with_places(run: RunFolder) -> None:
    scores = files.read_json(run.metrics)["scores"]["test"]
    assert scores["intent_accuracy"]["value"] > 0.9 and scores["slot_f1"]["value"] > 0.9
    text = "would i  refund card"
    label = next(iter(Predictor.open(run.path).answer([text]))).label
    assert label["intent"] == "wish" and 0.5 < label["probability"] <= 1
    assert label["slots"] == [{"label": "payment", "text": "refund card", "start": 9, "end": 20}]


def test_plain_transformers_loads_it(run: RunFolder) -> None:
    from transformers import AutoModel, AutoModelForTokenClassification

    model, info = AutoModelForTokenClassification.from_pretrained(run.model, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert set(model.config.id2label.values()) >= {"intent: ask", "slot: O", "slot: B-login", "slot: I-login"}
    _, info = AutoModel.from_pretrained(run.model, output_loading_info=True, add_pooling_layer=False)
    assert not info["missing_keys"]


def test_the_upper_layers_alone_and_a_decay_by_layers(tiny_model: Path, tmp_path: Path) -> None:
    laid = bench(tiny_model, tmp_path, {"model.freeze": 1, "optim.layer_decay": 0.5})
    trained = {name for name, parameter in laid.parts["model"].module.named_parameters() if parameter.requires_grad}
    assert not any("embeddings" in name or "layer.0." in name for name in trained) and any("layer.1." in name for name in trained)
    rates = {group["lr"] for group in laid.saved.optimiser.param_groups}
    assert len(rates) > 1 and laid.new >= {"classifier.weight", "classifier.bias"}


# -- data


def test_folders_with_splits_are_read_by_one_name(tiny_model: Path, tmp_path: Path) -> None:
    rows = made.rows(60)
    for name, part in (("train", rows[:40]), ("valid", rows[40:50]), ("test", rows[50:])):
        made.write_folder(tmp_path / "data" / name, part)
    resolved = resolve(recipe(tiny_model, tmp_path / "data", tmp_path, {"data.split": {}}))
    splits = flow.prepare(resolved).splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 40, "validation": 10, "test": 10}
    record = json.loads(splits["test"].row(0).record or "")
    assert record["tags"] == rows[50]["tags"] and record["intent"] == rows[50]["intent"]
    named = resolve(recipe(tiny_model, tmp_path / "data" / "train" / "seq.in", tmp_path))
    assert sum(len(split) for split in flow.prepare(named).splits.values()) == 40


def test_words_and_tags_may_be_texts_in_a_csv(tiny_model: Path, tmp_path: Path) -> None:
    rows = [(" ".join(row["tokens"]), " ".join(row["tags"]), row["intent"]) for row in made.rows(40)]
    path = tiny.write_rows(tmp_path / "rows.csv", rows, header=("text", "slots", "intent"))
    assert len(flow.prepare(resolve(recipe(tiny_model, path, tmp_path))).splits["train"]) == 30


def test_what_training_does_not_have_stays_and_counts_as_wrong(tiny_model: Path, tmp_path: Path) -> None:
    rows = made.rows(60)
    odd = [
        {"tokens": ["tell", "me", "van"], "tags": ["O", "O", "B-colour"], "intent": "ask"},
        {"tokens": ["please", "help", "van"], "tags": ["O", "O", "B-delivery"], "intent": "greet"},
    ]
    for name, part in (("train", rows[:50]), ("test", [*rows[50:], *odd])):
        made.write_folder(tmp_path / "data" / name, part)
    run = flow.train(recipe(tiny_model, tmp_path / "data", tmp_path, {"data.split": {}, "training.max_steps": 2}))
    data, sheet = files.read_json(run.data), files.read_json(run.evaluation)["test"]
    assert sheet["num_rows"] == 12
    assert "test: rows with an intent that training does not have, which stay and count as wrong: 1" in data["notes"]
    assert any("a slot tag that training does not have" in note for note in data["notes"])
    found = {one["label"]: one for one in sheet["per_class"]}
    assert found["intent greet"] == {"label": "intent greet", "precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert found["slot colour"]["support"] == 1 and found["slot colour"]["recall"] == 0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"], "intent": "ask"}, "not one tag for each word (got 2 words and 1 tags)"),
        ({"tokens": ["a", "b"], "tags": ["O", "I-x"], "intent": "ask"}, "tags break BIO (got I-x after O at word 2"),
        ({"tokens": ["new york"], "tags": ["B-x"], "intent": "ask"}, "word that a new text would not be split into (got 'new york'"),
        ({"tokens": [], "tags": [], "intent": "ask"}, "no words"),
        ({"tokens": ["a"], "tags": ["O"], "intent": " "}, "missing intent"),
        ({"tokens": ["a"], "tags": ["O"]}, "missing intent"),
        ({"tokens": 3, "tags": ["O"], "intent": "ask"}, "words of a wrong type (got int"),
    ],
)
def test_bad_rows_are_named_in_quarantine(row: dict[str, Any], said: str, tiny_model: Path, tmp_path: Path) -> None:
    path = made.write(tmp_path, num_rows=40)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    bad = files.read_json_lines(flow.prepare(resolve(recipe(tiny_model, path, tmp_path))).quarantine)
    assert [one["row"] for one in bad] == [41] and said in bad[0]["reason"]


def test_a_chinese_word_is_refused_where_characters_are_words(tiny_model: Path, tmp_path: Path) -> None:
    task = {"type": "intent-and-slots", "words": "characters"}
    rows = [{"tokens": ["我", "要", "去"], "tags": ["O", "O", "B-x"], "intent": name} for name in ("go", "stay")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows * 20, {**rows[0], "tokens": ["我们", "要", "去"]}]), encoding="utf-8")
    changes = {"task": task, "data.split": {"test": 0}}
    bad = files.read_json_lines(flow.prepare(resolve(recipe(tiny_model, path, tmp_path, changes))).quarantine)
    assert [one["reason"] for one in bad] == ["word that a new text would not be split into (got '我们'; task.words is characters)"]


def test_files_of_different_length_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = made.write_folder(tmp_path / "data", made.rows(20))
    (folder / "label").write_text("ask\n" * 19, encoding="utf-8")
    with pytest.raises(DataError, match=r"seq\.in 20, seq\.out 20, label 19"):
        flow.prepare(resolve(recipe(tiny_model, folder, tmp_path)))


def test_a_column_that_is_not_there_is_named(tiny_model: Path, tmp_path: Path) -> None:
    path = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(20))
    with pytest.raises(DataError, match=r"task\.tags"):
        flow.prepare(resolve(recipe(tiny_model, path, tmp_path)))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data.long_texts": "windows"}, "data.long_texts"),
        ({"data.augment": ["word-dropout"]}, "data.augment"),
        ({"data.text_pair": "tags"}, "data.text_pair"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], key: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key):
        flow.prepare(resolve(recipe(tiny_model, made.write(tmp_path), tmp_path, changes)))


@pytest.mark.parametrize(("changes", "key"), [({"loss": "focal"}, "loss"), ({"model.head": {"pooling": "mean"}}, "model.head")])
def test_other_losses_and_heads_are_refused(changes: dict[str, Any], key: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key):
        bench(tiny_model, tmp_path, changes)


# -- real data


@pytest.mark.real
@pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA is not set")
@pytest.mark.parametrize(
    ("name", "sizes", "names", "unseen"),
    [("atis", (4478, 500, 893), (21, 119), (5, 7)), ("snips", (13084, 700, 700), (7, 72), (0, 0))],  # a tag of ATIS is in a row of the test
)
def test_real_rows_are_read_whole(
    name: str, sizes: tuple[int, ...], names: tuple[int, int], unseen: tuple[int, int], tiny_model: Path, tmp_path: Path
) -> None:
    assert DATA is not None
    prepared = flow.prepare(resolve(recipe(tiny_model, DATA / name, tmp_path, {"data.split": {}})))
    sources, splits = prepared.facts["sources"], prepared.splits
    assert tuple(sources[split]["read"] for split in ("train", "validation", "test")) == sizes
    assert (len(splits["validation"]), len(splits["test"])) == sizes[1:], "held-out rows stay, whatever they have"
    assert not any(source["bad"] for source in sources.values())
    assert tuple(sum(label.startswith(kind) for label in prepared.labels) for kind in ("intent: ", "slot: ")) == names
    said = [note for note in prepared.facts["notes"] if note.startswith("test: rows with")]
    assert [int(note.rpartition(" ")[2]) for note in said] == [number for number in unseen if number]
