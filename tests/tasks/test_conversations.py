"""Runs on conversations: every answer learnt with its end, marks kept in the vocabulary, answers written in every manner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches import bench_of
from tiny_decoder import make_tiny_decoder, tiny_instructions, writing_recipe
from tiny_talks import tiny_conversations, write

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.data.stream import stream_lines, stream_rows
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.asking.predict import answered_rows, section_of
from luthier.training.inference import measuring


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("rows") / "talks.jsonl", tiny_conversations(100))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_decoder(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def made(decoder: Path, conversations: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(changes: dict[str, Any] | None = None, rows: Path = conversations) -> dict[str, Any]:
        return writing_recipe(decoder, rows, tmp_path / "run", changes)

    return make


def test_every_answer_is_learnt_and_nothing_else(made: Callable[..., dict[str, Any]]) -> None:
    laid = bench_of(made())
    split, tokenizer = laid.prepared.splits["train"], laid.work.tokenizer
    assert laid.prepared.facts["tokens"]["template"] == "chat" and "### " in tokenizer.chat_template
    for index in range(10):
        row = split.row(index)
        batch = laid.work.collate([row])
        learnt = tokenizer.decode(batch.targets["tokens"].tolist())
        said = split.texts([index])[0].split("\n")
        assert learnt.count("</s>") == 2 == len(row.target) // 2
        assert all(word in learnt for word in said[0].split()[1:])
        assert laid.work.weights(batch) == {"loss": float(len(batch.targets["tokens"]))}
        places = batch.targets["at"].numpy() + 1
        assert batch.inputs["input_ids"][0, places].tolist() == batch.targets["tokens"].tolist()
        assert laid.work.opening(row).windows[0].tolist() == row.windows[0][: row.target[-2]].tolist()
    one = bench_of(made({"task.learn": "last-answer"})).prepared.splits["train"].row(0)
    assert len(one.target) == 2 and one.target.tolist() == split.row(0).target[-2:].tolist()


@pytest.mark.parametrize("packing", [True, False])
def test_the_loss_is_that_of_plain_transformers(packing: bool, made: Callable[..., dict[str, Any]]) -> None:
    laid = bench_of(made({"data.packing": packing}))
    split, model = laid.prepared.splits["test"], laid.parts["model"].module.model
    rows = [split.row(index) for index in range(6)]
    with measuring(laid.parts):
        found = laid.work.outputs(laid.parts, laid.work.collate(rows))
        for index, row in enumerate(rows):
            ids = torch.tensor(row.windows[0], dtype=torch.int64)[None]
            labels = torch.full_like(ids, -100)
            for start, end in row.target.reshape(-1, 2):
                labels[:, start:end] = ids[:, start:end]
            own = float(model(input_ids=ids, labels=labels).loss)
            assert found.nats_B[index] / found.tokens_B[index] == pytest.approx(own, abs=1e-5)


def test_long_conversations_keep_whole_answers_and_are_counted(made: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    turns = [turn for row in tiny_conversations(12) for turn in row["messages"]]
    long = {"messages": [{"role": "user", "content": "say sun " * 60}, {"role": "assistant", "content": "sun"}]}
    rows = [{"messages": turns}, *tiny_conversations(100, seed=5), long]
    resolved = resolve(made({"data.split": {"test": 0}}, write(tmp_path / "rows.jsonl", rows)))
    prepared = flow.prepare(resolved)
    longest = max((prepared.splits["train"].row(index) for index in range(len(prepared.splits["train"]))), key=lambda row: len(row.target))
    assert len(longest.target) > 4 and longest.target[-1] == len(longest.windows[0]) <= 96 and longest.windows[0][-1] == 2
    notes = " ".join(prepared.facts["notes"])
    assert "1 conversations are longer than 96 tokens" in notes and "1 conversations left out: no room for the answer 1" in notes
    assert [line["row"] for line in files.read_json_lines(prepared.quarantine)] == [102]


def test_bad_conversations_are_named_with_row_and_turn(made: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [*tiny_conversations(5), {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}]
    with pytest.raises(DataError, match=r"two turns of the user in a row: 1\)") as caught:
        flow.prepare(resolve(made(rows=write(tmp_path / "rows.jsonl", rows))))
    assert "row 6" in str(caught.value) and "turns 1 and 2; join them" in str(caught.value)


@pytest.fixture(scope="module")
def run(decoder: Path, conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with marks of its own in the vocabulary."""
    output = tmp_path_factory.mktemp("runs") / "run"
    changes = {"task.template": "chatml", "training.max_steps": 120, "training.batch_size": 16, "data.split": {"test": 0.2}}
    return flow.train(writing_recipe(decoder, conversations, output, changes)).path


def test_marks_are_added_and_said(run: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    notes = " ".join(files.read_json(run / "data.json")["notes"])
    assert "2 tokens were added to the vocabulary (<|im_start|>, <|im_end|>)" in notes
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    assert len(tokenizer) == model.config.vocab_size == model.get_output_embeddings().weight.shape[0]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in model.generation_config.eos_token_id and "<|im_start|>" in tokenizer.chat_template
    told = tokenizer.apply_chat_template([{"role": "user", "content": "say sun"}], add_generation_prompt=True, return_dict=False)
    predictor = Predictor.open(run)
    assert told == predictor.work.prompt_tokens(["say sun"])[0].tolist()
    scores = files.read_json(run / "evaluation.json")["test"]
    assert scores["comparison"]["verdict"] == "better"


def test_predict_goes_on_with_a_conversation(run: Path) -> None:
    predictor: Any = Predictor.open(run)
    turns = [{"role": "user", "content": "say sun"}, {"role": "assistant", "content": "sun"}, {"role": "user", "content": "say moon"}]
    tokens = predictor.work.prompt_tokens([json.dumps(turns), "say moon"])
    assert predictor.work.tokenizer.decode(tokens[0]).count("<|im_end|>") == 3 and len(tokens[1]) < len(tokens[0])
    lines = files.read_json_lines(run / "reference.jsonl")
    row_tokens = {tuple(line["tokens"]) for line in lines}
    assert all(tokens[-2:] == tokens_of(predictor, "assistant") for tokens in map(list, row_tokens))
    answers = [answer.label for answer in predictor.answer([json.dumps(turns), "say moon"])]
    assert all(isinstance(answer, str) and answer for answer in answers)


@pytest.mark.parametrize("stream", [False, True], ids=["file", "standard input"])
def test_predict_reads_conversations_and_prompts(stream: bool, run: Path, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [*tiny_conversations(3, seed=9), {"messages": [{"role": "bot", "content": "x"}]}]
    asked.append({"messages": asked[0]["messages"][:3]})
    plain = [{"text": "say sun"}, {"text": "say moon"}]
    predictor, section = Predictor.open(run), section_of(run)
    for rows, num_turns in ((asked, [3, 3, 3, 3]), (plain, [])):
        file, bad = write(tmp_path / "rows.jsonl", rows), []
        given = stream_lines(file.open("rb"), section, bad=bad) if stream else stream_rows(str(file), section, bad=bad)
        answers = [answer for table in given for answer in answered_rows(predictor, table)]
        assert [len(json.loads(answer["text"])["messages"]) for answer in answers if "messages" in answer["text"]] == num_turns
        assert len(answers) == (4 if num_turns else 2) and all(isinstance(answer["label"], str) for answer in answers)
        assert [one.reason.partition(" (")[0] for one in bad] == (["unknown role"] if num_turns else [])
        if num_turns:
            assert [answer["row"] for answer in answers] == [1, 2, 3, 5] and answers[0]["label"] == answers[3]["label"]


def tokens_of(predictor: Any, role: str) -> list[int]:
    """What asks for an answer, its beginning mark and the role; the tokenizer of words drops line ends."""
    tokenizer = predictor.work.tokenizer
    return [tokenizer.convert_tokens_to_ids("<|im_start|>"), tokenizer.convert_tokens_to_ids(role) or tokenizer.unk_token_id]


def test_a_prompt_run_refuses_conversations(made: Callable[..., dict[str, Any]], conversations: Path, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", tiny_instructions(60))
    laid: Any = bench_of(made({"task.template": "Do {prompt} {input} now"}, rows))
    with pytest.raises(DataError, match="answers prompts that stand alone"):
        laid.work.prompt_tokens(['[{"role": "user", "content": "say"}]'])
    from luthier.data.section import DataSection

    with pytest.raises(DataError, match="trained on prompts that stand alone"):
        laid.work.read_rows(DataSection(test=str(conversations)))


def test_an_adapter_keeps_the_vocabulary(made: Callable[..., dict[str, Any]]) -> None:
    lora = {"adapter": {"type": "lora", "r": 2}, "task.template": "chatml"}
    with pytest.raises(ConfigError, match="adapter leaves the vocabulary as it is.*marks"):
        bench_of(made(lora))
    laid = bench_of(made({**lora, "model.extend_vocabulary": False}))
    assert "its marks are plain text" in " ".join(laid.prepared.facts["notes"])
    row = laid.prepared.splits["train"].row(0)
    assert row.windows[0][row.target[1] - 1] == laid.work.tokenizer.eos_token_id


@pytest.mark.parametrize(
    "manner",
    [
        {"num_beams": 3},
        {"temperature": 1.0, "top_k": 3, "min_p": 0.1},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"choices": ["sun", "moon", "red sun"]},
        {"choices": ["sun", "moon", "red sun"], "num_beams": 2},
    ],
    ids=lambda manner: "+".join(manner),
)
def test_answers_are_written_in_every_manner(manner: dict[str, Any], run: Path) -> None:
    texts = ["say sun", "repeat red sun moon tree", "twice red red red blue"]
    predictor = Predictor.open(run).writing(**manner)
    torch.manual_seed(0)
    answers = [answer.label for answer in predictor.answer(texts)]
    assert len(answers) == 3
    if "choices" in manner:
        assert set(answers) <= {"sun", "moon", "red sun"}
    if "no_repeat_ngram_size" in manner:
        for answer in answers:
            pairs = list(zip(answer.split(), answer.split()[1:], strict=False))
            assert len(pairs) == len(set(pairs))
    if "temperature" not in manner:
        alone = [next(iter(predictor.answer([text]))).label for text in texts]
        assert answers == alone, "an answer does not depend on those beside it"


def test_nothing_else_is_compared_than_what_is_learnt() -> None:
    from luthier.tasks.text.generation_layout import learnt_places

    assert learnt_places(np.int64(3), 6).tolist() == [3, 4, 5] and learnt_places(np.int64(0), 3).tolist() == [1, 2]
    assert learnt_places(np.array([2, 4, 5, 6]), 8).tolist() == [2, 3, 5] and learnt_places(np.array([2, 4]), 4, True).tolist() == [1, 2, 3]
