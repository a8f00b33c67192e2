"""The blocks of encoder-decoders stand side by side, level at their tops: freezing, rates and turns go by these levels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs
from torch import nn

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.models.blocks import depths_of, levels_of
from luthier.models.freezing import freeze, lower_part, train_only
from luthier.models.outline import num_levels
from luthier.optim.schedules.schedule import Horizon
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out, optimiser_of
from luthier.stages.layout.pace import layers_over
from luthier.stages.running.unfreeze import Turns

WORDS = {"vocab_size": 50, "pad_token_id": 0, "decoder_start_token_id": 0}
BART = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in {"attention_heads": 2, "ffn_dim": 32}.items()} | {
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "max_position_embeddings": 32,
}
T5 = {"d_model": 16, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8}
SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), BART),
    **dict.fromkeys(("t5", "umt5", "longt5"), T5),
    "prophetnet": {
        **{"hidden_size": 16, "num_encoder_layers": 3, "num_decoder_layers": 2, "num_encoder_attention_heads": 2},
        **{"num_decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 32},
    },
}
every_family = pytest.mark.parametrize("family", SIZES)
DEPTHS = {"encoder": {0: 1, 1: 2, 2: 3}, "decoder": {0: 2, 1: 3}}
"""Three blocks read and two write: the upper two of each are level."""


def config_of(family: str, **changes: Any) -> Any:
    return transformers.AutoConfig.for_model(family, **WORDS | SIZES[family] | changes)


def writer(family: str, **changes: Any) -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_config(config_of(family, **changes))


def depth_by_name(name: str) -> int | None:
    """The depth of a parameter in a block as its name says it, None elsewhere."""
    pieces = name.split(".")
    for stack in ("layers", "block"):
        if stack in pieces:
            place = pieces.index(stack)
            return DEPTHS[pieces[place - 1]][int(pieces[place + 1])]
    return None


def trained_in(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@every_family
def test_the_levels_are_counted_from_the_top_of_both(family: str) -> None:
    model = writer(family)
    assert [len(level) for level in levels_of(model)] == [1, 2, 2] and num_levels(model.config) == 3
    for name, depth in depths_of(model).items():
        written = depth_by_name(name)
        embeds = any(word in name for word in ("embed", "shared"))
        assert depth == (written if written is not None else 0 if embeds else 4), name


@every_family
@pytest.mark.parametrize("how", [0, 1, 2])
def test_a_number_freezes_the_lowest_levels_and_their_dropout(family: str, how: int) -> None:
    model = writer(family)
    freeze(model, how, frozenset())
    model.train()
    assert trained_in(model) == {name for name, depth in depths_of(model).items() if depth > how}
    for depth, level in enumerate(levels_of(model), start=1):
        assert {module.training for block in level for module in block.modules()} == {depth > how}
    assert lower_part(model) is None


def test_more_levels_than_there_are_and_a_body_without_head_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 4, but the model has 3 layers \(at most model\.freeze=3"):
        freeze(writer("t5"), 4, frozenset())
    for family in ("t5", "bart"):
        with pytest.raises(ConfigError, match="of words with its word table: nothing would be left to train .*model.freeze=2"):
            freeze(writer(family), "body", frozenset())


def test_a_layer_of_scores_of_its_own_is_a_head() -> None:
    model = writer("t5")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # as T5 1.1 has it
    freeze(model, "body", frozenset())
    assert trained_in(model) == {"lm_head.weight"} and depths_of(model)["lm_head.weight"] == 4
    model.train()
    assert not any(module.training for module in (*model.encoder.modules(), *model.decoder.modules()))


def test_an_encoder_that_is_frozen_by_name_is_still_and_the_decoder_is_not() -> None:
    model = writer("t5")
    freeze(model, ("encoder", "shared"), frozenset())
    model.train()
    assert not any(module.training for module in model.encoder.modules()) and all(
        module.training for module in model.decoder.block.modules()
    )


def test_bitfit_trains_biases_where_there_are_any() -> None:
    model = writer("bart")
    train_only(model, "bitfit", frozenset())
    assert trained_in(model) == {name for name, _ in model.named_parameters() if name.endswith(".bias")}
    with pytest.raises(ConfigError, match=r"has no biases \(name another, such as model\.train=norms"):
        train_only(writer("t5"), "bitfit", frozenset())


def test_a_classifier_on_two_stacks_has_levels_too() -> None:
    model = transformers.AutoModelForSequenceClassification.from_config(config_of("bart", num_labels=2, eos_token_id=1))
    depths = depths_of(model)
    assert {depths[name] for name in depths if name.startswith("classification_head")} == {4} and len(levels_of(model)) == 3


@pytest.fixture(scope="module", params=["t5", "bart"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_seq2seq(tmp_path_factory.mktemp("models") / request.param, family=request.param)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("rows") / "pairs.jsonl", tiny_pairs(60))


def bench_of(recipe: dict[str, Any]) -> Bench:
    resolved = resolve(recipe)
    return lay_out(resolved, flow.prepare(resolved))


def test_rates_fall_level_by_level(base: Path, rows: Path, tmp_path: Path) -> None:
    changes = {"optim": {"type": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0, "layer_decay": 0.5}}
    bench = bench_of(pairs_recipe(base, rows, tmp_path / "run", changes))
    names = {id(p): name for name, p in bench.parts["model"].module.named_parameters()}
    for group in optimiser_of(bench.recipe, bench.parts, bench.new).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            wanted = {"embed": 1.25e-4, "shared": 1.25e-4, ".0.": 2.5e-4, ".1.": 5e-4, "final_layer_norm": 1e-3}
            in_block = ".layers." in name or ".block." in name
            key = next(key for key in wanted if key in name and in_block == key.startswith("."))
            if in_block:
                key = "." + name.split(".layers." if ".layers." in name else ".block.")[1][0] + "."
            assert group["lr"] == pytest.approx(wanted[key], rel=1e-12), name


def moved_by(base: Path, rows: Path, folder: Path, changes: dict[str, Any]) -> set[str]:
    run = flow.train(pairs_recipe(base, rows, folder, {"training.max_steps": 3, "evaluate.baseline": False, **changes}))
    before, after = (transformers.AutoModelForSeq2SeqLM.from_pretrained(path).state_dict() for path in (base, run.model))
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


LOW, HIGH = (".block.0.", ".layers.0."), (".block.1.", ".layers.1.")
ONE_STEP = {"training.max_steps": 1}


@pytest.mark.parametrize(
    ("changes", "still"),
    [
        ({"model.freeze": 1}, ("shared", "embed", *LOW)),
        ({"unfreeze": {"type": "gradual", "every": "1 step", "start": 1}, **ONE_STEP}, ("shared", "embed", *LOW)),
        ({"unfreeze": {"type": "gradual", "every": "1 step", "order": "up", "start": 2}, **ONE_STEP}, HIGH),
    ],
)
def test_what_is_frozen_or_waits_for_its_turn_does_not_move(
    changes: dict[str, Any], still: tuple[str, ...], base: Path, rows: Path, tmp_path: Path
) -> None:
    moved = moved_by(base, rows, tmp_path / "run", changes)
    assert not [name for name in moved if any(piece in name for piece in still) and "lm_head" not in name]
    others = LOW if still == HIGH else HIGH
    for side in ("encoder", "decoder"):
        assert [name for name in moved if f"{side}." in name and any(piece in name for piece in others)]


def test_biases_alone_move(rows: Path, tmp_path: Path) -> None:
    bart = make_tiny_seq2seq(tmp_path / "bart", family="bart")
    moved = moved_by(bart, rows, tmp_path / "run", {"model.train": "bitfit"})
    assert moved and all(name.endswith(".bias") for name in moved)


def test_the_turns_of_both_stacks_come_together(base: Path, rows: Path, tmp_path: Path) -> None:
    recipe = resolve(pairs_recipe(base, rows, tmp_path / "run", {"unfreeze": {"type": "gradual", "every": "1 step", "start": 1}}))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(base)
    turns = Turns(recipe, model, Horizon(4, 4))
    found = []
    for step in range(3):
        turns.switch(step)
        found.append({(side, place) for side in ("encoder", "decoder") for place in (0, 1) if any(_named(model, side, place))})
    assert found[0] == {("encoder", 1), ("decoder", 1)} and found[1] == found[2] and len(found[1]) == 4
    drawn = layers_over(recipe, Horizon(4, 4))
    assert drawn is not None and drawn["blocks"] == 2 and [turn["trained"] for turn in drawn["turns"]] == [[2], [1, 2], [0, 1, 2]]


def _named(model: nn.Module, side: str, place: int) -> list[bool]:
    """Whether each parameter of a block is trained."""
    return [
        p.requires_grad for name, p in model.named_parameters() if f"{side}.block.{place}." in name or f"{side}.layers.{place}." in name
    ]


def test_where_nothing_follows_the_blocks_turns_begin_with_one(rows: Path, tmp_path: Path) -> None:
    bart = make_tiny_seq2seq(tmp_path / "bart", family="bart")
    recipe = pairs_recipe(bart, rows, tmp_path / "run", {"unfreeze": {"type": "gradual", "every": "1 step"}})
    with pytest.raises(ConfigError, match=r"nothing that is trained follows the blocks of BartModel.*unfreeze\.start=1"):
        bench_of(recipe)
