"""Conversations as files hold them (OpenAI, ShareGPT, Alpaca with history), read into one form and checked turn by turn.

The form is OpenAI's: turns with `role` (system, user, assistant, tool), `content`, perhaps `tool_calls` and `reasoning_content`;
`learn: False` stands in an answer that is not to be learnt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias

from luthier.data.clean import mark_surrogates
from luthier.data.reading import UNDECODABLE, RowFault

Turn: TypeAlias = dict[str, Any]
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
MAY_FOLLOW = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
KEPT = ("name", "tool_call_id")


def read_turns(given: Any, *, answered: bool = True) -> list[Turn]:
    """Return the turns of a conversation in one form.

    Args:
        given: A list of turns, `{role, content}` or `{from, value}`; or such a list as JSON.
        answered: Whether it must end with an answer; otherwise it must wait for one, and a last answer is left out.

    Raises:
        RowFault: if it cannot be used, with the turn (from 1) and what to change.
    """
    given = _parsed(given) if isinstance(given, str) else given
    if not isinstance(given, list | tuple):
        raise RowFault(f"not a conversation (got {type(given).__name__}, wanted a list of turns)")
    if not given:
        raise RowFault("empty conversation (it has no turns; leave the row out)")
    turns = [_turn(one, number) for number, one in enumerate(given, 1)]
    _require_order(turns)
    last = turns[-1]["role"]
    if answered and last != "assistant":
        fix = "end it with the assistant's answer, or leave the turn out"
        raise RowFault(f"conversation without an answer at its end (turn {len(turns)} is the {last}'s; {fix})")
    if not answered and last == "assistant":
        turns = turns[:-1]
    if not answered and (not turns or turns[-1]["role"] == "system"):
        raise RowFault("nothing to be answered (add a turn of the user)")
    if answered and not any(turn.get("learn", True) for turn in turns if turn["role"] == "assistant"):
        raise RowFault("nothing to learn (every answer has weight 0; give one of them weight 1)")
    return turns


def of_instruction(prompt: str, given: str, answer: str | None, *, history: Any = None, system: Any = None) -> list[Turn]:
    """Return an instruction row with its history as turns.

    Args:
        prompt: The prompt.
        given: What it is about; may be empty.
        answer: The answer; None where it is wanted.
        history: Pairs of an earlier prompt and its answer.
        system: What the system says.

    Raises:
        RowFault: if the history is not made of pairs.
    """
    pairs = _parsed(history) if isinstance(history, str) and history.strip() else history or ()
    turns = [{"role": "system", "content": system}] if system else []
    for number, pair in enumerate(pairs, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowFault(f"history of a wrong form (pair {number} is no list of a prompt and its answer)")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    turns.append({"role": "user", "content": f"{prompt}\n{given}" if given else prompt})
    return turns if answer is None else [*turns, {"role": "assistant", "content": answer}]


def read_tools(given: Any) -> list[Mapping[str, Any]]:
    """Return the tools of a conversation, each as OpenAI writes it; none where there are none.

    Args:
        given: A list of tools, or such a list as JSON.

    Raises:
        RowFault: if it is something else.
    """
    given = _parsed(given) if isinstance(given, str) and given.strip() else given
    if not given:
        return []
    if not isinstance(given, list | tuple) or not all(isinstance(tool, Mapping) for tool in given):
        raise RowFault("tools of a wrong form (wanted a list of objects with name, description and parameters)")
    return [tool if isinstance(tool.get("function"), Mapping) else {"type": "function", "function": dict(tool)} for tool in given]


def asked_of(turns: Sequence[Turn]) -> str:
    """Return all that is said to the model, as one text: what tells a conversation from another when rows are held apart."""
    return "\n".join(turn["content"] for turn in turns if turn["role"] != "assistant")


def _turn(one: Any, number: int) -> Turn:
    if not isinstance(one, Mapping):
        raise RowFault(f"turn of a wrong form (turn {number} is {type(one).__name__}, wanted an object with role and content)")
    named = one.get("role") if one.get("role") is not None else one.get("from")
    if not isinstance(named, str):
        raise RowFault(f"turn without a role (turn {number} has {', '.join(map(repr, one)) or 'nothing'}; give it role and content)")
    role = ROLES.get(named.strip().lower())
    if role is None:
        raise RowFault(f"unknown role (turn {number} is {named!r}; wanted system, user, assistant or tool)")
    content = one.get("content") if one.get("content") is not None else one.get("value")
    turn: Turn = {"role": role, **{key: one[key] for key in KEPT if one.get(key) is not None}}
    calls = list(_calls(one.get("tool_calls") or (), number))
    if named.strip().lower() == "function_call":
        calls, content = [*calls, *_calls(content, number)], ""
    text, reasoning, more = _content(content, number)
    turn["content"] = text
    calls += more
    if not text.strip() and not calls and role != "tool":
        raise RowFault(f"empty turn (turn {number} of the {role} has no content; give it one, or leave the turn out)")
    if calls and role != "assistant":
        raise RowFault(f"tool call outside an answer (turn {number} is the {role}'s; give it the role assistant)")
    return turn | _of_answers(one, number, calls, reasoning or one.get("reasoning_content"))


def _of_answers(one: Mapping[str, Any], number: int, calls: list[Any], reasoning: Any) -> Turn:
    found: Turn = {"tool_calls": calls} if calls else {}
    if reasoning:
        found["reasoning_content"] = _readable(reasoning, number)
    weight = next((one[key] for key in ("weight", "loss_weight") if one.get(key) is not None), 1)
    if weight not in (0, 1):
        raise RowFault(f"weight of a wrong size (turn {number} has {weight!r}, wanted 0 or 1)")
    return found if weight else {**found, "learn": False}


def _content(content: Any, number: int) -> tuple[str, str, list[Any]]:
    """Return text, reasoning and tool calls of a turn's content: a text, or a list of parts."""
    if content is None:
        return "", "", []
    if isinstance(content, str):
        return _readable(content, number), "", []
    if not isinstance(content, list | tuple):
        raise RowFault(f"content of a wrong type (turn {number} has {type(content).__name__}, wanted text)")
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        value = next((part[key] for key in ("text", "value") if part.get(key) is not None), None) if isinstance(part, Mapping) else None
        if kind == "tool_call":
            calls += _calls(value, number)
        elif kind in texts and value is not None:
            texts[kind].append(_readable(value, number))
        else:
            raise RowFault(f"part that is no text (turn {number} has a part of type {kind!r}; leave it out)")
    return "".join(texts["text"]), "".join(texts["reasoning"]), calls


def _calls(given: Any, number: int) -> Iterator[Turn]:
    """Yield tool calls as OpenAI writes them, the arguments as an object where they are one."""
    given = _parsed(given) if isinstance(given, str) else given
    for call in given if isinstance(given, list | tuple) else [given]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowFault(f"tool call of a wrong form (turn {number}; wanted an object with name and arguments)")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                raise RowFault(f"tool call of a wrong form (the arguments of turn {number} are no JSON)") from None
        plain = {"name": function["name"], "arguments": {} if arguments is None else arguments}
        yield {"type": "function", **({"id": call["id"]} if call.get("id") else {}), "function": plain}


def _require_order(turns: Sequence[Turn]) -> None:
    before: str | None = None
    for number, turn in enumerate(turns, 1):
        if turn["role"] not in MAY_FOLLOW[before]:
            _refuse(before, turn["role"], number)
        before = turn["role"]


def _refuse(before: str | None, role: str, number: int) -> NoReturn:
    if role == before:
        raise RowFault(f"two turns of the {role} in a row (turns {number - 1} and {number}; join them, or put the other's turn between)")
    if role == "system":
        raise RowFault(f"system turn inside a conversation (turn {number}; put it first)")
    if before in (None, "system"):
        raise RowFault(f"conversation that begins with the {role} (turn {number}; begin with the user)")
    if role == "user":
        raise RowFault(f"tool result without an answer (turn {number} is the user's; put the assistant's answer before it)")
    raise RowFault(f"tool result that nothing asked for (turn {number} follows the {before}; put the assistant's tool call before it)")


def _readable(text: Any, number: int) -> str:
    if not isinstance(text, str):
        raise RowFault(f"content of a wrong type (turn {number} has {type(text).__name__}, wanted text)")
    marked = mark_surrogates(text)
    if UNDECODABLE in marked:
        raise RowFault(f"undecodable bytes (turn {number})")
    return marked


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowFault("conversation that is no JSON (wanted a list of turns, or of tools, calls or pairs in it)") from None
