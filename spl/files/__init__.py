"""Functions that write a file completely or not at all, and read one without executing anything in it."""

from spl.files.checkpoint import read_checkpoint
from spl.files.tensors import read
from spl.files.text import read_json, read_text, read_yaml
from spl.files.writing import serialized, serialized_size, write_whole

__all__ = [
    "read",
    "read_checkpoint",
    "read_json",
    "read_text",
    "read_yaml",
    "serialized",
    "serialized_size",
    "write_whole",
]
