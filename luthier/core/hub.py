"""Whether a Hugging Face hub can be asked, found out within seconds rather than by retrying for minutes."""

from __future__ import annotations

import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_SECONDS = 3.0
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def is_offline() -> bool:
    """Whether the user switched the hub off, or none can be reached from here."""
    return switched_off() or not reachable()


def switched_off() -> bool:
    """Whether an environment variable says to stay offline."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_SWITCHES)


@cache
def reachable() -> bool:
    """Whether a connection to the hub, or to the proxy before it, opens within three seconds."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    address = urlsplit(getproxies().get("https") or endpoint)
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False
