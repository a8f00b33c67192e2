"""The works that `make bench` compares, and what is asked of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from race.run import BENCH, MADE
from race.work import OURS, Side, Turn, Work

DATA = Path(os.environ.get("LUTHIER_DATA", BENCH.parent.parent / "shared" / "data"))
PEERS, SCRIPTS = BENCH / "peers", BENCH / "ours"
RATE, HEAD_RATE = 1.5e-4, 6e-4
SST2 = {"train": DATA / "sst2" / "train.tsv", "test": DATA / "sst2" / "test.tsv", "text": "0", "label": "1"}
BANKING77 = {"train": DATA / "banking77" / "train.csv", "test": DATA / "banking77" / "test.csv", "text": "text", "label": "category"}
TRAINER_PACKAGES = ("torch", "transformers", "accelerate")


def ours_classify(data: dict[str, object], *, epochs: int, words: tuple[str, ...] = (), whole: bool = False) -> Side:
    """Return our side of fine-tuning the embedded encoder on texts with labels.

    Args:
        data: Files and columns.
        epochs: Passes over the rows.
        words: More of the recipe.
        whole: Never cut short, because what is done once counts over all epochs.
    """

    def command(turn: Turn) -> list[str]:
        turn = replace(turn, steps=None) if whole else turn
        short = [f"training.max_steps={turn.steps}", *QUICK] if turn.steps else [f"data.test={data['test']}"]
        columns = [f"data.{key}={data[key]}" for key in ("train", "text", "label")]
        settings = [
            f"training.epochs={epochs}",
            "training.batch_size=32",
            f"optim.learning_rate={RATE}",
            f"optim.head_learning_rate={HEAD_RATE}",
        ]
        return ours_train(turn, "rows", [*columns, *settings, *short, *words])

    return Side(OURS, command)


QUICK = ("data.split.test=0", "model.head.start=zero", "evaluate.baseline=false", "evaluate.resamples=100")


def ours_train(turn: Turn, unit: str, words: list[str]) -> list[str]:
    """Return the words of `luthier train` by way of bench/ours/train.py."""
    same = [f"training.seed={turn.number}", f"training.threads={turn.threads}", "track.trackers=[]"]
    short = ["--short"] if turn.steps else []
    return [str(SCRIPTS / "train.py"), "--unit", unit, "--out", str(turn.folder / "run"), *short, "--", *words, *same]


def trainer_classify(
    name: str, data: dict[str, object], *, epochs: int, flags: str = "best", rate: float = RATE, words: tuple[str, ...] = (), ratio: float
) -> Side:
    """Return the Trainer's side of the same."""

    def command(turn: Turn) -> list[str]:
        columns = [word for key, value in data.items() for word in (f"--{key}", str(value))]
        settings = [
            "--model",
            str(MADE / "minilm"),
            "--epochs",
            str(epochs),
            "--rate",
            str(rate),
            "--flags",
            flags,
            "--seed",
            str(turn.number),
        ]
        return [str(PEERS / "transformers_classify.py"), *columns, *settings, *shortened(turn), *words]

    return Side(name, command, venv="transformers", packages=TRAINER_PACKAGES, ratio=ratio)


def setfit_classify(data: dict[str, object], *, epochs: int, ratio: float) -> Side:
    """Return setfit's side of the same."""

    def command(turn: Turn) -> list[str]:
        columns = [word for key, value in data.items() for word in (f"--{key}", str(value))]
        settings = ["--model", str(MADE / "minilm"), "--epochs", str(epochs), "--rate", str(RATE), "--head-rate", str(HEAD_RATE), "--bf16"]
        return [str(PEERS / "setfit_classify.py"), *columns, *settings, "--seed", str(turn.number), *shortened(turn)]

    packages = ("torch", "setfit", "sentence-transformers")
    return Side("setfit, end to end, bf16", command, venv="sentence-transformers", packages=packages, ratio=ratio)


def shortened(turn: Turn) -> list[str]:
    """Return the words that cut a peer's training short."""
    return ["--steps", str(turn.steps)] if turn.steps else []


def ours_predict(turn: Turn) -> list[str]:
    """Return the words of our side of answering texts; a short run answers 32 texts for each step."""
    limit = [str(32 * turn.steps)] if turn.steps else []
    return [str(SCRIPTS / "predict.py"), str(MADE / "classifier"), str(turn.threads), *limit]


def predict(name: str, venv: str, script: str, batch: int, packages: tuple[str, ...]) -> Side:
    """Return a peer's side of answering texts."""

    def command(turn: Turn) -> list[str]:
        limit = ["--limit", str(32 * turn.steps)] if turn.steps else []
        return [str(PEERS / script), "--material", str(MADE / "classifier"), "--batch", str(batch), *limit]

    return Side(name, command, venv=venv, packages=("torch", *packages), ratio=2.5)


def first_words(name: str, program: str, words: tuple[str, ...], *, venv: str, package: str, environ: dict[str, str] | None = None) -> Side:
    """Return a peer's command line asked for its help."""
    return Side(name, lambda _: list(words), venv=venv, program=program, packages=(package,), environ=environ or {})


def ours_decode(turn: Turn) -> list[str]:
    """Return the words of our side of LoRA fine-tuning."""
    made = MADE / "decoder"
    words = ["task.type=text-generation", "task.template='{prompt}'", f"model.path={made}/model", f"data.train={made}/alpaca.jsonl"]
    words += ["data.prompt=prompt", "data.text=completion", "data.max_length=1024", "data.split.test=0"]
    words += ["adapter.type=lora", "adapter.r=8", "adapter.alpha=16", "adapter.target_modules=all-linear"]
    return ours_train(turn, "tokens", [*words, *DECODER_PACE, *ours_shortened(turn)])


def ours_pretrain(turn: Turn) -> list[str]:
    """Return the words of our side of training a decoder from nothing."""
    words = ["task.type=text-generation", "model.scratch.architecture=gpt2", "model.scratch.n_layer=8", "model.scratch.n_embd=256"]
    words += ["model.scratch.n_head=8", "model.scratch.n_positions=256", f"model.tokenizer={MADE / 'gpt2-tokenizer'}"]
    words += [f"data.train={DATA / 'wikitext2' / 'valid.txt'}", "data.max_length=256", "data.split.test=0"]
    return ours_train(turn, "tokens", [*words, *DECODER_PACE, *ours_shortened(turn)])


def ours_shortened(turn: Turn) -> list[str]:
    """Return the words that cut our training short, or leave it whole."""
    return [f"training.max_steps={turn.steps}", "evaluate.resamples=100"] if turn.steps else []


def peer_lora(script: str) -> Callable[[Turn], list[str]]:
    """Return a peer's side of LoRA fine-tuning."""

    def command(turn: Turn) -> list[str]:
        words = ["--material", str(MADE / "decoder"), "--rate", str(DECODER_RATE), "--seed", str(turn.number)]
        return [str(PEERS / script), *words, *shortened(turn)]

    return command


def peer_pretrain(script: str) -> Callable[[Turn], list[str]]:
    """Return a peer's side of training a decoder from nothing."""

    def command(turn: Turn) -> list[str]:
        words = ["--tokenizer", str(MADE / "gpt2-tokenizer"), "--train", str(DATA / "wikitext2" / "valid.txt")]
        return [str(PEERS / script), *words, "--rate", str(DECODER_RATE), "--seed", str(turn.number), *shortened(turn)]

    return command


def fraction(turn: Turn) -> list[str]:
    """Return the words of the share of the peak."""
    return [str(SCRIPTS / "fraction.py"), str(MADE / "encoder"), str(turn.folder / "run"), str(turn.steps or 60), str(turn.threads)]


LORA_RATE = 1e-3
LORA = (
    "adapter.type=lora",
    "adapter.r=8",
    "adapter.alpha=16",
    "model.extend_vocabulary=false",
    f"optim.learning_rate={LORA_RATE}",
    f"optim.head_learning_rate={LORA_RATE}",
)
DECODER_RATE = 1e-3
DECODER_PACE = ("training.epochs=1", "training.batch_size=8", f"optim.learning_rate={DECODER_RATE}")
BEST = "Trainer, best flags"
WORKS = (
    Work(
        "sst2",
        "sst2, MiniLM, full fine-tuning, 3 epochs",
        "samples/s",
        ours_classify(SST2, epochs=3),
        (trainer_classify(BEST, SST2, epochs=3, ratio=2),),
        materials=("minilm",),
    ),
    Work(
        "sst2-defaults",
        "sst2, MiniLM, full fine-tuning, 3 epochs",
        "samples/s",
        ours_classify(SST2, epochs=3),
        (trainer_classify("Trainer, defaults", SST2, epochs=3, flags="defaults", ratio=5),),
        materials=("minilm",),
    ),
    Work(
        "banking77",
        "banking77, MiniLM, 5 epochs, whole command",
        "s",
        ours_classify(BANKING77, epochs=5),
        (trainer_classify(BEST, BANKING77, epochs=5, words=("--save",), ratio=2), setfit_classify(BANKING77, epochs=5, ratio=2)),
        more_is_better=False,
        wall=True,
        materials=("minilm",),
    ),
    Work(
        "sst2-lower-4",
        "sst2, lower 4 of 6 layers frozen, 5 epochs",
        "samples/s",
        ours_classify(SST2, epochs=5, words=("model.freeze=4",), whole=True),
        (trainer_classify(BEST, SST2, epochs=5, words=("--freeze", "4"), ratio=4),),
        materials=("minilm",),
    ),
    Work(
        "sst2-head",
        "sst2, head only, 10 epochs",
        "samples/s",
        ours_classify(SST2, epochs=10, words=("model.freeze=body",), whole=True),
        (trainer_classify(BEST, SST2, epochs=10, rate=HEAD_RATE, words=("--freeze", "body"), ratio=20),),
        materials=("minilm",),
    ),
    Work(
        "sst2-lora",
        "sst2, MiniLM, LoRA of rank 8 on all layers, 3 epochs",
        "samples/s",
        ours_classify(SST2, epochs=3, words=LORA),
        (trainer_classify("Trainer and peft, best flags", SST2, epochs=3, rate=LORA_RATE, words=("--lora", "8"), ratio=1),),
        materials=("minilm",),
    ),
    Work(
        "lora",
        "LoRA, Qwen2-shaped decoder, alpaca_en_demo, 1 epoch, prompts counted",
        "tokens/s",
        Side(OURS, ours_decode),
        (
            Side("TRL SFTTrainer, best flags", peer_lora("trl_lora.py"), venv="trl", packages=("trl", "peft"), ratio=8, memory=0.25),
            Side("ms-swift", peer_lora("swift_lora.py"), venv="ms-swift", packages=("ms-swift",), ratio=8, memory=0.25),
            Side("LLaMA-Factory", peer_lora("llamafactory_lora.py"), venv="llamafactory", packages=("llamafactory",), ratio=8, memory=0.25),
        ),
        materials=("decoder",),
    ),
    Work(
        "pretrain",
        "GPT-2-shaped 19M from nothing, wikitext2, 1 epoch",
        "tokens/s",
        Side(OURS, ours_pretrain),
        (
            Side(BEST, peer_pretrain("transformers_pretrain.py"), venv="transformers", packages=TRAINER_PACKAGES, ratio=3),
            Side("litgpt, compiled", peer_pretrain("litgpt_pretrain.py"), venv="litgpt", packages=("litgpt", "lightning"), ratio=3),
        ),
        materials=("gpt2-tokenizer",),
    ),
    Work(
        "peak",
        "share of the bf16 peak, encoder 6 x 768, 32 x 128 tokens",
        "of the peak",
        Side(OURS, fraction),
        limit=0.35,
        materials=("encoder",),
    ),
    Work(
        "predict",
        "prediction, 10,000 sst2 texts, MiniLM",
        "texts/s",
        Side(OURS, ours_predict),
        (
            predict("transformers pipeline, bf16, sorted", "transformers", "transformers_predict.py", 32, ("transformers",)),
            predict(
                "sentence-transformers encode, bf16",
                "sentence-transformers",
                "sentence_transformers_predict.py",
                32,
                ("sentence-transformers",),
            ),
        ),
        materials=("classifier",),
    ),
    Work(
        "help",
        "`--help`, whole process",
        "s",
        Side(OURS, lambda _: ["-m", "luthier", "--help"]),
        (
            first_words("trl --help", "trl", ("--help",), venv="trl", package="trl"),
            first_words("llamafactory-cli help", "llamafactory-cli", ("help",), venv="llamafactory", package="llamafactory"),
            first_words("litgpt --help", "litgpt", ("--help",), venv="litgpt", package="litgpt"),
            first_words("axolotl --help", "axolotl", ("--help",), venv="axolotl", package="axolotl", environ={"AXOLOTL_DO_NOT_TRACK": "1"}),
            first_words("tune ls", "tune", ("ls",), venv="torchtune", package="torchtune"),
        ),
        more_is_better=False,
        wall=True,
        limit=0.15,
    ),
)
