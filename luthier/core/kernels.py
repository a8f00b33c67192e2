"""How many kernels of the processor's products this process keeps.

Reference: oneDNN's developer guide, "Primitive Cache".
"""

from __future__ import annotations

import os

FEW = 32


def keep_few_kernels() -> None:
    """Keep the kernels of the shapes met last, unless the user's environment says how many; nothing once a product was computed.

    Every length of texts makes kernels of its own. Those of a model that writes are large: of a hundred batches they
    took more memory than a step does. Short texts repeat their shapes, so there all that fit are kept.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(FEW))
