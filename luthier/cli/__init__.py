"""Level 7."""
