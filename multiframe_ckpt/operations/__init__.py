"""Verbs over checkpoints, a file each."""
