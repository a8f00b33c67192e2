"""Which sources hold conversations, by their columns, and their rows as turns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError
from luthier.data.columns import shown
from luthier.data.conversation import Turn, asked_of, of_instruction, read_tools, read_turns
from luthier.data.documents import INPUT_NAMES, PROMPT_NAMES, RESPONSE_NAMES, is_text_file
from luthier.data.locate import find_format, find_sources
from luthier.data.reading import RowFault, excerpt
from luthier.data.records import Record, load_records
from luthier.data.rows import Rows
from luthier.data.section import DataSection

MESSAGES_NAMES = ("messages", "conversations")
TOOLS_NAMES = ("tools", "functions")
SYSTEM_NAMES = ("system", "system_prompt")
HISTORY_NAMES = ("history",)


@dataclass(frozen=True)
class Dialogues:
    """Columns that conversations stand in, by name.

    Args:
        columns: `messages`; or `prompt` and `text` (and `prompt_input`) of instruction rows; and `system`, `history`, `tools`.
    """

    columns: Mapping[str, str]

    def read(self, row: Record, *, answered: bool = True) -> dict[str, Any]:
        """Return what is kept of a row: all that is said to the model as `text`, `turns` and, where there are any, `tools`.

        Args:
            row: The cells of a row, by column.
            answered: Whether it must end with an answer.

        Raises:
            RowFault: if it is no conversation that can be used.
        """
        found = {key: row.get(name) for key, name in self.columns.items()}
        if "messages" in self.columns:
            given = found["messages"]
            turns = read_turns([] if given is None else given, answered=answered)
            if found.get("system") and turns[0]["role"] != "system":
                turns = [{"role": "system", "content": str(found["system"])}, *turns]
        else:
            about, answer = str(found.get("prompt_input") or ""), (found.get("text") if answered else None)
            kept = {key: found.get(key) for key in ("history", "system")}
            made = of_instruction(found.get("prompt") or "", about, "" if answered and answer is None else answer, **kept)
            turns = read_turns(made, answered=answered)
        tools = read_tools(found.get("tools"))
        return {"text": asked_of(turns), "turns": turns, **({"tools": tools} if tools else {})}


def dialogues_in(section: DataSection) -> tuple[Dialogues | None, list[str]]:
    """Return where the first source has conversations, or None where it has none, and what was chosen, in words.

    Args:
        section: The `data` section; `messages` names the column, else usual names are looked for.

    Raises:
        DataError: if a column that is named is not there.
    """
    source = next(iter(find_sources(section).values()))
    if is_text_file(source, section):
        return None, []
    return dialogues_of(find_format(source, section).read(source, section).columns, section, source=source)


def dialogues_of(names: Sequence[str], section: DataSection, *, source: str) -> tuple[Dialogues | None, list[str]]:
    """Return which of some columns hold conversations, or None where none does, and what was chosen, in words.

    Args:
        names: The columns that there are.
        section: What the recipe says of columns.
        source: What to call the source in messages.

    Raises:
        DataError: if the column that is named is not there.
    """
    about = {"system": _usual(names, SYSTEM_NAMES), "history": _usual(names, HISTORY_NAMES), "tools": _usual(names, TOOLS_NAMES)}
    messages = _named(names, section.messages, source) if section.messages is not None else None
    if messages is None and section.text is None and section.prompt is None:
        messages = _usual(names, MESSAGES_NAMES)
    if messages is not None:
        found = {"messages": messages, "system": about["system"], "tools": about["tools"]}
    elif about["system"] or about["history"]:
        columns = (("prompt", section.prompt, PROMPT_NAMES), ("text", section.text, RESPONSE_NAMES))
        found = {key: _usual(names, usual) if given is None else _known(names, given) for key, given, usual in columns}
        if None in found.values():
            return None, []
        given = section.prompt_input
        found["prompt_input"] = _usual(names, INPUT_NAMES) if given is None else _known(names, given)
        found |= about
    else:
        return None, []
    chosen = {key: name for key, name in found.items() if name is not None}
    said = ", ".join(f"{key} = column {name!r}" for key, name in chosen.items() if getattr(section, key, None) is None)
    return Dialogues(chosen), [f"{source}: conversations, {said} (guessed; data.messages=... says otherwise)"] if said else []


def load_dialogues(section: DataSection, dialogues: Dialogues) -> Rows:
    """Read the rows of a recipe as conversations and hold them apart; what cannot be used is named.

    Args:
        section: The `data` section of the recipe.
        dialogues: Which columns they stand in.

    Raises:
        DataError: if the data is missing, unreadable or mostly bad.
    """
    rows = load_records(section, dialogues.read)
    for facts in rows.facts["sources"].values():
        facts["columns"] = dict(dialogues.columns)
    return rows


def spoken_in(text: str) -> tuple[list[Turn], Sequence[Mapping[str, Any]]] | None:
    """Return the turns and the tools of a text that is a conversation in JSON, waiting for an answer; None where it is none.

    Args:
        text: Any text; a list of turns, or an object with `messages` and perhaps `tools`, is a conversation.

    Raises:
        DataError: if it is one and cannot be answered.
    """
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    tools = given.get("tools") if isinstance(given, dict) else None
    given = given.get("messages") if isinstance(given, dict) else given
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) and {"role", "from"} & one.keys() for one in given):
        return None
    try:
        return read_turns(given, answered=False), read_tools(tools)
    except RowFault as fault:
        raise DataError(f"the conversation cannot be answered: {fault}", where=excerpt(text), fix="mend it, or leave it out") from None


def spoken_json(record: Mapping[str, Any]) -> str:
    """Return what `Dialogues.read` gave as JSON that `spoken_in` reads."""
    return json.dumps({"messages": record["turns"], "tools": record.get("tools", [])}, ensure_ascii=False)


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    return next((name for name in names if name.strip().lower() in usual), None)


def _known(names: Sequence[str], given: str | int) -> str | None:
    if isinstance(given, str) and given in names:
        return given
    return names[int(given)] if str(given).isdigit() and int(given) < len(names) else None


def _named(names: Sequence[str], given: str | int, source: str) -> str:
    found = _known(names, given)
    if found is None:
        fix = f"name one of them with data.messages={names[0]}"
        raise DataError(f"'{source}' has no column {given!r}; it has {shown(names)}", where="data.messages", fix=fix)
    return found
