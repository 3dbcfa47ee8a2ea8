"""Asks and never changes."""
