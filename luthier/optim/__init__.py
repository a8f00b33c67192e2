"""Level 1."""
