"""Rows shown to people: nothing of the text is lost, what is learnt is marked, the target is said in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
from benches import prepared_of
from row_tasks import fill_mask, text_regression
from tiny_decoder import make_tiny_decoder, tiny_instructions, tiny_words, write_instructions, writing_recipe

from luthier.stages.asking.preview import preview_rows
from luthier.tasks.text.shown import pieces_of


def byte_level():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(["my card was late", "my card is here"] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_pieces_are_the_text() -> None:
    for tokenizer, text in ((byte_level(), "my card\nwas  late, 银行!"), (tiny_words(), "red sun red sun")):
        ids = tokenizer.encode(text, add_special_tokens=False)
        pieces = pieces_of(tokenizer, ids, [1])
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.learnt for piece in pieces] == [place == 1 for place in range(len(ids))]


def test_what_goes_on_with_a_word_keeps_its_mark() -> None:
    tokenizer = tiny._tokenizer(tiny.tiny_vocabulary())
    pieces = pieces_of(tokenizer, tokenizer.encode("my cards"))
    assert "".join(piece.text for piece in pieces) == " [CLS] my c ##a ##r ##d ##s [SEP]" or " card" in [piece.text for piece in pieces]


def test_classes_have_their_label_and_nothing_marked(tiny_model: Path, tiny_csv: Path, tmp_path: Path) -> None:
    recipe, prepared = prepared_of(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path))
    found = preview_rows(recipe, prepared, num=4)
    labels = dict(tiny.tiny_rows(120))
    for row in found["rows"]:
        text = "".join(piece["text"] for piece in row["pieces"]).removeprefix(" [CLS] ").removesuffix(" [SEP]")
        assert labels[text] == row["target"] and row["learnt"] == 0
    assert found["splits"]["train"]["rows"] == 90 and found["left_out"] == [] and len(found["rows"]) == 4


def test_several_labels_and_numbers(tiny_model: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "several.csv", tiny.tiny_multi_label_rows(60))
    task = {"task": {"type": "text-classification", "problem": "multi-label"}, "data.label_separator": "|"}
    recipe, prepared = prepared_of(tiny.tiny_recipe(tiny_model, rows, tmp_path, task))
    names = {row["target"] for row in preview_rows(recipe, prepared, num=10)["rows"]}
    assert any(", " in name for name in names) and names <= {name for name in names if set(name.split(", ")) <= set(tiny.WORDS_BY_CLASS)}
    recipe, prepared = prepared_of(tiny.tiny_recipe(tiny_model, text_regression.write(tmp_path), tmp_path, {"task": "text-regression"}))
    shown = preview_rows(recipe, prepared, num=3)["rows"]
    assert all(float(row["target"]) in (0, 1.5, 3, 4.5, 6, 7.5) for row in shown)


@pytest.mark.parametrize("whole", [False, True])
def test_of_instructions_the_response_is_learnt(whole: bool, tmp_path: Path) -> None:
    model, rows = make_tiny_decoder(tmp_path / "decoder"), write_instructions(tmp_path / "rows.jsonl", tiny_instructions(40))
    recipe, prepared = prepared_of(writing_recipe(model, rows, tmp_path / "run", {"task.train_on_prompt": whole}))
    for row in preview_rows(recipe, prepared, num=5)["rows"]:
        learnt = "".join(piece["text"] for piece in row["pieces"] if piece["learnt"])
        assert learnt.endswith(" </s>") and (learnt.startswith(" Below") if whole else "###" not in learnt)
        assert row["target"] == f"{row['learnt']} of {row['tokens']} tokens" and (row["learnt"] == row["tokens"] - 1) == whole


def test_of_masked_rows_the_hidden_words_are_said(tiny_model: Path, tmp_path: Path) -> None:
    recipe, prepared = prepared_of(tiny.tiny_recipe(tiny_model, fill_mask.write(tmp_path), tmp_path, {"task": "fill-mask"}))
    first, again = (preview_rows(recipe, prepared, num=6) for _ in range(2))
    assert first == again, "drawn as the first epoch draws"
    split = prepared.splits["train"]
    for row in first["rows"]:
        index = int(np.flatnonzero(split.ids_N == row["id"])[0])
        words = split.texts([index])[0].split()
        places = [place for place, piece in enumerate(row["pieces"]) if piece["learnt"]]
        assert row["target"].split() == [words[place - 1] for place in places] and len(places) == row["learnt"] > 0
