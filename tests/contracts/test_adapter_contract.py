"""Every registered adapter, and the variants of LoRA, on a tiny encoder and a tiny decoder: a fresh one changes no output, only its own
parameters train, and what was saved answers the same in Luthier, in plain peft where it knows the method, and merged into the base where
the method is a change of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from row_tasks import token_classification
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe
from tiny_seq2seq import make_tiny_seq2seq, pairs_recipe, tiny_pairs, write_pairs
from torch import Tensor

from luthier import flow
from luthier.adapters import adapters
from luthier.adapters.adapter import Adapter, sizes_of
from luthier.adapters.injection.of_peft import host_of
from luthier.core import files
from luthier.core.errors import ConfigError
from luthier.core.model_folder import SETTINGS
from luthier.core.work import Part, Parts
from luthier.recipe import resolve
from luthier.serve.predictor import with_adapter
from luthier.stages.layout.begin import Bench, lay_out
from luthier.stages.results.finish import save_model
from luthier.tasks import tasks
from luthier.training.inference import measuring

VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"type": "lora", "r": 4, "alpha": 8, "rslora": True},
    "dora": {"type": "lora", "r": 4, "alpha": 8, "dora": True},
    "gaussian": {"type": "lora", "r": 4, "alpha": 8, "start": "gaussian"},
    "pissa": {"type": "lora", "r": 4, "alpha": 8, "start": "pissa"},
    "pissa with rslora": {"type": "lora", "r": 4, "alpha": 8, "start": "pissa", "rslora": True},
    "olora": {"type": "lora", "r": 4, "alpha": 8, "start": "olora"},
    "lora+": {"type": "lora", "r": 4, "alpha": 8, "plus_ratio": 16.0},
    "prefix-tuning by a network": {"type": "prefix-tuning", "num_virtual_tokens": 5, "reparameterize": True, "hidden": 16},
    "boft": {"type": "peft", "method": "BOFT", "boft_block_size": 4},
    "oft": {"type": "peft", "method": "oft", "oft_block_size": 4},
    "lokr": {"type": "peft", "method": "LOKR", "r": 4},
    "hra": {"type": "peft", "method": "HRA", "r": 4},
    "fourierft": {"type": "peft", "method": "FOURIERFT", "n_frequency": 30, "init_weights": True},
    "miss": {"type": "peft", "method": "MISS", "r": 4},
    "pfeiffer": {"type": "bottleneck", "placement": "pfeiffer", "bottleneck_size": 6, "activation": "tanh"},
}
CASES = [*adapters.names(), *VARIANTS]
NETWORKS = {"p-tuning", "prefix-tuning by a network"}  # whose network is left behind
VIRTUAL = {"prompt-tuning", "prefix-tuning", *NETWORKS}  # something before the rows: fresh ones change the output, none changes weights
DOUBLED = {"pissa", "pissa with rslora", "olora"}  # saved as a LoRA of twice the rank
ONE_STACK = {"bottleneck", "reft", "prompt-tuning", "prefix-tuning", "p-tuning"}  # refused where an encoder and a decoder are apart
PAIRS = [
    *((case, kind) for case in CASES for kind in ("encoder", "decoder")),
    *((case, "tagger") for case in adapters.names()),
    *((case, "seq2seq") for case in adapters.names() if case not in ONE_STACK),
]
every_case = pytest.mark.parametrize(("case", "kind"), [pytest.param(case, kind, id=f"{case}: {kind}") for case, kind in PAIRS])


@dataclass
class Laid:
    """A training with an adapter, laid out, and its folder of models."""

    bench: Bench
    base: Path

    @property
    def parts(self) -> Parts:
        return self.bench.parts

    @property
    def host(self) -> Any:
        return host_of(self.parts["model"].module)[0]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tiny")
    rows = tiny.write_rows(folder / "rows.csv", tiny.tiny_rows(60))
    encoder = tiny.tiny_recipe(tiny.make_tiny_model(folder / "bert"), rows, folder / "run", {"model.extend_vocabulary": False})
    (folder / "tagged").mkdir()
    told = write_instructions(folder / "rows.jsonl", tiny_instructions(60))
    tags = {"model.extend_vocabulary": False, "task": "token-classification"}
    pairs = write_pairs(folder / "pairs.jsonl", tiny_pairs(60))
    return {
        "encoder": encoder,
        "decoder": writing_recipe(make_tiny_decoder(folder / "llama"), told, folder / "run"),
        "tagger": tiny.tiny_recipe(folder / "bert", token_classification.write(folder / "tagged"), folder / "run", tags),
        "seq2seq": pairs_recipe(make_tiny_seq2seq(folder / "t5"), pairs, folder / "run"),
    }


@pytest.fixture
def laid(recipes: dict[str, dict[str, Any]]) -> Callable[..., Laid]:
    """Lay a training with an adapter out."""

    def make(kind: str, case: str) -> Laid:
        settings = VARIANTS.get(case) or adapters.get(case).example().model_dump(mode="json")
        apart = {"data.packing": False} if case in VIRTUAL and kind == "decoder" else {}
        resolved = resolve(recipes[kind] | {"adapter": settings}, apart)
        return Laid(lay_out(resolved, flow.prepare(resolved)), Path(recipes[kind]["model"]["path"]))

    return make


def learn(laid: Laid, num_steps: int = 3) -> None:
    """A few steps, and then noise on all that is trained, so that no part of it can be lost unseen."""
    work, split, optimiser = laid.bench.work, laid.bench.prepared.splits["train"], laid.bench.saved.optimiser
    batch = work.collate([split.row(row) for row in range(8)])
    for _ in range(num_steps):
        optimiser.zero_grad()
        sum(term.sum / term.weight for term in work.losses(laid.parts, batch).values()).backward()
        optimiser.step()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in laid.host.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=noise))


def states(host: Any) -> Tensor:
    """Last states of the body for a few tokens; of a classifier only those that its head reads, the others need not be computed."""
    with measuring({"model": Part(host)}):
        found = host.base_model(**given_to(host))[0].clone()
    return found[:, :1] if type(host).__name__ == "BertForSequenceClassification" else found


def logits(host: Any) -> Tensor:
    with measuring({"model": Part(host)}):
        return host(**given_to(host)).logits.clone()


def given_to(host: Any) -> dict[str, Tensor]:
    tokens = torch.randint(5, host.config.vocab_size, (3, 12), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens} | ({"decoder_input_ids": tokens.flip(0)} if host.config.is_encoder_decoder else {})


def base_of(laid: Laid) -> Any:
    """The base in plain transformers; the head of an encoder is another one."""
    import transformers

    labels = {"num_labels": laid.host.config.num_labels} if hasattr(laid.host, "classifier") else {}
    return getattr(transformers, type(laid.host).__name__).from_pretrained(laid.base, **labels)


def plain_peft(laid: Laid, folder: Path) -> Any:
    """The saved adapter in plain peft on the plain base."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base_of(laid), folder).eval()


def reopened(folder: Path) -> tuple[Adapter, Any, Parts]:
    settings = files.read_json(folder / SETTINGS)
    return with_adapter(tasks.get(settings["task"])(), folder, settings)


@every_case
def test_a_fresh_adapter_changes_no_output(case: str, kind: str, laid: Callable[..., Laid]) -> None:
    fresh = laid(kind, case)
    changed = float((states(fresh.host) - states(base_of(fresh))).abs().max())
    assert changed > 1e-3 if case in VIRTUAL else changed <= 1e-5


@every_case
def test_only_its_parameters_and_the_head_train(case: str, kind: str, laid: Callable[..., Laid]) -> None:
    made = laid(kind, case)
    before = {name: parameter.detach().clone() for name, parameter in made.host.named_parameters()}
    learn(made)
    moved = {name for name, parameter in made.host.named_parameters() if not torch.equal(parameter, before[name])}
    wanted = {name for name, parameter in made.host.named_parameters() if parameter.requires_grad}
    assert moved == wanted and wanted
    assert all((parameter.grad is not None) == (name in wanted) for name, parameter in made.host.named_parameters())
    plain = {name for name, _ in base_of(made).named_parameters()}
    assert not wanted & plain, "parameters of the base train"
    heads = {name for name in wanted if "modules_to_save" in name}
    assert bool(heads) == (kind in ("encoder", "tagger")) and all("classifier" in name for name in heads)


@every_case
def test_the_number_of_parameters_is_that_of_the_saved_ones(case: str, kind: str, laid: Callable[..., Laid], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = laid(kind, case)
    counted = sizes_of(made.parts["model"].module)
    save_model(made.bench, tmp_path)
    saved = {name: tensor.numel() for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items()}
    head = sum(numbers for name, numbers in saved.items() if "classifier" in name)
    random = sum(numbers for name, numbers in saved.items() if name in ("base_model.vera_A", "base_model.vera_B"))
    assert counted["head"] == head
    if case not in NETWORKS:
        assert counted["adapter"] * (2 if case in DOUBLED else 1) == sum(saved.values()) - head - random
    assert counted["base"] == sum(parameter.numel() for parameter in base_of(made).parameters())


@every_case
def test_saved_it_answers_the_same_here_in_plain_peft_and_merged(case: str, kind: str, laid: Callable[..., Laid], tmp_path: Path) -> None:
    made = laid(kind, case)
    base = base_of(made)
    learn(made)
    wanted = logits(made.host)
    assert float((states(made.host) - states(base)).abs().max()) > 1e-3, "the adapter does nothing"
    save_model(made.bench, tmp_path)
    adapter, _, parts = reopened(tmp_path)
    assert float((logits(host_of(parts["model"].module)[0]) - wanted).abs().max()) <= 1e-5
    if adapter.in_plain_peft:
        peft = plain_peft(made, tmp_path)
        with torch.no_grad():
            plain = peft(**given_to(made.host)).logits
        plain = plain[:, -wanted.shape[1] :] if wanted.ndim == 3 else plain  # plain peft has those of virtual tokens too
        assert float((plain - wanted).abs().max()) <= 1e-5
    if case in VIRTUAL or not adapter.in_plain_peft:
        with pytest.raises(ConfigError, match="no change of weights"):
            adapter.merge(parts["model"].module)
        return
    adapter.merge(parts["model"].module)
    merged = host_of(parts["model"].module)[0]
    assert float((logits(merged) - wanted).abs().max()) <= 1e-5
    old, found = base.state_dict(), merged.state_dict()
    assert old.keys() == found.keys()
    changed = {name for name in old if not torch.allclose(old[name], found[name], atol=1e-4)}
    assert {name for name in changed if "classifier" not in name}, "the merged weights are those of the base"


@every_case
def test_switched_off_it_is_the_base(case: str, kind: str, laid: Callable[..., Laid]) -> None:
    made = laid(kind, case)
    base = base_of(made)
    learn(made)
    before, trained = states(made.host), {name for name, parameter in made.host.named_parameters() if parameter.requires_grad}
    with made.bench.recipe.adapter.switched_off(made.parts["model"].module):
        assert float((states(made.host) - states(base)).abs().max()) <= 1e-5
    assert torch.equal(states(made.host), before)
    assert trained == {name for name, parameter in made.host.named_parameters() if parameter.requires_grad}
