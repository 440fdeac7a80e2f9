"""Data sets beside folders and lists."""
