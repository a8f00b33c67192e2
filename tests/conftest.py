"""What every test may ask for: a tiny model, tiny rows, a finished tiny run; offline, one thread, a cache of its own."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tiny  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing that a test prepares lands in the user's cache, and nothing in it makes a test pass."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("LUTHIER_CACHE")
    os.environ["LUTHIER_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["LUTHIER_CACHE"]
    else:
        os.environ["LUTHIER_CACHE"] = before


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The command line changes the logger, signal handlers and variables of its process: put them back."""
    logger, environment = logging.getLogger("luthier"), dict(os.environ)
    kept = (logger.level, logger.propagate, logger.handlers[:], signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    yield
    logger.level, logger.propagate, logger.handlers = kept[0], kept[1], kept[2]
    signal.signal(signal.SIGTERM, kept[3])
    signal.signal(signal.SIGINT, kept[4])
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def still_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("models") / "still", dropout=0.0)


@pytest.fixture(scope="session")
def tiny_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_rows(tmp_path_factory.mktemp("rows") / "tiny.csv", tiny.tiny_rows(120))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_csv: Path) -> Path:
    """A finished run folder: 40 steps, validation and test. Read it, never write into it."""
    from luthier import flow

    changes = {"training.max_steps": 40, "data.split": {"validation": 0.2, "test": 0.2}}
    return flow.train(tiny.tiny_recipe(tiny_model, tiny_csv, tmp_path_factory.mktemp("runs") / "tiny", changes)).path


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path, tiny_csv: Path) -> Callable[..., dict[str, Any]]:
    """Make a recipe on the tiny model and rows: `recipe("name of the run folder", {"training.seed": 1})`."""

    def make(
        name: str = "run", changes: dict[str, Any] | None = None, *, model: Path = tiny_model, rows: Path = tiny_csv
    ) -> dict[str, Any]:
        return tiny.tiny_recipe(model, rows, tmp_path / name, changes)

    return make
