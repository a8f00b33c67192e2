"""Several runs' LoRAs on one base added up: an adapter folder, which answers by itself where their heads agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.adapters.injection.of_peft import WEIGHTS, heads_of, host_of
from luthier.adapters.injection.weighted import THINNED, Mixture, mean_heads, mixed
from luthier.core import files
from luthier.core.errors import ConfigError, Fault, SetupError
from luthier.core.model_folder import SETTINGS, read_settings
from luthier.core.run_folder import RunFolder
from luthier.models.section import ModelSection
from luthier.serve.predictor import with_adapter
from luthier.stages.asking.adapted import CONFIG
from luthier.tasks import tasks
from luthier.training.state import seed_everything, undisturbed

IN_HEADS = ("labels", "multi_label", "prompts")
TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the largest one (or of 1, if that is more)."""
PROBED_TOKENS = 8
RECORD = "merged.json"


@dataclass(frozen=True)
class Source:
    """A saved adapter.

    Args:
        name: As it was named.
        folder: Where it is saved.
        settings: Its `luthier.json`.
        config: Its `adapter_config.json`.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Source:
        """Read a finished run with an adapter, or a folder that holds one.

        Raises:
            ConfigError: if it has none.
            SetupError: if there is no finished run.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file():
            run = RunFolder.open(path)
            run.require_finished()
            folder = run.model
        if not (folder / CONFIG).is_file() or not (folder / SETTINGS).is_file():
            raise ConfigError([Fault(str(path), "has no adapter", "name runs that were trained with adapter.type=lora")])
        return cls(str(path), folder, read_settings(folder), files.read_json(folder / CONFIG))


def mix(paths: Sequence[str | Path], folder: Path, mixture: Mixture) -> dict[str, Any]:
    """Write the weighted sum of several adapters; its logits are compared with those that it had before it was written.

    Args:
        paths: Finished runs, or folders with adapters.
        folder: Where the sum goes; it appears whole or not at all.
        mixture: How they are added up.

    Returns:
        The object that `luthier merge --json` prints.

    Raises:
        ConfigError: if there is one alone, they do not fit together, or the folder is taken.
        SetupError: if it answers otherwise than before it was written.
    """
    sources = [Source.open(path) for path in paths]
    faults = [*mixture.faults(len(sources)), *(fault for source in sources for fault in _faults(source, sources[0]))]
    if len(sources) < 2:
        faults.append(Fault("runs", "got one, wanted two or more", "name the folders of finished runs"))
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        faults.append(Fault("--into", f"'{folder}' is there, and is no adapter folder", "name another folder"))
    if faults:
        raise ConfigError(faults)
    facts: dict[str, Any] = {
        "adapter": str(folder),
        "runs": [source.name for source in sources],
        "weights": list(mixture.weights),
        "method": mixture.method,
        "density": mixture.density if mixture.method in THINNED else None,
        "base": sources[0].config["base_model_name_or_path"],
    }
    with undisturbed():
        seed_everything(0)  # dare drops numbers at random
        files.make_folder(folder, lambda aside: facts.update(_filled(aside, sources, mixture, facts)))
    return facts


def _faults(source: Source, first: Source) -> list[Fault]:
    """Return why an adapter cannot be added to the first."""
    adapter, base = source.settings["adapter"], source.config["base_model_name_or_path"]
    if adapter["type"] != "lora" or adapter.get("dora"):
        what = f"its adapter is {'DoRA, which has lengths beside its products' if adapter['type'] == 'lora' else adapter['type']}"
        return [Fault(source.name, f"{what}, and only LoRAs are added up", "name runs that were trained with adapter.type=lora")]
    if base != first.config["base_model_name_or_path"]:
        what = f"its base is {base}, that of {first.name} is {first.config['base_model_name_or_path']}"
        return [Fault(source.name, what, "name runs on the same base")]
    if source.settings["task"] != first.settings["task"]:
        what = f"its task is {source.settings['task']}, that of {first.name} is {first.settings['task']}"
        return [Fault(source.name, what, "name runs of one task")]
    return []


def _filled(folder: Path, sources: Sequence[Source], mixture: Mixture, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the sum into a folder, and return what is known of it."""
    from safetensors.torch import save_file

    first = sources[0]
    folders = [source.folder for source in sources]
    work = tasks.get(first.settings["task"])().reopen(first.folder)
    parts, new = work.parts(ModelSection(**first.settings["model"]))
    host, prefix = host_of(parts["model"].module)
    heads = heads_of(host, {name.removeprefix(prefix) for name in new})
    state, config = mixed(host, folders, mixture)
    agree = all(_same(source.settings, first.settings, IN_HEADS) for source in sources)
    kept = mean_heads(folders, mixture.weights) if agree else {}
    config.modules_to_save = heads if kept else None
    config.task_type = config.task_type if kept or not heads else None  # else plain peft would look for a head
    config.base_model_name_or_path, config.inference_mode = facts["base"], True
    config.save_pretrained(str(folder))
    save_file({**state, **kept}, folder / WEIGHTS)
    found: dict[str, Any] = {"r": config.r, "heads": heads if kept else [], "predicts": agree}
    if agree:
        work.save_settings(folder)
        files.write_json(folder / SETTINGS, _settings(folder, sources, config))
        found["largest_difference"] = _difference(folder, host, kept)
    files.write_json(folder / RECORD, {**facts, **found})
    return found


def _settings(folder: Path, sources: Sequence[Source], config: Any) -> dict[str, Any]:
    """Return the `luthier.json` of the sum."""
    adapters = [source.settings["adapter"] for source in sources]
    alike = all(adapter["target_modules"] == adapters[0]["target_modules"] for adapter in adapters)
    plain = {"r": config.r, "alpha": config.lora_alpha, "rslora": False, "start": "default"}
    plain["target_modules"] = adapters[0]["target_modules"] if alike else sorted(config.target_modules)
    return {
        **read_settings(folder),
        "adapter": {**adapters[0], **plain},
        "model": sources[0].settings["model"],
        "base_in_half": all(source.settings["base_in_half"] for source in sources),
    }


def _difference(folder: Path, host: Any, heads: dict[str, Any]) -> float:
    """Return how far the logits of what was written are from those of the model it was made in.

    Raises:
        SetupError: if that is too far.
    """
    import torch

    settings = {**read_settings(folder), "base_in_half": False}
    written = host_of(with_adapter(tasks.get(settings["task"])(), folder, settings)[2]["model"].module)[0]
    with torch.no_grad():
        for name, tensor in heads.items():
            host.get_parameter(name.removeprefix("base_model.model.")).copy_(tensor)
        tokens = torch.arange(min(PROBED_TOKENS, host.get_input_embeddings().num_embeddings))[None]
        wanted, found = (model.float().eval()(input_ids=tokens).logits for model in (host, written))
    difference, allowed = float((found - wanted).abs().max()), TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not difference <= allowed:
        what = f"what was written differs from what was added up by {difference:.2g}, and {allowed:.2g} is allowed"
        raise SetupError(what, where=str(folder), fix="merge the runs by another --method; nothing was written")
    return difference


def _same(one: dict[str, Any], other: dict[str, Any], names: Sequence[str]) -> bool:
    return all(one.get(name) == other.get(name) for name in names)
