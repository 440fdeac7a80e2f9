"""Weights by name: where each network's files are, and how they get here. Needs no MindSpore."""
