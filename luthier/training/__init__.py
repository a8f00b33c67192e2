"""Level 3."""
