"""Cells and constants that two families share."""
