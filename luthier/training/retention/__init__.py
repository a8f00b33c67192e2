"""Training goes on and what was learnt before stays: replay, EWC, masks."""
