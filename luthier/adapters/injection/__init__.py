"""Adapters that the PEFT library puts into the layers of a model: what they have in common."""
