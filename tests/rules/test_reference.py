"""docs/recipe.md says what the code says: it is what docs/recipe_reference.py prints.

To renew it: python docs/recipe_reference.py > docs/recipe.md
"""

from __future__ import annotations

import subprocess
import sys

from house import ROOT

from luthier.recipe import REGISTERED, REGISTERED_LISTS, Recipe

PAGE = ROOT / "docs" / "recipe.md"
FEWEST_KEYS = 60


def test_the_reference_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "recipe_reference.py")], capture_output=True, check=True, cwd=ROOT)
    said = "run: python docs/recipe_reference.py > docs/recipe.md"
    assert PAGE.read_bytes() == done.stdout, said


def test_the_reference_is_whole() -> None:
    text = PAGE.read_text(encoding="utf-8")
    missing = [f"`{section}`" for section in Recipe.model_fields if f"`{section}" not in text]
    missing += [
        name for registry in [*REGISTERED.values(), *REGISTERED_LISTS.values()] for name in registry.names() if f"### `{name}`" not in text
    ]
    assert not missing
    assert text.count("\n| `") >= FEWEST_KEYS
