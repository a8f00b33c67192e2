"""Chat templates come from strangers: each is tried once in a process of its own, with a limit on time and memory."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import warnings
from functools import lru_cache
from typing import Any

from luthier.core.errors import ConfigError, Fault

SECONDS = 1.0
"""Processor time, which on an idle machine is the time that passes."""
PATIENCE = 20.0
TOO_LARGE = "wants more memory than a gigabyte"
MOST_BYTES = 1 << 30
LONG = 40  # turns of a long conversation
TOOL = {"name": "look_up_qz", "description": "d", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "look_up_qz", "arguments": {"word": "asked_qz"}}}
PLAIN: list[dict[str, Any]] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
WITH_SYSTEM: list[dict[str, Any]] = [{"role": "system", "content": "told_qz"}, *PLAIN]
WITH_REASONING: list[dict[str, Any]] = [PLAIN[0], {"role": "assistant", "content": "b", "reasoning_content": "thought_qz"}]
WITH_TOOL: list[dict[str, Any]] = [
    PLAIN[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "look_up_qz", "tool_call_id": "abcdefghi", "content": "found_qz"},
    PLAIN[1],
]


def require_safe(tokenizer: Any) -> None:
    """Refuse a tokenizer whose chat template does not end within a second, calls what it must not, or cannot be rendered at all.

    Args:
        tokenizer: Has a chat template.

    Raises:
        ConfigError: if it cannot be trusted; says why.
    """
    tokens = tuple((name, str(getattr(tokenizer, name) or "")) for name in ("bos_token", "eos_token", "pad_token", "unk_token"))
    fault = _fault(chat_template(tokenizer), tokens)
    if fault is not None:
        fix = "use task.template=chatml, plain or alpaca; or mend chat_template in the tokenizer's folder"
        raise ConfigError([Fault("task.template", f"the chat template {fault}", fix)])


def chat_template(tokenizer: Any) -> str:
    """Return the tokenizer's template for chats; of several the one it names default."""
    own = tokenizer.chat_template
    return own if isinstance(own, str) else str(tokenizer.get_chat_template())


@lru_cache(maxsize=64)
def _fault(template: str, tokens: tuple[tuple[str, str], ...]) -> str | None:
    """Return what is wrong with a template, or None; a process of its own renders it."""
    from transformers.utils import chat_template_utils  # noqa: F401  (the other process has it then)

    if not hasattr(os, "fork"):
        return _tried(template, dict(tokens)) or None
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child renders and ends, and waits for none of them
        child = os.fork()
    if child == 0:
        _in_the_child(writing, template, dict(tokens))
    os.close(writing)
    try:
        in_time = bool(select.select([reading], [], [], PATIENCE)[0])
        said = os.read(reading, 4096).decode("utf-8", "replace") if in_time else ""
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if said:
        return None if said == "safe" else said
    too_slow = not in_time or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF)
    return f"does not come to an end within {SECONDS:g} s" if too_slow else TOO_LARGE


def _in_the_child(writing: int, template: str, tokens: dict[str, str]) -> None:
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        _limit_memory()
        said = _tried(template, tokens) or "safe"
    except MemoryError:
        said = TOO_LARGE
    except BaseException as error:
        said = f"cannot be tried: {type(error).__name__}: {error}"
    with contextlib.suppress(BaseException):
        os.write(writing, said.encode("utf-8", "replace")[:4096])
    os._exit(0)


def _limit_memory() -> None:
    import resource

    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as pages:
        most = int(pages.read().split()[0]) * resource.getpagesize() + MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _tried(template: str, tokens: dict[str, str]) -> str:
    """Render conversations of all kinds; returns what is wrong, or nothing. Some templates take no system turn, tools or reasoning."""
    from jinja2.exceptions import SecurityError, TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    long = [{"role": turn["role"], "content": turn["content"] * 400} for turn in PLAIN * (LONG // 2)]
    cases: list[tuple[list[dict[str, Any]], list[Any] | None, bool]] = [(PLAIN, None, True), (long, None, True)]
    cases += [(WITH_SYSTEM, None, False), (WITH_REASONING, None, False), (WITH_TOOL, [{"type": "function", "function": TOOL}], False)]
    for messages, tools, needed in cases:
        for shown in (messages, messages[:-1]):
            given: dict[str, Any] = {"conversations": [shown], "tools": tools, "add_generation_prompt": shown is not messages, **tokens}
            try:
                render_jinja_template(chat_template=template, **given)
            except SecurityError as error:
                return f"calls what it must not: {error}"
            except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
                if needed:
                    return f"cannot be rendered: {type(error).__name__}: {error}"
    return ""
