"""The robust step rules on a whole model: moves of embeddings that reach the loss, weights that come back, runs that resume bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import steps_of, train_until, weights_hash
from test_gradient_accumulation import NUM_TRAINING_ROWS, SPLITS, laid_out
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe
from torch import Tensor, nn

from luthier import flow
from luthier.core.errors import ConfigError
from luthier.core.work import Batch, Part
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.training.adversary import Ascent, Texts, Words
from luthier.training.memory import dropout_state
from luthier.training.step_rules import rule_of, step_rules

MakeRecipe = Callable[..., dict[str, Any]]
ROBUST = ["fgm", "pgd", "freelb", "sam"]
every_rule = pytest.mark.parametrize("name", ROBUST)
AS_PLAIN = {
    "training.speed": {"lean_blocks": False, "row_embedding": False, "tiled_attention": False, "fast_dropout": False, "keep_memory": False}
}


def gradients(bench: Bench, name: str, **settings: Any) -> list[dict[str, Tensor]]:
    """The gradient of every parameter at each step of one epoch, at the same weights; rows that do not occur have none."""
    rule, found = step_rules.get(name)(**settings), []
    windows = iter(bench.saved.source)
    for step in range(bench.pace.steps_per_epoch):
        torch.manual_seed(step)
        means = rule.gradient(bench.work, bench.parts, next(windows), nullcontext())
        named = bench.parts["model"].module.named_parameters()
        found.append({"loss": torch.tensor(means["total"])} | {name: p.grad.clone() for name, p in named if p.grad is not None})
        bench.saved.optimiser.zero_grad()
    return found


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The length of the difference of two gradients, relative to the first."""
    assert one.keys() == other.keys()
    flat = [torch.cat([g.flatten() for g in gradient.values()]) for gradient in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@every_rule
def test_any_split_of_a_step_gives_the_same_gradient(name: str, recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    data = recipe("run", {"data.split": {"test": 0}}, model=still_model, rows=rows)
    first, *others = (gradients(laid_out(data, *split), name) for split in SPLITS)
    assert all(difference(*pair) <= 2e-6 for other in others for pair in zip(first, other, strict=True))
    plain = gradients(laid_out(data, *SPLITS[0]), "accumulate")
    assert all(difference(*pair) > 1e-3 for pair in zip(plain, first, strict=True)), "the rule changes the gradient"


@every_rule
def test_windows_of_one_text_are_moved_alike_in_any_split(name: str, recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    changes = {"data.split": {"test": 0}, "data.long_texts": "windows", "data.max_length": 7, "data.window_stride": 1}
    data = recipe("run", changes, model=still_model, rows=rows)
    first, other = (gradients(laid_out(data, *split), name) for split in SPLITS[:2])
    assert all(difference(*pair) <= 2e-6 for pair in zip(first, other, strict=True))


def shaken(bench: Bench) -> Bench:
    """The bench with other weights than 0 everywhere, the same for a parameter's name; the table, which may be cut, stays."""
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(bench.parts["model"].module.named_parameters()):
            if "word_embeddings" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return bench


@every_rule
def test_the_means_of_speed_pass_the_moves_on(name: str, recipe: MakeRecipe, still_model: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.csv", tiny.tiny_rows(NUM_TRAINING_ROWS))
    found, kinds = [], []
    for changes in ({}, AS_PLAIN):
        resolved = resolve(recipe("run", {"data.split": {"test": 0}, **changes}, model=still_model, rows=rows))
        bench = shaken(lay_out(resolved, flow.prepare(resolved)))
        kinds.append(type(Words.of(bench.parts).module).__name__)
        found.append(gradients(bench, name))
    assert kinds == ["RowEmbedding", "Embedding"]
    words = "bert.embeddings.word_embeddings.weight"
    for fast, plain in zip(*found, strict=True):
        touched = plain[words].abs().sum(1) > 0
        assert torch.allclose(fast.pop(words).norm(), plain.pop(words)[touched].norm(), rtol=1e-4)
        assert difference(fast, plain) <= 1e-4


@every_rule
def test_text_that_is_packed_is_moved_as_text_that_is_padded(name: str, tmp_path: Path) -> None:
    model = make_tiny_decoder(tmp_path / "decoder")
    rows = write_instructions(tmp_path / "rows.jsonl", tiny_instructions(40))
    found = []
    for packing in (True, False):
        resolved = resolve(writing_recipe(model, rows, tmp_path / "run", {"data.packing": packing, "training.group_by_length": False}))
        bench = lay_out(resolved, flow.prepare(resolved))
        assert ("position_ids" in next(iter(bench.saved.source))[0].inputs) == packing
        found.append(gradients(bench, name))
    assert all(difference(*pair) <= 1e-4 for pair in zip(*found, strict=True))


@every_rule
def test_a_resumed_run_is_the_uninterrupted_one(name: str, recipe: MakeRecipe) -> None:
    changes = {"training.max_steps": 6, "training.save_every": "2steps", "evaluate.baseline": False, "training.step_rule": name}
    whole = flow.train(recipe("whole", changes)).path
    run = train_until(recipe("run", changes), 5)
    flow.resume(run)
    assert weights_hash(run) == weights_hash(whole) and steps_of(run) == steps_of(whole)


@every_rule
def test_training_with_it_learns(name: str, recipe: MakeRecipe) -> None:
    settings = {"type": name} if name == "sam" else {"type": name, "epsilon": 0.01}
    losses = [tick.loss for tick in flow.Training.begin(recipe("run", {"training.step_rule": settings, "training.max_steps": 40}))]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


class Squares:
    """The square of the sum of all embeddings of each text: its gradient is known."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"loss": float(len(batch.ids))}

    def losses(self, parts: Any, batch: Batch) -> Any:
        from luthier.core.work import Term

        sums_B = parts["model"].module(batch.inputs["input_ids"]).sum((1, 2))
        return {"loss": Term((sums_B**2).sum(), torch.tensor(float(len(batch.ids))))}


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]), freeze=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids)


def test_fgm_worked_by_hand() -> None:
    """Sum s = 5 over 4 numbers: the gradient points along all of them, so a move of length 2 adds 1 to each, and s becomes 9."""
    module, batch = Table(), Batch([7], {"input_ids": torch.tensor([[0, 1]])})
    means = step_rules.get("fgm")(epsilon=2.0, weight=0.5).gradient(Squares(), {"model": Part(module)}, [batch], nullcontext())
    assert means == {"total": 25.0, "loss": 25.0}
    assert module.words.weight.grad is not None
    assert torch.allclose(module.words.weight.grad[:2], torch.full((2, 2), 2 * 5 + 0.5 * 2 * 9.0))


def test_pgd_of_one_step_is_fgm_and_more_steps_end_on_the_ball() -> None:
    batch, found = Batch([7], {"input_ids": torch.tensor([[0, 1]])}), []
    for rule in (
        step_rules.get("pgd")(steps=1, step_size=2.0, epsilon=2.0),
        step_rules.get("pgd")(steps=4, step_size=1.0, epsilon=2.0),
        step_rules.get("fgm")(epsilon=2.0),
    ):
        module = Table()
        rule.gradient(Squares(), {"model": Part(module)}, [batch], nullcontext())
        found.append(module.words.weight.grad)
    assert torch.allclose(found[0], found[2]) and torch.allclose(found[1], found[2])


def test_sam_worked_by_hand() -> None:
    """The gradient at s = 5 points along all 4 numbers in use; rho = 2 adds 1 to each, so s becomes 9, and 5 again after it."""
    module, batch = Table(), Batch([7], {"input_ids": torch.tensor([[0, 1]])})
    before = module.words.weight.detach().clone()
    means = step_rules.get("sam")(rho=2.0).gradient(Squares(), {"model": Part(module)}, [batch], nullcontext())
    assert means["total"] == 25.0 and torch.equal(module.words.weight, before)
    assert module.words.weight.grad is not None and torch.allclose(module.words.weight.grad[:2], torch.full((2, 2), 18.0))


def test_sam_puts_the_weights_back_when_a_pass_fails() -> None:
    class Failing(Squares):
        calls = 0

        def losses(self, parts: Any, batch: Batch) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("out of memory")
            return super().losses(parts, batch)

    module, batch = Table(), Batch([7], {"input_ids": torch.tensor([[0, 1]])})
    before = module.words.weight.detach().clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        step_rules.get("sam")().gradient(Failing(), {"model": Part(module)}, [batch], nullcontext())
    assert torch.equal(module.words.weight, before)


def test_every_pass_of_freelb_draws_the_same_dropout() -> None:
    states = []

    class Watching(Squares):
        def losses(self, parts: Any, batch: Batch) -> Any:
            states.append(dropout_state()[0].clone())
            torch.rand(3)
            return super().losses(parts, batch)

    batch = Batch([7], {"input_ids": torch.tensor([[0, 1]])})
    step_rules.get("freelb")(steps=3).gradient(Watching(), {"model": Part(Table())}, [batch], nullcontext())
    assert len(states) == 3 and torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_moves_have_the_length_that_was_asked_for() -> None:
    ids, mask = torch.tensor([[0, 1, 2], [1, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    texts = Texts.of(Batch([4, 9], {"input_ids": ids, "attention_mask": mask}))
    dice = torch.Generator().manual_seed(0)
    moved = Ascent(0.7, 5.0).climbed(torch.zeros(2, 3, 2), torch.randn(2, 3, 2, generator=dice), texts)
    assert torch.allclose(moved.flatten(1).norm(dim=1), torch.full((2,), 0.7)) and not moved[1, 2].any()
    assert torch.allclose(Ascent(9.0, 5.0).climbed(moved, moved, texts).flatten(1).norm(dim=1), torch.full((2,), 5.0))
    assert torch.equal(Ascent(0.7, 5.0).climbed(moved, torch.zeros(2, 3, 2), texts), moved), "a text without gradient stays"
    noise = texts.noise((3,), 64)
    assert not noise[1, 2].any() and torch.equal(noise, texts.noise((3,), 64)) and not torch.equal(noise, texts.noise((4,), 64))
    alone = Texts.of(Batch([9], {"input_ids": ids[1:, :2]})).noise((3,), 64)
    assert torch.equal(alone[0], noise[1, :2]), "the noise of a text goes by its id, not by its batch"
    assert noise.flatten(1).norm(dim=1).tolist() == pytest.approx([3**-0.5] * 2, rel=0.2)


def test_a_model_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="no trained part has word embeddings"):
        Words.of({"model": Part(nn.Linear(2, 2))})


def test_settings_are_a_name_or_a_section() -> None:
    named = resolve({"training": {"step_rule": "freelb"}}).training.step_rule
    assert rule_of(named) == step_rules.get("freelb")() and rule_of(resolve().training.step_rule).registered_name == "accumulate"
    written = resolve({"training": {"step_rule": {"type": "freelb", "steps": 5}}})
    assert rule_of(written.training.step_rule).steps == 5  # type: ignore[attr-defined]
    assert resolve(written.as_dict()) == written
    changed = resolve({"training": {"step_rule": "freelb"}}, [("training.step_rule.steps", 2)])
    assert changed.as_dict()["training"]["step_rule"] == {"type": "freelb", "steps": 2, "step_size": 0.1, "epsilon": 0.2}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"step_rule": "freelbs"}, "unknown step rule 'freelbs' (did you mean 'freelb'?)"),
        ({"step_rule": {"type": "sam", "steps": 3}}, "training.step_rule.steps: unknown key"),
        ({"step_rule": {"type": "pgd", "steps": 0}}, "training.step_rule.steps"),
        ({"step_rule": {"steps": 3}}, "training.step_rule: got {'steps': 3}, wanted a name"),
        ({"step_rule": "sam", "parallel": "fsdp2"}, "training.step_rule: needs every weight in each process"),
    ],
)
def test_what_cannot_be_is_refused(training: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({"training": training})
    assert said in str(caught.value)


def test_another_rule_does_not_go_on_with_a_checkpoint(recipe: MakeRecipe) -> None:
    from luthier.core import yaml
    from luthier.core.errors import SetupError

    changes = {"training.max_steps": 6, "training.save_every": "2steps", "training.step_rule": {"type": "pgd", "steps": 2}}
    run = train_until(recipe("run", changes), 3)
    stored = yaml.load_file(run / "recipe.yaml")
    stored["training"]["step_rule"]["steps"] = 3
    (run / "recipe.yaml").write_text(yaml.dump(stored), encoding="utf-8")
    with pytest.raises(SetupError, match="step_rule.steps 2 then, 3 now"):
        flow.resume(run)


def test_stored_states_of_frozen_layers_are_not_used(recipe: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"model.freeze": 1, "training.step_rule": "fgm", "training.max_steps": 2}
    flow.train(recipe("run", changes))
    assert "no prefix cache: the step rule moves the word embeddings" in caplog.text
