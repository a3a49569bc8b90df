"""Ours beside every other system on the same held-out purchases; what was finished is kept."""
