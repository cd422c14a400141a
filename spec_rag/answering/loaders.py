"""The former place of `spec_rag.loaders.reading`; its names can still be imported from here."""

from __future__ import annotations

from spec_rag.loaders.limits import ReadLimits
from spec_rag.loaders.reading import SUFFIXES, read_bytes, read_file, read_files

__all__ = ["SUFFIXES", "ReadLimits", "read_bytes", "read_file", "read_files"]
