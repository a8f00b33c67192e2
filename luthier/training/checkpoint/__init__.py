"""Checkpoints that are whole or not there, say what they hold, and are never lost to rotation.

`saved` writes and reads one, `folders` makes it appear and takes old ones away, `manifest` tells whether it is as it was written.
"""

from luthier.training.checkpoint.folders import all_checkpoints, commit, name_of, open_aside, rotate, step_of, sweep
from luthier.training.checkpoint.manifest import FORMAT, MANIFEST, fault_of
from luthier.training.checkpoint.optimiser_files import load_optimiser
from luthier.training.checkpoint.saved import (
    STATE,
    Saved,
    load,
    load_parts,
    newest_valid,
    read_counters,
    refuse_another,
    require_checkpoint,
    save,
    saved_already,
    write_counters,
)
from luthier.training.checkpoint.space import check_space, estimated_bytes

__all__ = [
    "FORMAT",
    "MANIFEST",
    "STATE",
    "Saved",
    "all_checkpoints",
    "check_space",
    "commit",
    "estimated_bytes",
    "fault_of",
    "load",
    "load_optimiser",
    "load_parts",
    "name_of",
    "newest_valid",
    "open_aside",
    "read_counters",
    "refuse_another",
    "require_checkpoint",
    "rotate",
    "save",
    "saved_already",
    "step_of",
    "sweep",
    "write_counters",
]
