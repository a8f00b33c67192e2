"""Conversations for tests: at random, with marks in them, and the templates that they are put in."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tiny_decoder import tiny_instructions

from luthier.data.conversation import Turn, read_turns
from luthier.tasks.text.talk import Talk
from luthier.tasks.text.templates import choose_template

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


def tiny_conversations(num_rows: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Two prompts of `tiny_instructions` after one another, with their answers."""
    rows = tiny_instructions(2 * num_rows, seed=seed)
    asked = [{"role": "user", "content": f"{row['instruction']} {row['input']}"} for row in rows]
    told = [{"role": "assistant", "content": row["output"]} for row in rows]
    return [{"messages": [asked[i], told[i], asked[i + 1], told[i + 1]]} for i in range(0, 2 * num_rows, 2)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
