"""How a prompt is put to a model: a template of plain words, or the tokenizer's own for chats."""

from __future__ import annotations

import re
from typing import Any

from luthier.core.errors import ConfigError, Fault

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
ALPACA += "### Instruction:\n{prompt}\n\n### Response:\n"
ALPACA_INPUT = "Below is an instruction that describes a task, paired with an input that provides further context. "
ALPACA_INPUT += "Write a response that appropriately completes the request.\n\n"
ALPACA_INPUT += "### Instruction:\n{prompt}\n\n### Input:\n{input}\n\n### Response:\n"


def chosen_template(wanted: str, tokenizer: Any) -> str:
    """Return `chat`, `alpaca`, or a text with `{prompt}`: what was wanted, or for `auto` chat where the tokenizer has a template.

    Raises:
        ConfigError: if the tokenizer has no template for chats, or a text of one's own has no place for the prompt.
    """
    if wanted == "auto":
        return "chat" if tokenizer.chat_template else "alpaca"
    if wanted == "chat" and not tokenizer.chat_template:
        raise ConfigError([Fault("task.template", "the tokenizer has no chat template", "use task.template=alpaca")])
    if wanted not in ("chat", "alpaca") and "{prompt}" not in wanted:
        fix = "auto, chat, alpaca, or a text such as 'Question: {prompt} {input} Answer: '"
        raise ConfigError([Fault("task.template", f"got {wanted!r}, which has no {{prompt}}", fix)])
    return wanted


def rendered(template: str, prompt: str, given: str, tokenizer: Any) -> str:
    """Return a prompt, and the input it is about, as the model reads them before it answers.

    Args:
        template: What `chosen_template` gave.
        prompt: The prompt.
        given: Its input; may be empty.
        tokenizer: Has the template for chats.
    """
    if template == "chat":
        content = f"{prompt}\n{given}" if given else prompt
        return str(tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True))
    if template == "alpaca":
        template = ALPACA_INPUT if given else ALPACA
    return re.sub(r"\{(prompt|input)\}", lambda place: {"prompt": prompt, "input": given}[place[1]], template)
