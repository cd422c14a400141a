"""Attention capture, importance of tokens, and token selection; used by compression and by generation."""
