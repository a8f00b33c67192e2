"""Update rules that torch does not have, as torch optimisers; one per file."""
