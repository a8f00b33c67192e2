"""Named machines, from a table; what a run takes on them is calculated, not measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from luthier.core import files
from luthier.core.errors import ConfigError, Fault
from luthier.core.names import did_you_mean

TABLE = Path(__file__).with_name("hardware.json")
GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """A machine of the table.

    Args:
        name: Its name, such as a100-80g.
        memory_bytes: Memory of the accelerator.
        half_flops: Dense peak of 16-bit products per second.
        has_bf16: Whether they may be bf16.
        fp32_flops: Peak of float32 products per second.
        bandwidth: Bytes of memory per second.
    """

    name: str
    memory_bytes: float
    half_flops: float
    has_bf16: bool
    fp32_flops: float
    bandwidth: float

    def flops(self, precision: str) -> float:
        """Return the peak for a precision; bf16 is done in float32 where there are no bf16 units."""
        return self.half_flops if precision == "bf16" and self.has_bf16 else self.fp32_flops


@cache
def known() -> dict[str, Hardware]:
    """Return the machines of the table by name."""
    found = {}
    for name, row in files.read_json(TABLE)["machines"].items():
        peaks = (row["half"] * 1e12, row["bf16"], row["fp32"] * 1e12)
        found[name] = Hardware(name, row["memory"] * GIB, *peaks, row["bandwidth"] * 1e9)
    return found


def named(name: str) -> Hardware:
    """Return a machine of the table.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in known():
        raise ConfigError([Fault("--hardware", f"unknown hardware '{name}'", did_you_mean(name, known()))])
    return known()[name]
