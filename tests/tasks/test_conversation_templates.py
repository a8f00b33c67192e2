"""Templates of conversations: the same tokens in training and in writing, whole answers learnt, nothing that can do harm."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_talks import OWN, any_conversation, byte_tokenizer, talk_of

from luthier.core.errors import ConfigError
from luthier.data.conversation import Turn, read_turns
from luthier.tasks.text.talk import Talk
from luthier.tasks.text.template_safety import require_safe
from luthier.tasks.text.templates import choose_template

DATA = Path(os.environ["LUTHIER_DATA"]) if os.environ.get("LUTHIER_DATA") else None
NUM_CONVERSATIONS = 1000
CALLED: list[Turn] = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"x": 1}}}]},
    {"role": "tool", "content": "one"},
    {"role": "tool", "content": "two"},
    {"role": "assistant", "content": "a"},
]
TOOLS = [{"type": "function", "function": {"name": "find", "description": "d", "parameters": {}}}]


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
