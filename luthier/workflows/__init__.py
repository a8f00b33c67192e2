"""Loops around the flow: the same run in several processes, on this machine or a cluster; several runs of one recipe, and together."""
