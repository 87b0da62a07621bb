"""Keeping training runs: their folders, what to keep of them, saves in the background, and being told to leave."""
