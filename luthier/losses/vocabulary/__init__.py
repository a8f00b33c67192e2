"""Losses over a whole vocabulary, computed from the states before the vocabulary head; the tensor of all logits never exists."""
