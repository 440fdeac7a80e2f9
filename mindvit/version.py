"""The version of mindvit."""

__version__ = "0.1.0"
