"""Rules 3 to 5 of the design: names say what a thing is, everything public is explained, nothing that we load can run."""

from __future__ import annotations

import ast
import importlib
import pkgutil

import pytest
from house import Source, sources

import luthier
from luthier.core.config import Section
from luthier.core.registry import Registry

FEWEST_FILES, FEWEST_PUBLIC, FEWEST_FIELDS, FEWEST_CALLS = 100, 250, 60, 1000
NAMES_THAT_SAY_NOTHING = ("util", "utils", "helper", "helpers", "manager", "managers", "misc", "common")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "eval": "parse it with ast.literal_eval or luthier.core.yaml",
    "exec": "import the file that has the code",
    "os.system": "use subprocess.run with a list",
    "os.popen": "use subprocess.run with a list",
    "torch.load": "use safetensors; nothing that we load can run",
    "torch.save": "use safetensors; nothing that we load can run",
}
REGISTRIES = sorted(
    f"{source.module}:{name}"
    for source in sources()
    for node in source.tree.body
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call)
    if getattr(node.value.func, "id", "") == "Registry"
    for name in [getattr(node.target if isinstance(node, ast.AnnAssign) else node.targets[0], "id", "")]
)


def registry_at(place: str) -> Registry:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def public_parts(source: Source) -> list[tuple[int, str, bool]]:
    """Line, name and whether it is explained, of the module and of its public classes, functions and methods."""
    found = [(1, source.module, ast.get_docstring(source.tree) is not None)]

    def walk(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                found.append((node.lineno, f"{owner}{node.name}", ast.get_docstring(node) is not None))
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{node.name}.")

    walk(source.tree.body, "")
    return found


def every_section() -> set[type[Section]]:
    """Every configuration class of the package."""
    for module in pkgutil.walk_packages(luthier.__path__, "luthier."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Section]
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls not in found and cls.__module__.startswith("luthier."):
                found.add(cls)
                waiting.append(cls)
    return found


def test_there_are_registries_to_watch() -> None:
    assert len(REGISTRIES) >= 8, REGISTRIES


@pytest.mark.parametrize("place", REGISTRIES)
def test_a_registered_name_is_its_file_name(place: str) -> None:
    registry = registry_at(place)
    names = [name for name in registry.names() if registry.get(name).__module__.startswith("luthier.")]
    assert names, f"the registry {place} is empty"
    for name in names:
        cls = registry.get(name)
        assert cls.registered_name == name
        assert cls.__module__ == f"{registry.package}.{name.replace('-', '_')}", f"{cls.__module__}: rename the file or the {registry.noun}"


def test_file_names_say_what_is_inside() -> None:
    every = sources()
    names = [(source, part) for source in every for part in source.path.with_suffix("").parts[-2:]]
    faults = [f"{source.at(1)}: name the thing, not '{part}'" for source, part in names if part in NAMES_THAT_SAY_NOTHING]
    assert not faults, "\n".join(faults)
    assert len(every) >= FEWEST_FILES


def test_everything_public_is_explained() -> None:
    parts = [(source, *part) for source in sources() for part in public_parts(source)]
    faults = [f"{source.at(line)}: {name} has no docstring; one line says what it is for" for source, line, name, said in parts if not said]
    assert not faults, "\n".join(faults)
    assert len(parts) >= FEWEST_PUBLIC


def test_every_key_of_a_recipe_is_explained() -> None:
    fields = [(cls, name, field) for cls in every_section() for name, field in cls.model_fields.items()]
    faults = [
        f"{cls.__module__}.{cls.__name__}.{name}: give it Field(description=...)" for cls, name, field in fields if not field.description
    ]
    assert not faults, "\n".join(faults)
    assert len(fields) >= FEWEST_FIELDS


def test_nothing_prints_outside_the_command_line() -> None:
    calls = [(source, line, name) for source in sources() for line, name, _ in source.calls()]
    faults = [f"{source.at(line)}: log it, or return it" for source, line, name in calls if name == "print" and source.room != "cli"]
    assert not faults, "\n".join(faults)
    assert len(calls) >= FEWEST_CALLS and any(name == "print" for _, _, name in calls)


def test_nothing_that_we_load_can_run() -> None:
    faults, num_calls = [], 0
    for source in sources():
        faults += [
            f"{source.at(line)}: no {name}; weights are safetensors, everything else is JSON or YAML"
            for line, name in source.imports()
            if name.partition(".")[0] in FORBIDDEN_MODULES
        ]
        for line, name, call in source.calls():
            num_calls += 1
            if name in FORBIDDEN_CALLS:
                faults.append(f"{source.at(line)}: no {name}(); {FORBIDDEN_CALLS[name]}")
            options = {option.arg: option.value for option in call.keywords}
            for option in ("shell", "trust_remote_code"):
                if option in options and not (isinstance(options[option], ast.Constant) and options[option].value is False):
                    faults.append(f"{source.at(line)}: {option} must stay False")
    assert not faults, "\n".join(faults)
    assert num_calls >= FEWEST_CALLS
