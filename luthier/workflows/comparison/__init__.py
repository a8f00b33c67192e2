"""Comparison: variants of some recipes, each trained with some seeds in a process of its own, in one table."""
