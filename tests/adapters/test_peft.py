"""Methods of the PEFT library by name: what does not exist, or does not keep the contract, is refused before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adapted import bench_of
from tiny_decoder import make_tiny_decoder, tiny_instructions, write_instructions, writing_recipe

from luthier.core.errors import ConfigError

Made = Callable[..., Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Lay a training on a tiny decoder out, with an adapter of the settings."""
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_decoder(folder / "llama")
    rows = write_instructions(folder / "rows.jsonl", tiny_instructions(60))
    return lambda **settings: bench_of(writing_recipe(model, rows, Path(folder / "run"), {"adapter": settings}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "BOOFT"}, r"adapter.method: the PEFT library has no method 'BOOFT' \(.*BOFT"),
        ({"method": "BOFT", "boft_blok_size": 4}, r"adapter.boft_blok_size: BOFT has no such setting \(.*boft_block_size"),
        ({"method": "LOHA", "modules_to_save": ["lm_head"]}, "adapter.modules_to_save: LOHA has no such setting"),
        ({"method": "lora"}, r"LORA has a type of its own.*adapter.type=lora"),
        ({"method": "prefix-tuning"}, "PREFIX_TUNING has a type of its own.*adapter.type=prefix-tuning"),
        ({"method": "ADALORA"}, "ADALORA has a type of its own.*adapter.type=adalora"),
        (
            {"method": "FOURIERFT", "n_frequency": 30},
            r"a fresh adapter of this method changes the states .*init_weights=true",
        ),
        ({"method": "LOHA", "target_modules": ["nothing"]}, r"LOHA does not fit a llama: Target modules .*nothing"),
        ({"method": "BOFT", "boft_block_size": 5}, "BOFT does not fit a llama"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], said: str, made: Made) -> None:
    with pytest.raises(ConfigError, match=said):
        made(type="peft", **settings)


def test_a_method_that_is_no_change_of_weights_is_not_merged(made: Made) -> None:
    bench = made(type="peft", method="LILY", r=4)
    with pytest.raises(ConfigError, match="LILY is no change of weights.*serve the run as it is"):
        bench.recipe.adapter.merge(bench.parts["model"].module)


def test_settings_of_the_method_reach_it(made: Made) -> None:
    bench = made(type="peft", method="HRA", r=2, target_modules=["q_proj"])
    names = {name: p.shape for name, p in bench.parts["model"].module.named_parameters() if p.requires_grad}
    assert len(names) == 2 and all("q_proj.hra_u" in name and 2 in shape for name, shape in names.items())
