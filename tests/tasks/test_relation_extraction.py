"""Relations between marked entities: what is read, what the model sees, what it learns, and what is said of bad rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from row_tasks import relation_extraction as made
from torch.nn import functional

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.core.run_folder import RunFolder
from luthier.data.reading import RowFault
from luthier.models.pretrained import load_tokenizer
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out
from luthier.tasks.relation_extraction import RelationExtractionWork
from luthier.tasks.relations.encoding import add_markers, encode_marked, kept_tokens, own_markers
from luthier.tasks.relations.marks import Entity, Marked, read_marks, shown_to_model, write_marks

DATA = Path(os.environ["LUTHIER_DATA"]) / "semeval2010_task8" if os.environ.get("LUTHIER_DATA") else None
TOKENS = {"task": "relation-extraction"}


def recipe(tiny_model: Path, rows: Path, folder: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return tiny.tiny_recipe(tiny_model, rows, folder / "run", {**made.CHANGES, **(changes or {})})


def bench(tiny_model: Path, folder: Path, changes: dict[str, Any] | None = None) -> Bench:
    resolved = resolve(recipe(tiny_model, made.write(folder), folder, changes))
    return lay_out(resolved, flow.prepare(resolved))


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with markers that are tokens of their own."""
    folder = tmp_path_factory.mktemp("relations")
    changes = {**TOKENS, "training.max_steps": 200, "training.batch_size": 16, "optim.learning_rate": 3e-3}
    return flow.train(recipe(tiny_model, made.write(folder, num_rows=300), folder, changes))


# -- marks


def test_marks_are_read_and_written() -> None:
    written = "The <e2:thing>cup</e2:thing> of <e1>tea</e1>."
    marked = read_marks(written)
    assert marked == Marked("The cup of tea.", Entity(11, 14), Entity(4, 7, "thing"))
    assert write_marks(marked) == written


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a <e1>b</e1> c", "missing marker (no <e2>)"),
        ("a <e1>b</e1> <e2>c", "missing marker (no </e2>)"),
        ("a <e1>b</e1> <e1>c</e1> <e2>d</e2>", "marker more than once (got 2 of <e1>)"),
        ("a <e1>b <e2>c</e1></e2>", "entities overlap"),
        ("a <e1>b <e2>c</e2> d</e1>", "entities overlap"),
        ("a </e1>b<e1> <e2>c</e2>", "entities overlap, or end before they begin"),
        ("a <e1> </e1> <e2>c</e2>", "empty entity (got e1"),
    ],
)
def test_wrong_marks_are_named(written: str, said: str) -> None:
    with pytest.raises(RowFault) as caught:
        read_marks(written)
    assert said in str(caught.value)


def test_what_the_model_reads() -> None:
    marked = read_marks("<e1:who>Ann</e1>'s <e2>cup</e2>.")
    known = frozenset({"<e1>", "<e2>", "<e1:who>"})
    text, starts = shown_to_model(marked, words=False, typed=True, known=known)
    assert text == "<e1:who> Ann </e1:who> 's <e2> cup </e2> ." and [text[at : at + 4] for at in starts] == ["<e1:", "<e2>"]
    assert shown_to_model(marked, words=False, typed=False, known=known)[0] == "<e1> Ann </e1> 's <e2> cup </e2> ."
    assert shown_to_model(marked, words=False, typed=True, known=frozenset({"<e1>"}))[0].startswith("<e1> Ann")
    text, starts = shown_to_model(marked, words=True, typed=True, known=known)
    assert text == "@ * who * Ann @ 's # cup # ." and [text[at] for at in starts] == ["@", "#"]


def test_markers_are_tokens_and_their_places_are_found(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    add_markers(tokenizer, {"who"})
    assert own_markers(tokenizer) == {f"<{mark}{name}{kind}>" for mark in ("", "/") for name in ("e1", "e2") for kind in ("", ":who")}
    marked = [read_marks("my <e1:who>driver</e1> and the <e2>xy</e2>"), read_marks("the <e2>card</e2> of my <e1>bank</e1>")]
    encoded, places = encode_marked(tokenizer, marked, words=False, typed=True, max_length=64)
    tokens = tokenizer.convert_ids_to_tokens(encoded.tokens.tolist())
    first = ["[CLS]", "my", "<e1:who>", "driver", "</e1:who>", "and", "the", "<e2>", "x", "##y", "</e2>", "[SEP]"]
    assert tokens[:12] == first and places[0] == (2, 7)
    assert [tokens[12 + place] for place in places[1]] == ["<e1>", "<e2>"]


def test_long_texts_keep_what_is_near_the_entities(tiny_model: Path) -> None:
    assert kept_tokens(5, (1, 3), 9) == [0, 1, 2, 3, 4]
    assert kept_tokens(20, (4, 15), 6) == [3, 4, 5, 14, 15, 16]
    assert kept_tokens(20, (0, 19), 2) == [0, 19]
    tokenizer = load_tokenizer(str(tiny_model))
    marked = [read_marks(f"{'the ' * 20}<e1>card</e1> {'the ' * 20}<e2>van</e2> {'the ' * 20}")]
    encoded, [(first, second)] = encode_marked(tokenizer, marked, words=True, typed=False, max_length=12)
    assert len(encoded.tokens) == 12 and encoded.too_long_N.tolist() == [True]
    tokens = tokenizer.convert_ids_to_tokens(encoded.tokens.tolist())
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens[second] == "#"
    assert tokens[first + 1] == "card" and tokens[second + 1] == "van"


# -- learning


def test_the_scores_are_one_linear_layer_over_both_markers(tiny_model: Path, tmp_path: Path) -> None:
    laid = bench(tiny_model, tmp_path, TOKENS)
    work, split, module = laid.work, laid.prepared.splits["train"], laid.parts["model"].module.eval()
    assert isinstance(work, RelationExtractionWork) and work.no_relation == "Other"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rows, found = [split.row(index) for index in range(5)], []
    for row in rows:
        first, second = json.loads(row.record or "")["starts"]
        states_TH = module.base_model(input_ids=torch.tensor(row.windows[0].astype(int))[None]).last_hidden_state[0]
        weight, bias, number = module.classifier.weight, module.classifier.bias, len(work.labels)
        whole = torch.cat([weight[:number], weight[number:]], dim=1)
        logits = whole @ torch.cat([states_TH[first], states_TH[second]]) + bias[:number] + bias[number:]
        found.append(functional.cross_entropy(logits, torch.tensor(int(row.target))))
    term = work.losses(laid.parts, work.collate(rows))["loss"]
    assert term.sum.item() == pytest.approx(sum(found).item(), rel=1e-5) and float(term.weight) == 5


def test_it_learns_relations_and_their_directions(run: RunFolder) -> None:
    scores = files.read_json(run.metrics)["scores"]["test"]
    assert scores["macro_f1"]["value"] > 0.9 and scores["accuracy"]["value"] > 0.9
    predictor = Predictor.open(run.path)
    texts = ["my <e1>van</e1> and the <e2>fee</e2> now", "my <e1>fee</e1> and the <e2>van</e2> now"]
    one, other = predictor.answer(texts)
    assert (one.label, other.label) == ("Cost(e1,e2)", "Cost(e2,e1)")
    assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_a_text_without_marks_is_refused_with_an_example(run: RunFolder) -> None:
    with pytest.raises(DataError, match=r"text 2 cannot be read: missing marker \(no <e1>\)") as caught:
        list(Predictor.open(run.path).answer(["a <e1>b</e1> <e2>c</e2>", "no marks"]))
    assert "<e1>child</e1>" in str(caught.value)


def test_plain_transformers_loads_it_with_its_markers(run: RunFolder) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model, info = AutoModelForTokenClassification.from_pretrained(run.model, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    assert len(tokenizer) == model.config.vocab_size and tokenizer.tokenize("my <e1> card") == ["my", "<e1>", "card"]
    assert model.config.id2label[0] == "e1: Cost(e1,e2)"


def test_the_way_back_to_a_loss_with_weights_and_two_passes(tiny_model: Path, tmp_path: Path) -> None:
    laid = bench(tiny_model, tmp_path, {"loss": {"type": "focal", "class_weights": "balanced", "r_drop": 1.0}})
    batch = laid.work.collate([laid.prepared.splits["train"].row(index) for index in range(8)])
    weights, terms = laid.work.weights(batch), laid.work.losses(laid.parts, batch)
    assert set(terms) == {"loss", "r_drop"} == set(weights)
    assert all(float(term.weight) == pytest.approx(weights[name]) for name, term in terms.items())
    assert terms["r_drop"].coefficient == 1.0 and float(terms["loss"].sum) > 0


# -- data


def test_the_format_of_semeval_is_read(tiny_model: Path, tmp_path: Path) -> None:
    rows = made.rows(40)
    path = made.write_semeval(tmp_path / "TRAIN.TXT", rows)
    prepared = flow.prepare(resolve(recipe(tiny_model, path, tmp_path, {"data.split": {"test": 0.25}})))
    found = {text: label for split in prepared.splits.values() for text, label in _pairs(prepared.labels, split)}
    assert found == dict(rows)


def test_spans_in_columns_become_marks(tiny_model: Path, tmp_path: Path) -> None:
    rows = []
    for text, label in made.rows(40):
        marked = read_marks(text)
        head, tail = ({"start": one.start, "end": one.end, "type": "thing"} for one in (marked.first, marked.second))
        rows.append({"text": marked.text, "head": head, "tail": tail, "relation": label})
    path = _write(tmp_path, rows)
    prepared = flow.prepare(resolve(recipe(tiny_model, path, tmp_path, TOKENS)))
    text = prepared.splits["train"].texts([0])[0]
    assert "<e1:thing>" in text and text.replace(":thing", "") in dict(made.rows(40))
    from luthier.models.pretrained import open_tokenizer

    assert "<e2:thing>" in own_markers(open_tokenizer(prepared.tokenizer))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"text": "a b", "head": {"start": 0, "end": 1}, "tail": {"start": 2, "end": 9}, "relation": "Other"},
            "entity outside the text (got e2",
        ),
        (
            {"text": "a b", "head": {"start": 0, "end": 2}, "tail": {"start": 1, "end": 3}, "relation": "Other"},
            "entities overlap (got 0 to 2",
        ),
        ({"text": "a b", "head": {"start": 0, "end": 0}, "tail": {"start": 2, "end": 3}, "relation": "Other"}, "empty entity (got e1"),
        ({"text": "a b", "head": {"start": 0}, "tail": {"start": 2, "end": 3}, "relation": "Other"}, "head without its places"),
        ({"text": "a b", "head": "a", "tail": {"start": 2, "end": 3}, "relation": "Other"}, "head of a wrong type (got 'a'"),
        (
            {"text": "<e1> b", "head": {"start": 0, "end": 1}, "tail": {"start": 5, "end": 6}, "relation": "Other"},
            "a marker of its own (got <e1>)",
        ),
        ({"text": "a <e1>b</e1>", "relation": "Other"}, "missing marker (no <e2>)"),
        ({"text": "a <e1>b</e1> <e2>c</e2>"}, "missing relation"),
        ({"text": " ", "relation": "Other"}, "missing marker"),
    ],
)
def test_bad_rows_are_named_in_quarantine(row: dict[str, Any], said: str, tiny_model: Path, tmp_path: Path) -> None:
    path = made.write(tmp_path, num_rows=60)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    bad = files.read_json_lines(flow.prepare(resolve(recipe(tiny_model, path, tmp_path))).quarantine)
    assert [one["row"] for one in bad] == [61] and said in bad[0]["reason"]


def test_a_relation_that_training_does_not_have_is_set_aside(tiny_model: Path, tmp_path: Path) -> None:
    rows = made.rows(80)
    train = made.write_semeval(tmp_path / "train.txt", rows[:50])
    odd = ("a <e1>van</e1> or a <e2>fee</e2>", "Cost(e1,e3)")
    test = made.write_semeval(tmp_path / "test.txt", [*rows[50:], odd])
    prepared = flow.prepare(resolve(recipe(tiny_model, train, tmp_path, {"data.test": str(test), "data.split": {}})))
    assert len(prepared.splits["test"]) == 30 and prepared.facts["splits"]["test"]["rows"] == 30
    [bad] = files.read_json_lines(prepared.quarantine)
    assert bad["row"] == 31 and bad["split"] == "test" and bad["file"] == str(test)
    assert bad["reason"].startswith("label that training does not have (got 'Cost(e1,e3)', nearest 'Cost(e1,e2)'")
    assert any("test: 1 rows left out" in note for note in prepared.facts["notes"])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data.long_texts": "windows"}, "data.long_texts"),
        ({"loss": "binary-cross-entropy"}, "loss.type"),
        ({"loss": "arcface"}, "loss.type"),
        ({"task": {"type": "relation-extraction", "no_relation": "None"}}, "task.no_relation"),
        ({**TOKENS, "adapter": {"type": "lora"}}, "task.markers"),
        ({"model.head": {"hidden": [8]}}, "model.head"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], key: str, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key):
        bench(tiny_model, tmp_path, changes)


def _write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _pairs(labels: tuple[str, ...], split: Any) -> list[tuple[str, str]]:
    return [(split.texts([row])[0], labels[int(split.row(row).target)]) for row in range(len(split))]


# -- real data


@pytest.mark.real
@pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA is not set")
def test_real_rows_are_read_whole(tiny_model: Path, tmp_path: Path) -> None:
    assert DATA is not None
    train, test = DATA / "SemEval2010_task8_training" / "TRAIN_FILE.TXT", DATA / "SemEval2010_task8_testing_keys" / "TEST_FILE_FULL.TXT"
    prepared = flow.prepare(resolve(recipe(tiny_model, train, tmp_path, {"data.test": str(test), "data.split": {}})))
    sources = prepared.facts["sources"]
    assert (sources["train"]["read"], sources["test"]["read"]) == (8000, 2717)
    assert not sources["train"]["bad"] and not sources["test"]["bad"] and len(prepared.splits["test"]) == 2717
    assert len(prepared.labels) == 19
    key = dict(line.split("\t") for line in (test.parent / "TEST_FILE_KEY.TXT").read_text(encoding="utf-8").splitlines() if line)
    found = [label.partition("(")[0] for _, label in _pairs(prepared.labels, prepared.splits["test"])]
    assert found == [label.partition("(")[0] for label in key.values()]
