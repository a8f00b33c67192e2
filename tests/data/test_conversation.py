"""Conversations of every form are read into one; what is wrong with a turn is said with its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data.conversation import asked_of, read_tools, read_turns
from luthier.data.dialogues import dialogues_in, load_dialogues, spoken_in
from luthier.data.reading import RowFault
from luthier.data.section import DataSection, Split

ASKED = {"role": "user", "content": "Name a colour."}
TOLD = {"role": "assistant", "content": "Red."}
CALL = {"name": "look_up", "arguments": {"word": "red"}}


def as_messages(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_both_forms_are_one() -> None:
    openai = as_messages(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
    sharegpt = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert read_turns(openai) == read_turns(sharegpt) == read_turns(json.dumps(openai)) == openai
    assert asked_of(read_turns(openai)) == "Be brief.\nHi"


def test_tool_calls_of_both_forms_are_one() -> None:
    openai = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {**CALL, "arguments": '{"word": "red"}'}}]},
        {"role": "tool", "content": "a colour"},
        TOLD,
    ]
    sharegpt = [
        {"from": "human", "value": "Name a colour."},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "a colour"},
        {"from": "gpt", "value": "Red."},
    ]
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
        {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
        {"role": "tool", "content": [{"type": "text", "value": "a colour"}]},
        {"role": "assistant", "content": [{"type": "text", "value": "Red."}]},
    ]
    assert read_turns(openai) == read_turns(sharegpt) == read_turns(parts)
    assert read_turns(openai)[1] == {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
    tools = [{"name": "look_up", "description": "", "parameters": {}}]
    assert read_tools(json.dumps(tools)) == read_tools([{"type": "function", "function": tools[0]}])


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "empty conversation"),
        ("Name a colour.", "conversation that is no JSON"),
        ({"role": "user"}, "not a conversation .*got dict"),
        ([ASKED, "Red."], "turn of a wrong form .*turn 2"),
        ([ASKED, {"content": "Red."}], "turn without a role .*turn 2"),
        ([ASKED, {"role": "bot", "content": "Red."}], "unknown role .*turn 2 is 'bot'"),
        ([ASKED, ASKED, TOLD], "two turns of the user in a row .*turns 1 and 2"),
        ([ASKED, TOLD, TOLD], "two turns of the assistant in a row .*turns 2 and 3"),
        ([ASKED, TOLD, ASKED], "without an answer at its end .*turn 3"),
        ([TOLD, ASKED, TOLD], "begins with the assistant .*turn 1"),
        ([ASKED, {"role": "system", "content": "x"}, TOLD], "system turn inside .*turn 2"),
        ([ASKED, {"role": "assistant", "content": "  "}], "empty turn .*turn 2"),
        ([ASKED, {"role": "assistant", "content": 7}], "content of a wrong type .*turn 2"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, TOLD], "part that is no text .*turn 1.*image_url"),
        ([ASKED, {"role": "tool", "content": "x"}, TOLD], "tool result that nothing asked for .*turn 2"),
        ([ASKED, {"from": "function_call", "value": "look_up(red)"}, TOLD], "no JSON"),
        ([ASKED, {"role": "assistant", "content": "", "tool_calls": [{"name": 3}]}, TOLD], "tool call of a wrong form .*turn 2"),
        ([ASKED, TOLD | {"weight": 0.5}], "weight of a wrong size .*turn 2"),
        ([ASKED, TOLD | {"weight": 0}], "nothing to learn"),
        ([ASKED, {"role": "assistant", "content": "\udcff"}], "undecodable bytes .*turn 2"),
    ],
)
def test_a_wrong_turn_is_named(turns: Any, said: str) -> None:
    with pytest.raises(RowFault, match=said):
        read_turns(turns)


def test_while_predicting_a_last_answer_is_left_out() -> None:
    assert read_turns([ASKED, TOLD], answered=False) == [ASKED]
    with pytest.raises(RowFault, match="nothing to be answered"):
        read_turns([{"role": "system", "content": "x"}], answered=False)


def test_a_text_is_a_conversation_only_where_it_looks_like_one() -> None:
    assert spoken_in(json.dumps([ASKED])) == ([ASKED], [])
    assert spoken_in(json.dumps({"messages": [ASKED, TOLD], "tools": None})) == ([ASKED], [])
    for text in ("[1, 2]", "{}", '[{"a": 1}]', "[a list", "Name a colour."):
        assert spoken_in(text) is None


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_columns_are_found_and_bad_rows_named(column: str, tmp_path: Path) -> None:
    rows = [{column: [{**ASKED, "content": f"Name colour {number}."}, TOLD]} for number in range(30)] + [{column: []}]
    section = DataSection(train=write(tmp_path / "rows.jsonl", rows), split=Split(test=0.2))
    dialogues, said = dialogues_in(section)
    assert dialogues is not None and f"messages = column '{column}'" in said[0]
    read = load_dialogues(section, dialogues)
    assert {name: table.num_rows for name, table in read.splits.items()} == {"train": 24, "test": 6}
    assert [(bad.row, bad.kind) for bad in read.bad] == [(31, "empty conversation")]
    assert json.loads(read.splits["train"]["record"][0].as_py())["turns"][1] == TOLD


def test_instruction_rows_with_a_history_are_conversations(tmp_path: Path) -> None:
    row = {"system": "Be brief.", "history": [["Hi", "Hello"]], "instruction": "Name one", "input": "of the colours", "output": "Red."}
    section = DataSection(train=write(tmp_path / "rows.jsonl", [{**row, "instruction": f"Name {number}"} for number in range(9)]))
    dialogues, _ = dialogues_in(section)
    assert dialogues is not None
    turns = dialogues.read(row)["turns"]
    asked = "Name one\nof the colours"
    assert turns == as_messages(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", asked), ("assistant", "Red."))
    assert dialogues.read(row, answered=False)["turns"] == turns[:-1]
    with pytest.raises(RowFault, match="history of a wrong form .*pair 1"):
        dialogues.read({**row, "history": [["Hi"]]})
    with pytest.raises(RowFault, match="empty turn .*turn 5"):
        dialogues.read({**row, "output": ""})


def test_plain_instructions_are_none(tmp_path: Path) -> None:
    section = DataSection(train=write(tmp_path / "rows.jsonl", [{"instruction": "Name one", "input": "", "output": "Red."}] * 3))
    assert dialogues_in(section) == (None, [])
