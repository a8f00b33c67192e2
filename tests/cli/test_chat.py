"""`luthier chat`: lines from a pipe, commands, what is remembered, and Ctrl-C, which stops an answer and not the program."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe
from transformers import TextIteratorStreamer

from luthier import flow
from luthier.core import files
from luthier.serve.chat import Chat
from luthier.serve.predictor import Predictor

Luthier = Callable[..., Any]
PATIENCE_SECONDS = 90


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on instructions, put by the template of Alpaca."""
    folder = tmp_path_factory.mktemp("runs")
    model = make_tiny_decoder(folder / "tiny-llama")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(60))
    return flow.train(writing_recipe(model, rows, folder / "run", {"training.max_steps": 20, "evaluate.baseline": False})).path


def test_a_line_is_an_answer(luthier: Luthier, run: Path) -> None:
    said = luthier("chat", run, lines="say sun\n\nsay moon\n")
    assert said.code == 0, said.words
    answers = said.out.splitlines()
    assert len(answers) == 2
    predictor = Predictor.open(run)
    assert answers[0].strip() == next(iter(predictor.answer(["say sun"]))).label.strip(), "the first turn is put as predict puts it"


def test_each_answer_is_an_object_with_json(luthier: Luthier, run: Path) -> None:
    said = luthier("chat", run, "--json", "--max-new-tokens", "3", lines="say sun\nsay moon")
    assert said.code == 0
    assert [answer["text"] for answer in said.answers] == ["say sun", "say moon"]
    assert all(0 < answer["tokens"] <= 3 and answer["ended"] in ("end", "length") for answer in said.answers)


def test_commands(luthier: Luthier, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    lines = f"say sun\n/system be brief\nsay moon\n/save {file}\n/what\n/save\n/exit\nsay star\n"
    said = luthier("chat", run, "--json", lines=lines)
    assert said.code == 0 and [answer["text"] for answer in said.answers] == ["say sun", "say moon"]
    saved = files.read_json(file)["messages"]
    assert [(turn["role"], turn["content"]) for turn in saved[:2]] == [("system", "be brief"), ("user", "say moon")]
    assert "'/what' is no command" in said.words and "'/save' is no command" in said.words and "a new conversation begins" in said.words


def test_history_is_remembered_until_it_is_too_long(run: Path) -> None:
    chat = Chat(Predictor.open(run).writing(max_new_tokens=4))
    forgotten = []
    for number in range(10):
        list(chat.answer(f"say sun moon star {number}"))
        assert chat.last is not None
        forgotten.append(chat.last.forgotten)
    assert len(chat.turns) == 20 and forgotten[0] == 0 and forgotten[-1] > 0 and forgotten == sorted(forgotten)
    assert all(count % 2 == 0 for count in forgotten), "a prompt goes with its answer"
    list(chat.answer("say sun " * 80))
    assert chat.last.cut > 0 and chat.last.text == chat.turns[-1]["content"]
    chat.reset()
    list(chat.answer("say sun"))
    assert len(chat.turns) == 2 and chat.last.forgotten == 0


def test_pieces_make_up_the_answer(run: Path) -> None:
    for manner in ({"temperature": 1.0}, {"num_beams": 2}):
        chat = Chat(Predictor.open(run).writing(**manner))
        pieces = list(chat.answer("say red green blue"))
        assert chat.last is not None and "".join(pieces).split() == chat.last.text.split()


def test_an_answer_that_is_stopped_stays_as_far_as_it_came(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = TextIteratorStreamer.put
    monkeypatch.setattr(TextIteratorStreamer, "put", lambda self, value: (time.sleep(0.05), put(self, value)))
    chat = Chat(Predictor.open(run).writing(max_new_tokens=60, temperature=5.0, choices=["sun " * 40]))
    pieces = chat.answer("say sun")
    next(pieces)
    chat.stop()
    list(pieces)
    assert chat.last is not None and chat.last.ended == "interrupt" and chat.last.num_tokens < 40
    assert chat.turns[-1] == {"role": "assistant", "content": chat.last.text} and not chat.answering


SLOWLY = """
import sys, time
from transformers import TextIteratorStreamer
put = TextIteratorStreamer.put
def slowly(self, value):
    print("a token", file=sys.stderr, flush=True)
    time.sleep(0.2)
    put(self, value)
TextIteratorStreamer.put = slowly
from luthier.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_stops_the_answer_and_not_the_program(run: Path) -> None:
    command = [sys.executable, "-c", SLOWLY, "chat", str(run), "--json", "--max-new-tokens", "60", "--choices", "sun " * 40]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process: subprocess.Popen[str] = subprocess.Popen(command, text=True, **pipes)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write("say sun\n")
    process.stdin.flush()
    while "a token" not in (line := process.stderr.readline()):
        assert line, "it ended before it wrote"
    process.send_signal(signal.SIGINT)
    first = json.loads(process.stdout.readline())
    assert first["ended"] == "interrupt" and 0 < first["tokens"] < 40
    rest, words = process.communicate("/exit\n", timeout=PATIENCE_SECONDS)
    assert process.returncode == 0 and rest == "", words


def test_a_classifier_does_not_chat(luthier: Luthier, tiny_run: Path) -> None:
    said = luthier("chat", tiny_run, lines="hello\n")
    assert said.code == 2 and "writes no answers to prompts" in said.words


def test_a_model_of_plain_transformers_chats(luthier: Luthier, tmp_path: Path) -> None:
    template = "{% for m in messages %}<s> {{ m.content }} {{ eos_token }}{% endfor %}"
    model = make_tiny_decoder(tmp_path / "plain", chat_template=template)
    said = luthier("chat", model, "--json", "--max-new-tokens", "3", lines="say sun\n")
    assert said.code == 0 and 0 < said.answers[0]["tokens"] <= 3, said.words


def test_settings_of_the_task_stay_beside_its_name(luthier: Luthier, run: Path, tmp_path: Path) -> None:
    model, rows = run.parent / "tiny-llama", run.parent / "rows.jsonl"
    said = luthier("check", "--task", "text-generation", "--data", rows, "--model", model, "task.template=chatml")
    assert said.code == 0 and "<|im_start|>" in said.words and "2 tokens were added to the vocabulary" in said.words
