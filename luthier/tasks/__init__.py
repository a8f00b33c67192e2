"""Level 2."""
