"""Files that are taken for weights and are something else."""

from __future__ import annotations

SIGNATURES = (
    (b"\x89HDF", "HDF5 (Keras)"),
    (b"GGUF", "GGUF"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (git lfs pull)"),
    (b"<!DOCTYPE", "a web page (did the download need a login?)"),
    (b"<html", "a web page (did the download need a login?)"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x08\x00\x00\x00TFL3", "TensorFlow Lite"),
)


def foreign_format(head: bytes) -> str:
    """What a file is that begins with `head`, as people call it; empty if it is none of the known ones."""
    return next((name for magic, name in SIGNATURES if head.lstrip().startswith(magic)), "")
