"""How a prompt is put to a model: a template of plain words, or one for chats: the tokenizer's own, or one of ours by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
ALPACA += "### Instruction:\n{prompt}\n\n### Response:\n"
ALPACA_INPUT = "Below is an instruction that describes a task, paired with an input that provides further context. "
ALPACA_INPUT += "Write a response that appropriately completes the request.\n\n"
ALPACA_INPUT += "### Instruction:\n{prompt}\n\n### Input:\n{input}\n\n### Response:\n"

CHATML = """\
{{ BEGINNING }}{% for message in messages %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA3 = """\
{{ BEGINNING }}{% for message in messages %}\
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] + '<|eot_id|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
PLAIN = """\
{{ BEGINNING }}{% for message in messages %}\
{{ '### ' + message['role'] | capitalize + ':\\n' + message['content'] }}\
{{ eos_token + '\\n\\n' if message['role'] == 'assistant' else '\\n\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"""
ALPACA_TURNS = """\
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% else %}{{ HEAD }}{% endif %}\
{% for message in messages %}{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}\
{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}""".replace("HEAD", repr(ALPACA.partition("###")[0]))
NAMED = {"chatml": CHATML, "llama3": LLAMA3, "plain": PLAIN}
MARKS = {"chatml": ("<|im_start|>", "<|im_end|>"), "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "plain": ()}
KNOWN = ("auto", "chat", "alpaca", *NAMED)


@dataclass(frozen=True)
class Chosen:
    """How prompts are put.

    Args:
        template: `chat` (what the tokenizer now has), `alpaca`, or a text with `{prompt}`.
        added: Marks that were added to the tokenizer.
        notes: What is to be said.
    """

    template: str
    added: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_template(wanted: str, tokenizer: Any, *, turns: bool = False, extend: bool = True) -> Chosen:
    """Return what was wanted, or for `auto` chat where the tokenizer has a template; one of ours is given to the tokenizer.

    Args:
        wanted: What the recipe says.
        tokenizer: May be given a template, and marks that it lacks.
        turns: Whether there are conversations, which a text with `{prompt}` cannot put.
        extend: Whether marks may be added to its vocabulary; without, they are plain text, and answers end with the end of text.

    Raises:
        ConfigError: if the tokenizer has no template for chats, what is wanted is not known, or the template cannot be trusted.
    """
    wanted = "llama3" if wanted == "llama-3" else wanted
    if wanted == "auto":
        wanted = "chat" if tokenizer.chat_template else "plain" if turns else "alpaca"
    if wanted == "chat" and not tokenizer.chat_template:
        raise ConfigError([Fault("task.template", "the tokenizer has no chat template", "use task.template=plain, chatml or alpaca")])
    if wanted in NAMED:
        return _given(wanted, tokenizer, extend)
    if "{%" in wanted:
        tokenizer.chat_template, wanted = wanted, "chat"
    if wanted == "chat":
        from luthier.tasks.text.template_safety import chat_template, require_safe

        require_safe(tokenizer)
        dated = "strftime_now" in chat_template(tokenizer)
        return Chosen("chat", notes=("warning: the chat template writes the date of the day into prompts",) if dated else ())
    if wanted != "alpaca" and (turns or "{prompt}" not in wanted):
        what = "puts one prompt, and the rows are conversations" if "{prompt}" in wanted else "has no {prompt}"
        near = did_you_mean(wanted, KNOWN) if " " not in wanted else ""
        fix = f"{near} Known: {', '.join(KNOWN)}, or a text such as 'Question: {{prompt}} {{input}} Answer: '".strip()
        raise ConfigError([Fault("task.template", f"got {wanted!r}, which {what}", fix)])
    return Chosen(wanted)


def rendered(template: str, prompt: str, given: str, tokenizer: Any) -> str:
    """Return a prompt, and the input it is about, as the model reads them before it answers.

    Args:
        template: What `choose_template` gave.
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


def puts_beginning(tokenizer: Any) -> bool:
    """Whether a tokenizer begins every text with its beginning of text."""
    ids = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True).ids
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def _given(name: str, tokenizer: Any, extend: bool) -> Chosen:
    """Give the tokenizer one of our templates, with the marks that it lacks."""
    marks: Sequence[str] = MARKS[name]
    lacking = tuple(mark for mark in marks if mark not in tokenizer.get_added_vocab())
    template = NAMED[name].replace("BEGINNING", "bos_token" if puts_beginning(tokenizer) else "''")
    notes: tuple[str, ...] = ()
    if lacking and extend:
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in lacking], special_tokens=True)
        many = f"{len(lacking)} tokens were added to the vocabulary" if len(lacking) > 1 else "1 token was added to the vocabulary"
        notes = (f"template {name}: {many} ({', '.join(lacking)}); their embeddings start from the mean",)
    elif lacking:
        template = template.replace(f"'{marks[-1]}'", "eos_token")
        notes = (f"template {name}: its marks are plain text, and answers end with the end of text (model.extend_vocabulary=false)",)
    tokenizer.chat_template = template
    return Chosen("chat", added=lacking if extend else (), notes=notes)
