"""Sentence similarity: what is its own beside the contract: pairs and triplets, retrieval, widths, other libraries, real pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from row_tasks.sentence_similarity import related_rows, scored_rows
from scipy import stats
from torch.nn import functional

from luthier import flow
from luthier.cli.main import main
from luthier.core import files, yaml
from luthier.core.errors import ConfigError, DataError
from luthier.core.run_folder import RunFolder
from luthier.losses.pairs import pair_losses
from luthier.losses.pairs.pair_loss import Compared
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.layout.begin import Bench, lay_out

ROOT = Path(__file__).resolve().parents[2]
STSB = Path(os.environ.get("LUTHIER_DATA", "/nowhere")) / "stsb"
THEIRS = os.environ.get("SENTENCE_TRANSFORMERS_PYTHON", str(ROOT / "bench/.venvs/sentence-transformers/bin/python"))
Make = Callable[..., dict[str, Any]]


def rows_file(folder: Path, rows: list[dict[str, object]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path) -> Make:
    def recipe(rows: list[dict[str, object]] | Path, changes: dict[str, Any] | None = None, *, model: Path = tiny_model) -> dict[str, Any]:
        task = {"type": "sentence-similarity", **(changes or {}).pop("task", {})}
        source = rows if isinstance(rows, Path) else rows_file(tmp_path, rows)
        return tiny.tiny_recipe(model, source, tmp_path / "run", {"task": task, **(changes or {})})

    return recipe


def laid_out(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


@pytest.fixture(scope="module")
def scored_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> RunFolder:
    folder = tmp_path_factory.mktemp("scored")
    changes = {"task": {"type": "sentence-similarity", "matryoshka": [32, 8]}, "training.batch_size": 16}
    return flow.train(tiny.tiny_recipe(tiny_model, rows_file(folder, scored_rows()), folder / "run", changes))


def test_scores_are_those_of_scipy(scored_run: RunFolder) -> None:
    rows = scored_rows()
    predictor = Predictor.open(scored_run.path)
    said = [answer.label for answer in predictor.answer([row["sentence1"] for row in rows], [row["sentence2"] for row in rows])]
    files.write_json_lines(scored_run.path.parent / "all.jsonl", rows)
    found = flow.evaluate(scored_run.path, data=str(scored_run.path.parent / "all.jsonl"))["scores"]["test"]
    scores = [row["score"] for row in rows]
    assert found["spearman"]["value"] == pytest.approx(stats.spearmanr(said, scores).statistic, abs=1e-6)
    assert found["pearson"]["value"] == pytest.approx(stats.pearsonr(said, scores).statistic, abs=1e-6)


def test_what_the_rows_decide_is_written_down(scored_run: RunFolder) -> None:
    task = yaml.load_file(scored_run.recipe)["task"]
    assert (task["loss"], task["measure"], task["pooling"]) == ({"type": "cosent", "scale": 20.0}, "similarity", "mean")
    metrics = files.read_json(scored_run.metrics)
    assert metrics["primary_metric"] == "spearman" and set(metrics["scores"]["test"]) == {"spearman", "pearson"}
    sheet = files.read_json(scored_run.evaluation)["test"]
    assert set(sheet["spearman_by_width"]) == {"32", "8"} and len(sheet["mistakes"]) == 20
    assert sheet["spearman_by_width"]["32"] == pytest.approx(metrics["scores"]["test"]["spearman"]["value"], abs=1e-6)
    assert sheet["comparison"]["metric"] == "spearman"


def test_one_text_has_a_vector_and_two_have_a_cosine(scored_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    predictor, texts = Predictor.open(scored_run.path), ["my parcel is late", "the card was charged"]
    vectors = [answer.label for answer in predictor.answer(texts)]
    assert [len(vector) for vector in vectors] == [32, 32] and np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-6)
    cosine = next(predictor.answer(texts[:1], texts[1:])).label
    assert cosine == pytest.approx(float(np.dot(*vectors)), abs=1e-5)
    assert main(["predict", str(scored_run.path), texts[0]]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == pytest.approx(vectors[0], abs=1e-5)


def test_plain_transformers_gives_the_same_vectors(scored_run: RunFolder) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = ["my parcel is late", "i was charged twice for a card"]
    model, tokenizer = AutoModel.from_pretrained(scored_run.model), AutoTokenizer.from_pretrained(scored_run.model)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        states = model.eval()(**inputs).last_hidden_state
    expected = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    found = np.array([answer.label for answer in Predictor.open(scored_run.path).answer(texts)])
    assert np.abs(found - expected).max() < 1e-5


def test_sentence_transformers_gives_the_same_vectors(scored_run: RunFolder) -> None:
    texts = ["my parcel is late", "i was charged twice for a card " * 20]
    code = "import json, sys; from sentence_transformers import SentenceTransformer as S; "
    code += "print(json.dumps(S(sys.argv[1], device='cpu').encode(json.loads(sys.argv[2])).tolist()))"
    python = THEIRS if Path(THEIRS).is_file() else sys.executable
    if subprocess.run([python, "-c", "import sentence_transformers"], capture_output=True, check=False).returncode:
        pytest.skip("sentence-transformers cannot be imported")
    done = subprocess.run(
        [python, "-c", code, str(scored_run.model), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    found = np.array([answer.label for answer in Predictor.open(scored_run.path).answer(texts)])
    assert np.abs(found - np.array(json.loads(done.stdout.splitlines()[-1]))).max() < 1e-5


@pytest.mark.parametrize("negatives", [False, True], ids=["pairs", "triplets"])
@pytest.mark.parametrize("loss", [None, "triplet"])
def test_rows_without_scores_are_measured_by_what_is_found(negatives: bool, loss: str | None, make: Make) -> None:
    changes = {"training.max_steps": 30, "training.batch_size": 16, **({"task": {"loss": loss}} if loss else {})}
    run = flow.train(make(related_rows(negatives=negatives), changes))
    metrics, sheet = files.read_json(run.metrics), files.read_json(run.evaluation)["test"]
    assert metrics["primary_metric"] == "ndcg@10"
    assert set(metrics["scores"]["test"]) == {"recall@1", "recall@10", "mrr@10", "ndcg@10"}
    assert sheet["comparison"]["metric"] == "ndcg@10" and sheet["documents"] == 30
    kept = yaml.load_file(run.recipe)["task"]
    assert kept["measure"] == "retrieval" and kept["loss"]["type"] == (loss or "multiple-negatives")
    assert "nDCG@10" in run.report.read_text(encoding="utf-8")
    again = flow.evaluate(run.path)["scores"]["test"]["ndcg@10"]["value"]
    assert again == pytest.approx(metrics["scores"]["test"]["ndcg@10"]["value"], abs=1e-6)


def test_texts_stand_where_the_loss_looks_for_them(make: Make) -> None:
    rows = related_rows(40, negatives=True)
    for row in rows[::2]:
        row["negative"] = ""
    bench = laid_out(make(rows, {"data.split": {"test": 0}, "training.batch_size": 6}))
    split = bench.prepared.splits["train"]
    batch = bench.work.collate([split.row(row) for row in range(6)])
    count = [len(split.row(row).windows) for row in range(6)]
    assert sorted(set(count)) == [2, 3] and batch.num_tokens == int(split.num_tokens_N[:6].sum())
    words = bench.work.tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)  # type: ignore[attr-defined]
    texts = {row["anchor"]: row for row in rows}
    shown = split.texts(range(6))
    assert [words[place] for place in batch.targets["first"]] == shown
    assert [words[place] for place in batch.targets["second"]] == [texts[text]["positive"] for text in shown]
    for place, row in zip(batch.targets["negative"].tolist(), batch.targets["negative_row"].tolist(), strict=True):
        assert words[place] == texts[shown[row]]["negative"] and count[row] == 3
    assert len(batch.targets["negative"]) == count.count(3)
    whole = bench.work.joined([bench.work.collate([split.row(row) for row in some]) for some in (range(2), range(2, 6))])  # type: ignore[attr-defined]
    for name in ("first", "second", "negative", "negative_row", "key"):
        assert torch.equal(whole.targets[name], batch.targets[name]), name


def test_several_widths_are_the_mean_of_their_losses(make: Make) -> None:
    bench = laid_out(make(scored_rows(), {"task": {"matryoshka": [32, 8], "matryoshka_weights": [3.0, 1.0]}}))
    batch = bench.work.collate([bench.prepared.splits["train"].row(row) for row in range(8)])
    bench.parts["model"].module.eval()
    with torch.no_grad():
        term = bench.work.losses(bench.parts, batch)["loss"]
        vectors = bench.work.vectors(bench.parts, batch)  # type: ignore[attr-defined]
        losses = [
            float(pair_losses.get("cosent")()(Compared.of(cut, batch.targets, scores_B=batch.targets["score"])))
            for cut in (vectors, vectors[:, :8])
        ]
    assert float(term.sum) == pytest.approx(0.75 * losses[0] + 0.25 * losses[1], rel=1e-5) and losses[0] != losses[1]
    assert bench.work.weights(batch) == {"loss": 1.0} and float(term.weight) == 1


def test_cosines_learn_scores_scaled_to_1(make: Make) -> None:
    bench = laid_out(make(scored_rows(), {"task": {"loss": "cosine"}}))
    batch = bench.work.collate([bench.prepared.splits["train"].row(row) for row in range(8)])
    bench.parts["model"].module.eval()
    with torch.no_grad():
        vectors = bench.work.vectors(bench.parts, batch)  # type: ignore[attr-defined]
        cosines = functional.cosine_similarity(vectors[batch.targets["first"]], vectors[batch.targets["second"]])
        term = bench.work.losses(bench.parts, batch)["loss"]
    assert float(term.sum) == pytest.approx(float(((cosines - batch.targets["score"] / 5) ** 2).sum()), rel=1e-5)
    assert float(term.weight) == 8


def test_a_model_says_how_it_is_pooled(make: Make, tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    own = shutil.copytree(tiny_model, tmp_path / "own")
    (own / "1_Pooling").mkdir()
    modules = [
        {"idx": n, "path": p, "type": f"sentence_transformers.models.{t}"}
        for n, (p, t) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
    ]
    files.write_json(own / "modules.json", modules)
    files.write_json(own / "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    assert laid_out(make(scored_rows(), model=own)).work.describe()["pooling"] == "cls"
    assert laid_out(make(scored_rows(), {"task": {"pooling": "max"}}, model=own)).work.describe()["pooling"] == "max"


def test_long_texts_are_cut_and_counted(make: Make) -> None:
    rows = scored_rows()
    rows[0]["sentence2"] = "parcel " * 40
    bench = laid_out(make(rows, {"data.max_length": 16, "data.split": {"test": 0}}))
    assert bench.prepared.facts["tokens"]["truncated"] == {"train": 1}
    assert bench.prepared.splits["train"].longest_window_N.max() == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.gradient_accumulation_steps": 2}, "use training.step_rule=grad-cache"),
        ({"training.most_tokens_at_once": 512}, "training.most_tokens_at_once: task.loss compares"),
        ({"training.batch_size": "auto"}, "auto does not fit a loss in which the rows meet"),
        ({"data.long_texts": "windows"}, "data.long_texts: a text has one vector"),
        ({"loss": "focal"}, "losses are over classes, and sentence-similarity has none"),
        ({"task": {"loss": "cosentt"}}, "unknown pair loss 'cosentt'"),
        ({"task": {"loss": "multiple-negatives"}}, "task.loss: multiple-negatives takes the two texts of every row as belonging together"),
        ({"task": {"matryoshka": [64, 8]}}, "task.matryoshka: got 64, but the vectors of"),
        ({"task": {"matryoshka": [8, 8]}}, "matryoshka: got [8, 8], wanted different numbers"),
        ({"task": {"matryoshka": [8], "matryoshka_weights": [1, 2]}}, "got 2 weights for 1 widths"),
        ({"model.head": {"pooling": "mean"}}, "model.head: a text's vector is pooled from its tokens"),
        ({"task": {"loss": "cosine"}, "training.step_rule": "grad-cache"}, "training.step_rule: gathers rows that meet in the loss"),
        ({"training.step_rule": "grad-cache", "training.neftune": 5}, "training.neftune: draws other noise"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str, make: Make) -> None:
    with pytest.raises(ConfigError) as caught:
        laid_out(make(scored_rows(), changes))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda row: row.pop("score"), ConfigError, "cosent needs scores, and the training rows have none"),
        (lambda row: row.update(score=3), DataError, "have the score 3: there is nothing to learn"),
        (lambda row: row.update(score=row["score"] or None), DataError, "training rows have no score"),
        (lambda row: row.pop("sentence2"), DataError, "where: data.text_pair"),
    ],
    ids=["none", "equal", "some", "no pair"],
)
def test_rows_that_do_not_fit_are_told(change: Callable[[dict[str, Any]], object], kind: type[Exception], said: str, make: Make) -> None:
    rows = scored_rows()
    for row in rows:
        change(row)
    with pytest.raises(kind) as caught:
        laid_out(make(rows, {"task": {"loss": "cosent"}, "data.split": {"test": 0}}))
    assert said in str(caught.value)


def test_bad_rows_are_named(make: Make) -> None:
    rows = scored_rows()
    rows[3]["score"], rows[5]["sentence2"], rows[7]["score"] = "much", " ", float("inf")
    bench = laid_out(make(rows))
    reasons = [line["reason"] for line in files.read_json_lines(bench.prepared.quarantine)]
    assert sorted(reasons) == ["empty text_pair", "score of a wrong type (got 'much', wanted a number)", "the score is not finite"]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not STSB.is_dir(), reason="LUTHIER_DATA has no stsb")
def test_the_untuned_model_has_its_known_score(tmp_path: Path) -> None:
    for name in ("train", "test"):
        lines = (STSB / f"sts-{name}.csv").read_text(encoding="utf-8").splitlines()
        kept = ["\t".join(line.split("\t")[4:7]) for line in lines[: 64 if name == "train" else None]]
        (tmp_path / f"{name}.tsv").write_text("score\tsentence1\tsentence2\n" + "\n".join(kept) + "\n", encoding="utf-8")
    data = {"train": str(tmp_path / "train.tsv"), "test": str(tmp_path / "test.tsv")}
    changes = {"task": "sentence-similarity", "data": data, "output": str(tmp_path / "run"), "training": {"max_steps": 1}}
    run = flow.train({**changes, "model": {"path": "all-MiniLM-L6-v2"}, "track": {"trackers": []}})
    base = files.read_json(run.evaluation)["test"]["comparison"]["base"]
    assert base == pytest.approx(0.820, abs=0.001), "its score in the MTEB benchmark is 0.8203"
