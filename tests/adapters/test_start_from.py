"""An adapter that goes on from a trained one: it begins where that ended, on other rows and tasks too, or is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier import flow
from luthier.adapters import adapters
from luthier.adapters.injection.of_peft import host_of
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.recipe import resolve
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.results.finish import save_model
from luthier.training.inference import measuring

LORA = {"type": "lora", "r": 4, "alpha": 8}
OTHER_FORM = {"adalora", "p-tuning"}
GOES_ON = [name for name in adapters.names() if name not in OTHER_FORM]
Make = Callable[..., Bench]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("start-from")
    whole = {"model.extend_vocabulary": False, "training.max_steps": 4}
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(60))
    stars = tiny.write_rows(folder / "stars.csv", tiny.tiny_star_rows(60))
    encoder, out = tiny.make_tiny_model(folder / "bert"), folder / "run"
    told = write_instructions(folder / "rows.jsonl", tiny_instructions(60))
    return {
        "encoder": tiny.tiny_recipe(encoder, rows, out, whole),
        "other labels": tiny.tiny_recipe(encoder, stars, out, whole),
        "other task": tiny.tiny_recipe(encoder, stars, out, {**whole, "task": "text-regression"}),
        "decoder": writing_recipe(make_tiny_decoder(folder / "llama"), told, out, {"data.packing": False, "training.max_steps": 4}),
    }


@pytest.fixture
def make(recipes: dict[str, dict[str, Any]]) -> Make:
    def laid(kind: str, adapter: dict[str, Any], changes: dict[str, Any] | None = None) -> Bench:
        resolved = resolve(recipes[kind], {"adapter": adapter, **(changes or {})})
        return lay_out(resolved, flow.prepare(resolved))

    return laid


def trained(bench: Bench, folder: Path) -> Path:
    """Write a bench's adapter after all that it trains was moved."""
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in bench.parts["model"].module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=dice))
    folder.mkdir()
    save_model(bench, folder)
    return folder


def states(bench: Bench) -> torch.Tensor:
    host: Any = host_of(bench.parts["model"].module)[0]
    tokens = torch.randint(5, host.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(1))
    with measuring(bench.parts):
        return host(input_ids=tokens).logits.clone()


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", [*GOES_ON, "dora"])
def test_it_begins_where_the_trained_one_ended(name: str, kind: str, make: Make, tmp_path: Path) -> None:
    settings = {**LORA, "dora": True} if name == "dora" else adapters.get(name).example().model_dump(mode="json")
    first = make(kind, settings)
    fresh = states(first)
    folder = trained(first, tmp_path / "trained")
    again = make(kind, settings | {"start_from": str(folder)})
    assert float((states(again) - states(first)).abs().max()) <= 1e-5 < 1e-2 < float((states(again) - fresh).abs().max())
    assert not again.new, "the head is the trained one"
    work, split, optimiser = again.work, again.prepared.splits["train"], again.saved.optimiser
    before = {n: p.detach().clone() for n, p in again.parts["model"].module.named_parameters()}
    loss = sum(term.sum / term.weight for term in work.losses(again.parts, work.collate([split.row(row) for row in range(8)])).values())
    loss.backward()
    optimiser.step()
    moved = {n for n, p in again.parts["model"].module.named_parameters() if not torch.equal(p, before[n])}
    wanted = {n for n, p in again.parts["model"].module.named_parameters() if p.requires_grad}
    still = {n for n in wanted if "layers.1.reft" in n}  # states that no answer is read from
    assert wanted - still <= moved <= wanted and moved


@pytest.mark.parametrize("kind", ["other labels", "other task"])
def test_other_answers_take_the_adapter_and_begin_with_a_head_of_their_own(kind: str, make: Make, tmp_path: Path) -> None:
    first = make("encoder", LORA)
    folder = trained(first, tmp_path / "trained")
    again = make(kind, LORA | {"start_from": str(folder)})
    there, here = (dict(bench.parts["model"].module.named_parameters()) for bench in (first, again))
    products = [name for name in here if ".lora_" in name]
    assert products and all(torch.equal(here[name], there[name]) for name in products)
    assert again.new and all("classifier" in name for name in again.new)


def test_a_run_goes_on_and_stands_by_itself(recipes: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    first = flow.train(resolve(recipes["encoder"], {"adapter": LORA, "output": str(tmp_path / "first"), "training.max_steps": 40}))
    changes = {"adapter": LORA | {"start_from": str(first.path)}, "output": str(tmp_path / "second"), "training.max_steps": 2}
    second = flow.train(resolve(recipes["encoder"], changes))
    fresh = flow.train(resolve(recipes["encoder"], {"adapter": LORA, "output": str(tmp_path / "fresh"), "training.max_steps": 2}))
    losses = [next(line["loss"] for line in files.read_json_lines(run.events) if "loss" in line) for run in (second, fresh)]
    assert losses[0] < 0.9 * losses[1]
    assert "start_from" not in files.read_json(second.model / "luthier.json")["adapter"]
    shutil.rmtree(first.path)
    lines = files.read_json_lines(second.reference)
    assert [a.label for a in flow.predict(second.path, [line["text"] for line in lines])] == [line["label"] for line in lines]


def test_it_goes_on_from_what_plain_peft_saved(make: Make, tmp_path: Path) -> None:
    first = make("encoder", LORA)
    folder = trained(first, tmp_path / "trained")
    for name in [file.name for file in folder.iterdir() if not file.name.startswith("adapter_")]:
        (folder / name).unlink()
    again = make("encoder", LORA | {"start_from": str(folder)})
    products = {n: p for n, p in again.parts["model"].module.named_parameters() if ".lora_" in n}
    there = dict(first.parts["model"].module.named_parameters())
    assert all(torch.equal(p, there[n]) for n, p in products.items()) and again.new, "nothing says what its head answers"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"type": "ia3"}, "the adapter there is LORA, and that of the recipe IA3"),
        ({"type": "bottleneck"}, "the adapter there is LORA, and that of the recipe LUTHIER_BOTTLENECK"),
        ({"r": 5}, "r is 4 there, and 5 in the recipe"),
        ({"alpha": 16}, "lora_alpha is 8.* there"),
        ({"dora": True}, "use_dora is False there"),
        ({"target_modules": ["query"]}, "weights that the adapter in this model has not: .* more"),
        ({"start": "pissa"}, "saved in another form than it is trained in"),
        ({"type": "adalora"}, "saved in another form"),
        ({"type": "p-tuning"}, "saved in another form"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, make: Make, tmp_path: Path) -> None:
    folder = trained(make("encoder", LORA), tmp_path / "trained")
    settings = changes if "type" in changes else LORA | changes
    with pytest.raises(ConfigError, match=said) as caught:
        make("encoder", settings | {"start_from": str(folder)})
    assert all(fault.path == "adapter.start_from" and fault.fix for fault in caught.value.faults)


def test_another_base_and_no_adapter_are_refused(make: Make, tiny_run: Path, tmp_path: Path) -> None:
    folder = trained(make("encoder", LORA), tmp_path / "trained")
    other, same = tiny.make_tiny_model(tmp_path / "other", seed=1), tmp_path / "same"
    with pytest.raises(ConfigError, match="its base is .*bert, and that of the recipe is .*other"):
        make("encoder", LORA | {"start_from": str(folder)}, {"model.path": str(other)})
    shutil.copytree(make("encoder", LORA).recipe.model.path, same)
    assert make("encoder", LORA | {"start_from": str(folder)}, {"model.path": str(same)}).parts
    for path in (tiny_run, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="has no adapter"):
            make("encoder", LORA | {"start_from": str(path)})
