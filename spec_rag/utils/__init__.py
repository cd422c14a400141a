"""Helpers without knowledge of models or text."""
