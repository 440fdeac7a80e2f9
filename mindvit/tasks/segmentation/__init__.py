"""Semantic segmentation: losses, metrics, inference."""
