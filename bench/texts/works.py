"""The works of bench/text_tasks.py: each a task on real data with the scores that are kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from texts import rows

RATES = ("optim.learning_rate=3e-4", "optim.head_learning_rate=3e-3")
SMALL_T5 = (
    "model.scratch={architecture: t5, d_model: 128, d_kv: 32, d_ff: 512, num_layers: 3, num_heads: 4, dropout_rate: 0.0}",
    "optim.learning_rate=3e-3",
    "training.epochs=3",
    "task.max_new_tokens=60",
)


@dataclass(frozen=True)
class TextWork:
    """A task on real data.

    Args:
        title: Task and data, for a person.
        task: Name of the task.
        scores: Scores of the test rows that are kept.
        changes: Words after `luthier train`, with $D for the folder of the data.
        preset: Recipe that has all the rest.
        make: Lays files ready and returns words that name them, given the data and a folder.
        asked: What is to be reached, in words.
    """

    title: str
    task: str
    scores: tuple[str, ...]
    changes: tuple[str, ...] = ()
    preset: str | None = None
    make: Callable[[Path, Path], list[str]] | None = None
    asked: str = ""

    def words(self, data: Path, folder: Path) -> list[str]:
        """Return the words after `luthier train`, after laying ready what they name."""
        made = [] if self.make is None else self.make(data, folder)
        first = ["--task", self.task] if self.preset is None else [self.preset]
        return [*first, *made, *(word.replace("$D", str(data)) for word in self.changes)]


WORKS: dict[str, TextWork] = {
    "snips": TextWork(
        "intent-and-slots, SNIPS",
        "intent-and-slots",
        ("intent_accuracy", "slot_f1", "frame_accuracy"),
        preset="snips",
        asked="intent 0.98, slot F1 0.93",
    ),
    "atis": TextWork(
        "token-classification, ATIS slots",
        "token-classification",
        ("f1", "accuracy"),
        ("data.train=$D/atis_snips/atis/train", "data.test=$D/atis_snips/atis/test", "training.epochs=3", *RATES),
        asked="F1 0.945",
    ),
    "semeval": TextWork(
        "relation-extraction, SemEval-2010 task 8",
        "relation-extraction",
        ("macro_f1", "micro_f1", "accuracy"),
        (
            "data.train=$D/semeval2010_task8/SemEval2010_task8_training/TRAIN_FILE.TXT",
            "data.test=$D/semeval2010_task8/SemEval2010_task8_testing_keys/TEST_FILE_FULL.TXT",
            "training.epochs=4",
        ),
        asked="official macro-F1 0.82",
    ),
    "stsb": TextWork(
        "sentence-similarity, STS-B",
        "sentence-similarity",
        ("spearman", "pearson"),
        ("training.epochs=2", "optim.learning_rate=3e-5"),
        make=rows.stsb,
        asked="Spearman 0.840 (0.820 untuned)",
    ),
    "phrasebank": TextWork(
        "text-classification, Financial PhraseBank",
        "text-classification",
        ("accuracy", "f1_macro"),
        preset="financial-phrasebank",
        asked="accuracy 0.83",
    ),
    "squad": TextWork(
        "question-answering, SQuAD v1.1 dev, 40 and 8 articles",
        "question-answering",
        ("f1", "exact_match"),
        ("training.epochs=3", *RATES),
        make=rows.squad,
        asked="F1 25 points above an untrained head",
    ),
    "weibo": TextWork(
        "token-classification, Weibo names (Chinese)", "token-classification", ("f1",), ("training.epochs=15", *RATES), make=rows.weibo
    ),
    "thucnews": TextWork(
        "text-classification, THUCNews titles (Chinese), dev to test",
        "text-classification",
        ("accuracy", "f1_macro"),
        ("data.train=$D/thucnews_titles/dev.txt", "data.test=$D/thucnews_titles/test.txt", "data.text=0", "data.label=1"),
    ),
    "multi30k": TextWork(
        "translation, Multi30k English to German, a small T5 from nothing",
        "translation",
        ("bleu", "chrf", "loss"),
        (
            "data.train=$D/multi30k/train.en.gz",
            "data.validation=$D/multi30k/val.en.gz",
            "data.test=$D/multi30k/test_2016_flickr.en.gz",
            "task.target_file=$D/multi30k/train.de.gz",
            "data.max_length=64",
            "training.batch_size=64",
            *SMALL_T5,
        ),
        make=rows.multi30k_words,
    ),
    "scitldr": TextWork(
        "summarization, SciTLDR, a small T5 from nothing",
        "summarization",
        ("rouge1", "rouge2", "rougeL", "loss"),
        (
            "data.train=$D/scitldr_a/train.jsonl",
            "data.validation=$D/scitldr_a/dev.jsonl",
            "data.test=$D/scitldr_a/test.jsonl",
            "data.max_length=256",
            "task.max_target_length=64",
            *SMALL_T5,
        ),
        make=rows.scitldr_words,
    ),
    "stories": TextWork(
        "text-generation, stories260K on alpaca_en_demo, rows of at most 512 tokens",
        "text-generation",
        ("loss", "perplexity", "token_accuracy"),
        (
            "--model",
            "$D/checkpoints/stories260K",
            "training.epochs=7",
            "training.batch_size=16",
            "optim.learning_rate=3e-3",
            "schedule.type=cosine",
            "data.split.test=0.3725",
        ),
        make=rows.alpaca,
        asked="loss 40 % lower",
    ),
}
