"""Helpers that depend on no other package of spec_rag."""
