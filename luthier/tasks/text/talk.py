"""Conversations as tokens: rendered turn by turn with a chat template, so that it is known, not guessed, which tokens are answers.

What the model reads before an answer is the same in training and in writing, because both lay it out by `Talk`: a piece that asks
for an answer, the answer with its end, the next piece; each piece is encoded by itself. A template that changes earlier turns once
later ones follow (some leave out old reasoning) begins anew there: the answer then is learnt after what the model would be shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from luthier.data.conversation import Turn
from luthier.data.reading import RowFault
from luthier.tasks.text.template_safety import PLAIN, TOOL, WITH_REASONING, WITH_SYSTEM, WITH_TOOL, chat_template, require_safe
from luthier.tasks.text.templates import ALPACA_TURNS

Tools = Sequence[Mapping[str, Any]]
TOLD_OF_TOOLS = "You may call these tools:\n{tools}\nTo call one, answer with\n<tool_call>\n{call}\n</tool_call>"
EXAMPLE_CALL = '{"name": ..., "arguments": {...}}'


@dataclass(frozen=True)
class Piece:
    """A part of a conversation that is encoded by itself.

    Args:
        text: As the template writes it.
        learnt: Whether it is an answer that is learnt.
        ends: Whether the end of text is put after it, where the template marks no end of an answer.
        opens: Whether it is encoded with what the tokenizer puts before a text.
    """

    text: str
    learnt: bool = False
    ends: bool = False
    opens: bool = False


@dataclass(frozen=True)
class Laid:
    """A conversation, or a part of one, as the model reads it: its tokens, and where answers that are learnt begin and end."""

    tokens: np.ndarray
    stretches: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Talk:
    """How conversations are put to a model.

    Args:
        tokenizer: A fast tokenizer that knows an end of text.
        template: A chat template, which must be safe.
        opens: Whether the tokenizer, not the template, writes the beginning of text.
    """

    tokenizer: Any
    template: str
    opens: bool = False

    @classmethod
    def of(cls, tokenizer: Any, template: str | None) -> Talk | None:
        """Return how conversations are put, by what `choose_template` chose; None where prompts stand alone.

        Raises:
            ConfigError: if the template cannot be trusted.
        """
        if template == "chat":
            require_safe(tokenizer)
            return cls(tokenizer, chat_template(tokenizer))
        return cls(tokenizer, ALPACA_TURNS, opens=True) if template == "alpaca" else None

    def asked(self, turns: Sequence[Turn], tools: Tools = ()) -> np.ndarray:
        """Return what the model reads before it answers: the turns so far, and what asks for an answer.

        Raises:
            RowFault: if the template does not take these turns.
        """
        turns, tools = self.fitted(turns, tools)
        pieces, said = self._answered(turns, tools)
        text = self._rendered(turns, tools, asking=True)
        if said is None or not text.startswith(said):
            pieces, said = [[]], ""
        return self.encoded([[*pieces[-1], Piece(text[len(said) :], opens=self.opens and not said)]])[0].tokens

    def learnt(self, turns: Sequence[Turn], tools: Tools = (), *, last: bool = False) -> list[list[Piece]]:
        """Return a conversation in pieces, as one row, or as several where the template changes earlier turns.

        Args:
            turns: Turns that end with an answer.
            tools: Tools that may be called.
            last: Learn the last answer alone.

        Raises:
            RowFault: if the template does not take these turns, or asks for an answer otherwise than it writes it.
        """
        turns, tools = self.fitted(turns, tools)
        places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("learn", True)]
        rows, _ = self._answered(turns, tools, learnt=frozenset(places[-1:] if last else places))
        return [row for row in rows if any(piece.learnt for piece in row)]

    def encoded(self, rows: Sequence[Sequence[Piece]]) -> list[Laid]:
        """Return rows of pieces as tokens.

        Raises:
            RowFault: if contents have a mark of the template that cannot be told from it.
        """
        pieces = [piece for row in rows for piece in row]
        found: dict[int, list[int]] = {}
        for opens in (False, True):
            chosen = [place for place, piece in enumerate(pieces) if piece.opens is opens and not has_marks(piece.text)]
            backend = self.tokenizer.backend_tokenizer
            backend.no_padding()
            backend.no_truncation()
            encodings = backend.encode_batch_fast([pieces[place].text for place in chosen], add_special_tokens=opens)
            found |= {place: self._unended(one.ids, opens) for place, one in zip(chosen, encodings, strict=True)}
        found |= {place: self._plain_marks(piece) for place, piece in enumerate(pieces) if has_marks(piece.text)}
        numbers = iter(range(len(pieces)))
        return [self._joined(row, [found[next(numbers)] for _ in row]) for row in rows]

    @cached_property
    def end(self) -> int:
        """Token that ends an answer: the template's own mark, or the end of text."""
        turns, tools = self.fitted(PLAIN, ())
        pieces = self._answered(turns, tools, learnt=frozenset([1]))[0][-1]
        return int(self.encoded([pieces[-1:]])[0].tokens[-1])

    def fitted(self, turns: Sequence[Turn], tools: Tools) -> tuple[list[Turn], list[Mapping[str, Any]]]:
        """Return turns and tools as the template takes them; what it has no form for is put into the contents, in ours.

        Args:
            turns: Turns in the form of `luthier.data.conversation`.
            tools: Tools that may be called.
        """
        turns, given = list(turns), list(tools)
        if not self.takes_reasoning:
            turns = [_reasoning_told(turn) for turn in turns]
        if (given or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns)) and not self.takes_tools:
            turns, given = _tools_told(turns, given), []
        if turns[0]["role"] == "system" and not self.takes_system:
            told = f"{turns[0]['content']}\n\n{turns[1]['content']}"
            turns = [{**turns[1], "content": told}, *turns[2:]]
        return turns, given

    @cached_property
    def takes_system(self) -> bool:
        """Whether the template writes what the system says."""
        return self._writes(WITH_SYSTEM, (), "told_qz")

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template writes tools, calls and their results."""
        tools = [{"type": "function", "function": TOOL}]
        return self._writes(WITH_TOOL, tools, "look_up_qz", "asked_qz", "found_qz") and self._writes(WITH_TOOL[:1], tools, "look_up_qz")

    @cached_property
    def takes_reasoning(self) -> bool:
        """Whether the template writes the reasoning of an answer."""
        return self._writes(WITH_REASONING, (), "thought_qz")

    def _writes(self, turns: Sequence[Turn], tools: Tools, *words: str) -> bool:
        try:
            text = self._rendered(turns, tools, asking=False)
        except RowFault:
            return False
        return all(word in text for word in words)

    def _answered(
        self, turns: Sequence[Turn], tools: Tools, *, learnt: frozenset[int] = frozenset()
    ) -> tuple[list[list[Piece]], str | None]:
        """Return rows of pieces up to the last answer, and the text that the last row is of; None where it cannot be gone on from."""
        rows: list[list[Piece]] = [[]]
        said: str | None = ""
        for place, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            asking, whole = self._rendered(turns[:place], tools, asking=True), self._rendered(turns[: place + 1], tools, asking=False)
            if said is None or not asking.startswith(said):
                rows.append([])
                said = ""
            answer = whole[len(asking) :].rstrip() if whole.startswith(asking) else ""
            if not answer and place in learnt:
                what = "leaves it out" if whole.startswith(asking) else "asks for it otherwise than it writes it"
                raise RowFault(f"answer that the chat template does not put after its prompt (turn {place + 1}: it {what})")
            if not answer:
                said = None
                continue
            rows[-1].append(Piece(asking[len(said) :], opens=self.opens and not said))
            rows[-1].append(Piece(answer, learnt=place in learnt, ends=not answer.endswith(self._marks)))
            said = asking + answer
        return rows, said

    def _rendered(self, turns: Sequence[Turn], tools: Tools, *, asking: bool) -> str:
        """Return turns as the template writes them; marks that stand in the contents themselves are wrapped, to be told from its own."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import mark_control_tokens

        plain = [{key: value for key, value in turn.items() if key != "learn"} for turn in turns]
        marked, tools = (mark_control_tokens(given, self._control) for given in (plain, list(tools)))
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    marked, tools=tools or None, chat_template=self.template, tokenize=False, add_generation_prompt=asking
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise RowFault(f"conversation that the chat template refuses ({error})") from None

    @cached_property
    def _control(self) -> re.Pattern[str]:
        marks = sorted(self._marks, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, marks)) or "(?!)")

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """Every mark of the tokenizer that is no text."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({token.content for token in added if token.special} | {str(token) for token in self.tokenizer.all_special_tokens})

    def _plain_marks(self, piece: Piece) -> list[int]:
        """Return the tokens of a piece with marks in its contents, which are encoded as the plain text that they are."""
        from transformers.utils.chat_template_utils import encode_marked_chat

        try:
            found = list(encode_marked_chat(self.tokenizer, piece.text))
        except ValueError as error:
            raise RowFault(f"text that is a mark of the template ({error}; take it out)") from None
        first = self.tokenizer.bos_token_id
        return [first, *found] if piece.opens and first is not None and found[:1] != [first] else found

    def _unended(self, ids: list[int], opens: bool) -> list[int]:
        return ids[:-1] if opens and len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids

    def _joined(self, row: Sequence[Piece], found: Sequence[list[int]]) -> Laid:
        tokens: list[int] = []
        stretches = []
        for piece, ids in zip(row, found, strict=True):
            start = len(tokens)
            tokens += [*ids, self.tokenizer.eos_token_id] if piece.ends else ids
            if piece.learnt:
                stretches.append((start, len(tokens)))
        return Laid(np.asarray(tokens, np.int32), tuple(stretches))


def has_marks(text: str) -> bool:
    """Whether contents in a rendered text have what would be a mark of the template, and is wrapped."""
    from transformers.utils.chat_template_utils import _CONTROL_TOKEN_START

    return _CONTROL_TOKEN_START in text


def _reasoning_told(turn: Turn) -> Turn:
    if "reasoning_content" not in turn:
        return turn
    rest = {key: value for key, value in turn.items() if key != "reasoning_content"}
    return rest | {"content": f"<think>\n{turn['reasoning_content']}\n</think>\n\n{turn['content']}"}


def _tools_told(turns: Sequence[Turn], tools: Tools) -> list[Turn]:
    """Return turns with tools, their calls and their results as plain text, for templates that have no form for them."""
    told: list[Turn] = []
    for turn in turns:
        if turn["role"] == "tool":
            shown = f"<tool_response>\n{turn['content']}\n</tool_response>"
            if told and told[-1].get("result"):
                told[-1]["content"] += f"\n{shown}"
            else:
                told.append({"role": "user", "content": shown, "result": True})
        elif "tool_calls" in turn:
            calls = (json.dumps(call["function"], ensure_ascii=False) for call in turn["tool_calls"])
            shown = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
            rest = {key: value for key, value in turn.items() if key != "tool_calls"}
            told.append(rest | {"content": f"{turn['content']}\n{shown}" if turn["content"] else shown})
        else:
            told.append(turn)
    told = [{key: value for key, value in turn.items() if key != "result"} for turn in told]
    if not tools:
        return told
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = TOLD_OF_TOOLS.format(tools=listed, call=EXAMPLE_CALL)
    if told[0]["role"] == "system":
        return [{**told[0], "content": f"{told[0]['content']}\n\n{text}"}, *told[1:]]
    return [{"role": "system", "content": text}, *told]
