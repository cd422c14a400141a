"""Measurements on a user's own questions: kept answers, correct answers, seconds, and memory plans."""
