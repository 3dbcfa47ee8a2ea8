"""Tests watch real databases; nothing here stands in for PostgreSQL."""
