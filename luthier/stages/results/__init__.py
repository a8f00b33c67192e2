"""What a training leaves: its model, its scores, and the pages that a person reads."""
