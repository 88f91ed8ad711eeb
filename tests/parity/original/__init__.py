"""Runs the Python original and records what it does."""
