"""Level 4."""
