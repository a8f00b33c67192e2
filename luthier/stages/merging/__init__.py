"""Adapters written into their base, or added up beside it."""
