"""Level 4: answers from what was trained."""
