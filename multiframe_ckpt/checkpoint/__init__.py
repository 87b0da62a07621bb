"""What was saved: a checkpoint as a tree, and the ways between it, files and live objects."""

from .checkpoint import Checkpoint, load, open, save

__all__ = ["Checkpoint", "load", "open", "save"]
