"""A checkpoint as text."""
