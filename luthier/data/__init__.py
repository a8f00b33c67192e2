"""Level 1: read -> clean -> split -> encode -> batch."""
