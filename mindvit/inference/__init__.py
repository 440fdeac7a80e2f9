"""Trained networks in use: the predictor, and files for other programs."""
