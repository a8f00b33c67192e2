"""Conversations: the same tokens in training and in writing, whole answers learnt with their ends, templates that cannot do harm."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benches import bench_of
from tiny_decoder import make_tiny_decoder, tiny_instructions, writing_recipe

from luthier import flow
from luthier.core import files
from luthier.core.errors import ConfigError, DataError
from luthier.data.conversation import Turn, read_turns
from luthier.data.stream import stream_lines, stream_rows
from luthier.recipe import resolve
from luthier.serve.predictor import Predictor
from luthier.stages.predict import answered_rows, section_of
from luthier.tasks.text.talk import Talk
from luthier.tasks.text.template_safety import require_safe
from luthier.tasks.text.templates import choose_template
from luthier.training.inference import measuring

DATA = Path(os.environ["LUTHIER_DATA"]) if os.environ.get("LUTHIER_DATA") else None
NUM_CONVERSATIONS = 1000
MARKS = ("<s>", "</s>", "<|im_end|>", "<|im_start|>system", "<|eot_id|>", "### Assistant:\n", "\n\n", "  ", "<pad>")
ALPHABETS = ("abc defg", "äöüß", "中文，。", "עברית", "🙂👩‍👩‍👧", "\t\n ", "ก็ทำ", "e\u0301\u200b", "0123 -+{}%")
OWN = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
FORGETFUL = (  # leaves out the reasoning of answers that are not the last, as some do
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% if m.reasoning_content and loop.last %}({{ m.reasoning_content }}){% endif %}"
    "{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOOLED = (
    "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CALLED: list[Turn] = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"x": 1}}}]},
    {"role": "tool", "content": "one"},
    {"role": "tool", "content": "two"},
    {"role": "assistant", "content": "a"},
]
TOOLS = [{"type": "function", "function": {"name": "find", "description": "d", "parameters": {}}}]


def byte_tokenizer(*, pad_is_end: bool = False, template: str | None = None) -> Any:
    """A byte-level tokenizer, to which no text is unknown; it begins every text with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["the assistant and the user said\n\nthe the"] * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>" if pad_is_end else "<pad>", model_max_length=4096
    )
    made.chat_template = template
    return made


def any_text(dice: random.Random) -> str:
    """A text of any script, often with what would be a mark of a template, never empty."""
    parts = []
    for _ in range(dice.randint(1, 4)):
        alphabet = dice.choice(ALPHABETS)
        parts.append(dice.choice(MARKS) if dice.random() < 0.15 else "".join(dice.choices(alphabet, k=dice.randint(1, 12))))
    text = "".join(parts)
    return text if text.strip() else f"x{text}"


def any_conversation(dice: random.Random, *, reasons: bool = False) -> list[Turn]:
    turns: list[Turn] = [{"role": "system", "content": any_text(dice)}] if dice.random() < 0.3 else []
    for _ in range(dice.randint(1, 5)):
        turns.append({"role": "user", "content": any_text(dice)})
        if dice.random() < 0.15:
            call = {"type": "function", "function": {"name": "find", "arguments": {"x": any_text(dice)}}}
            turns += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": any_text(dice)}]
        turns.append({"role": "assistant", "content": any_text(dice)})
        if reasons and dice.random() < 0.5:
            turns[-1]["reasoning_content"] = any_text(dice)
    return read_turns(turns)


def talk_of(name: str) -> Talk:
    own = {"own": OWN, "forgetful": FORGETFUL, "tooled": TOOLED, "pad is end": OWN}
    tokenizer = byte_tokenizer(pad_is_end=name == "pad is end", template=own.get(name))
    wanted = "chat" if name in own else name.removesuffix(" in plain text")
    talk = Talk.of(tokenizer, choose_template(wanted, tokenizer, turns=True, extend="plain text" not in name).template)
    assert talk is not None
    return talk


@pytest.mark.parametrize(
    "name", ["chatml", "llama3", "plain", "alpaca", "own", "pad is end", "tooled", "forgetful", "chatml in plain text"]
)
def test_training_and_writing_read_the_same(name: str) -> None:
    """1,000 conversations: the same tokens before each answer, one beginning of text, each answer learnt whole with its end."""
    talk, dice = talk_of(name), random.Random(name)
    tokenizer = talk.tokenizer
    num_answers = num_rows = 0
    for _ in range(NUM_CONVERSATIONS):
        turns = any_conversation(dice, reasons=name == "forgetful")
        answers = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
        rows = talk.encoded(talk.learnt(turns))
        found = [(row.tokens, start, end) for row in rows for start, end in row.stretches]
        assert len(found) == len(answers)
        for place, (tokens, start, end) in zip(answers, found, strict=True):
            assert tokens[:start].tolist() == talk.asked(turns[:place]).tolist()
            assert tokens[:end].tolist().count(tokenizer.bos_token_id) == 1 and tokens[0] == tokenizer.bos_token_id
            assert tokens[end - 1] == talk.end and talk.end not in tokens[start : end - 1]
            if "tool_calls" not in turns[place] and "reasoning_content" not in turns[place]:
                assert tokenizer.decode(tokens[start : end - 1]) == turns[place]["content"]
        num_answers, num_rows = num_answers + len(answers), num_rows + len(rows)
    assert num_answers > 2 * NUM_CONVERSATIONS
    assert (num_rows > NUM_CONVERSATIONS) == (name == "forgetful"), "only a template that changes earlier turns makes several rows of one"


def test_a_template_that_changes_earlier_turns_is_found() -> None:
    talk = talk_of("forgetful")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "why"}]
    turns += [{"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]
    rows = talk.encoded(talk.learnt(turns))
    assert [talk.tokenizer.decode(row.tokens) for row in rows] == [
        "<s>[user]q</s>[assistant](why)a</s>",
        "<s>[user]q</s>[assistant]a</s>[user]r</s>[assistant]b</s>",
    ]
    assert [len(row.stretches) for row in rows] == [1, 1]
    assert len(talk.learnt(turns[:2])) == 1 and len(talk.learnt(turns, last=True)) == 1


def test_tools_are_put_by_the_template_or_in_plain_form() -> None:
    own, plain = talk_of("tooled"), talk_of("plain")
    text = own.tokenizer.decode(own.encoded(own.learnt(CALLED, TOOLS))[0].tokens)
    assert own.takes_tools and '[assistant]{"name": "find", "arguments": {"x": 1}}</s>[tool]one</s>[tool]two</s>[assistant]a</s>' in text
    assert not plain.takes_tools
    text = plain.tokenizer.decode(plain.encoded(plain.learnt(CALLED, TOOLS))[0].tokens)
    for part in ("### System:\nYou may call these tools:\n", '"description": "d"', "### Assistant:\n<tool_call>\n", "</tool_call></s>"):
        assert part in text
    assert "### User:\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response>\n\n### Assistant:\na</s>" in text


def test_what_a_template_leaves_out_is_put_into_the_contents() -> None:
    tokenizer = byte_tokenizer(template=OWN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"))
    talk = Talk.of(tokenizer, "chat")
    assert talk is not None and not talk.takes_system and not talk.takes_reasoning
    turns = [{"role": "system", "content": "t"}, {"role": "user", "content": "q"}]
    answer = {"role": "assistant", "content": "a", "reasoning_content": "why"}
    text = tokenizer.decode(talk.encoded(talk.learnt([*turns, answer]))[0].tokens)
    assert text == "<s>[user] t\n\nq[assistant] <think>\nwhy\n</think>\n\na</s>"


def test_answers_that_are_not_to_be_learnt_are_read_only() -> None:
    talk = talk_of("plain")
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]
    turns = read_turns([*turns, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}])
    row = talk.encoded(talk.learnt(turns))[0]
    assert [talk.tokenizer.decode(row.tokens[start:end]) for start, end in row.stretches] == ["b</s>"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "does not come to an end within 1 s"),
        ("{% if messages | length > 30 %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}", "1 s"),
        ("{% if tools %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}", "within 1 s"),
        ("{{ cycler.__init__.__globals__.os.system('touch {mark}') }}", "calls what it must not"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "calls what it must not"),
        ("{% set x = 'a' * 9999999999 %}{{ x | length }}", "gigabyte"),
        ("{{ messages[0].content.nothing.there }}", "cannot be rendered"),
        ("{% for m in messages %}", "cannot be rendered"),
    ],
    ids=["loops", "loops on long ones", "loops on tools", "calls", "looks about", "memory", "fails", "is broken"],
)
def test_a_template_that_does_harm_is_stopped(template: str, said: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(template=template.replace("{mark}", str(tmp_path / "was-here")))
    require_safe(byte_tokenizer(template=OWN))
    began = time.monotonic()
    with pytest.raises(ConfigError, match=said) as caught:
        require_safe(tokenizer)
    assert time.monotonic() - began < 15 and "task.template" in str(caught.value)
    assert not (tmp_path / "was-here").exists()


def test_an_unknown_template_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="Known: auto, chat, alpaca, chatml"):
        choose_template("chatmll", byte_tokenizer())
    with pytest.raises(ConfigError, match="puts one prompt, and the rows are conversations"):
        choose_template("Q: {prompt} A: ", byte_tokenizer(), turns=True)
    with pytest.raises(ConfigError, match="no chat template"):
        choose_template("chat", byte_tokenizer())


def tiny_conversations(num_rows: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Two prompts of `tiny_instructions` after one another, with their answers."""
    rows = tiny_instructions(2 * num_rows, seed=seed)
    asked = [{"role": "user", "content": f"{row['instruction']} {row['input']}"} for row in rows]
    told = [{"role": "assistant", "content": row["output"]} for row in rows]
    return [{"messages": [asked[i], told[i], asked[i + 1], told[i + 1]]} for i in range(0, 2 * num_rows, 2)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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


@pytest.mark.real
@pytest.mark.skipif(DATA is None, reason="LUTHIER_DATA names no folder")
@pytest.mark.parametrize("name", ["glaive_toolcall_en_demo.json", "v1_sft_demo.jsonl", "reason_tool_use_demo_50.jsonl"])
def test_real_conversations_are_read(name: str) -> None:
    assert DATA is not None
    talk, records = talk_of("plain"), _rows_of(DATA / "instruct_demo" / name)
    assert len(records) > 45
    for record in records:
        rows = talk.encoded(talk.learnt(record["turns"], record.get("tools", ())))
        assert sum(len(row.stretches) for row in rows) == sum(turn["role"] == "assistant" for turn in record["turns"])


def _rows_of(file: Path) -> list[dict[str, Any]]:
    from luthier.data.dialogues import dialogues_in, load_dialogues
    from luthier.data.section import DataSection, Split

    section = DataSection(train=str(file), split=Split(test=0.0))
    dialogues, _ = dialogues_in(section)
    assert dialogues is not None
    rows = load_dialogues(section, dialogues)
    assert not rows.bad
    return [json.loads(record) for record in rows.splits["train"]["record"].to_pylist()]


def test_nothing_else_is_compared_than_what_is_learnt() -> None:
    from luthier.tasks.text.generation_layout import learnt_places

    assert learnt_places(np.int64(3), 6).tolist() == [3, 4, 5] and learnt_places(np.int64(0), 3).tolist() == [1, 2]
    assert learnt_places(np.array([2, 4, 5, 6]), 8).tolist() == [2, 3, 5] and learnt_places(np.array([2, 4]), 4, True).tolist() == [1, 2, 3]
