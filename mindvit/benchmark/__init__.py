"""Measuring networks and data pipelines, and counting operators."""
