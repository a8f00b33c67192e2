"""Level 1: pretrained models, heads, vocabularies."""
