"""Section 1 of the design: a room imports lower levels only, and its own files."""

from __future__ import annotations

from house import PACKAGE, Source, sources

LEVELS: dict[str, int] = {
    "core": 0,
    **dict.fromkeys(("data", "models", "losses", "optim", "metrics"), 1),
    **dict.fromkeys(("adapters", "tasks"), 2),
    "training": 3,
    **dict.fromkeys(("explain", "compress", "serve"), 4),
    **dict.fromkeys(("conflicts", "recipe", "stages", "flow", "api"), 5),
    "workflows": 6,
    **dict.fromkeys(("cli", "studio"), 7),
}
FREE = {"__init__", "__main__", "version"}
ORDER_IN_FLOW = ("conflicts", "recipe", "stages", "flow", "api")  # level 5 is files that use each other: each imports those before it
HANDED_TO_TRAINING = {"tasks", "models", "losses"}
DISTRIBUTED = "training/distributed.py"
FEWEST_FILES, FEWEST_IMPORTS = 100, 300


def own_imports(source: Source) -> list[tuple[int, str]]:
    """Line and room of each import of Luthier's own; `import luthier` alone is of no room."""
    found = []
    for line, name in source.imports():
        parts = name.split(".")
        if parts[0] == "luthier" and len(parts) > 1:
            is_room = (PACKAGE / parts[1]).is_dir() or (PACKAGE / f"{parts[1]}.py").is_file()
            found.append((line, parts[1] if is_room else "__init__"))
    return found


def fault(source: Source, line: int, imported: str) -> str | None:
    """What is wrong with one import, as one line that says what to do; None where nothing is."""
    room = source.room
    if room == imported or room in FREE or imported in {"version"}:
        return None
    where = source.at(line)
    if imported == "__init__":
        return f"{where}: {room} imports from luthier itself; import the file that has the name"
    if room == "training" and imported in HANDED_TO_TRAINING:
        return f"{where}: training is handed its {imported}; take it as an argument, typed with a Protocol or luthier.core.work"
    if room in ORDER_IN_FLOW and imported in ORDER_IN_FLOW:
        if ORDER_IN_FLOW.index(imported) < ORDER_IN_FLOW.index(room):
            return None
        return f"{where}: {room} imports {imported}, which comes after it ({' <- '.join(ORDER_IN_FLOW)}); move what both need before both"
    if LEVELS[imported] < LEVELS[room]:
        return None
    levels = f"{room} (level {LEVELS[room]}) imports {imported} (level {LEVELS[imported]})"
    return f"{where}: {levels}; move what it needs to a lower room, or have flow hand it over"


def test_every_room_has_a_level() -> None:
    rooms = {source.room for source in sources()} - FREE
    assert rooms <= set(LEVELS), f"{sorted(rooms - set(LEVELS))}: give the room a level in DESIGN.md section 1 and in LEVELS here"
    assert len(rooms) >= 12


def test_a_room_imports_lower_levels_only() -> None:
    every = sources()
    imports = [(source, line, imported) for source in every for line, imported in own_imports(source)]
    faults = [said for source, line, imported in imports if (said := fault(source, line, imported))]
    assert not faults, "\n".join(faults)
    assert len(every) >= FEWEST_FILES and len(imports) >= FEWEST_IMPORTS


def test_the_rule_sees_what_it_forbids() -> None:
    core, losses, training = (Source(PACKAGE / name) for name in ("core/files.py", "losses/loss.py", "training/loop.py"))
    stages, explain, cli = (Source(PACKAGE / name) for name in ("stages/layout/begin.py", "explain/card.py", "cli/main.py"))
    forbidden = [(core, "data"), (losses, "optim"), (training, "losses"), (stages, "flow"), (explain, "serve"), (explain, "recipe")]
    assert all(fault(source, 1, imported) for source, imported in forbidden)
    allowed = [(losses, "core"), (losses, "losses"), (training, "optim"), (stages, "recipe"), (cli, "flow")]
    assert not any(fault(source, 1, imported) for source, imported in allowed)


def test_torch_distributed_stays_in_one_file() -> None:
    every = sources()
    faults = [
        f"{source.at(line)}: {name} belongs in luthier/{DISTRIBUTED}"
        for source in every
        if not source.path.as_posix().endswith(DISTRIBUTED)
        for line, name in [*source.imports(), *((line, name) for line, name, _ in source.calls())]
        if name.startswith("torch.distributed")
    ]
    assert not faults, "\n".join(faults)
    assert len(every) >= FEWEST_FILES
