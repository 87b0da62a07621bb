"""What was saved: a checkpoint as a tree, and the ways between it, files and live objects."""

from .checkpoint import Checkpoint, PlannedSave, load, open, save, save_whole_model

__all__ = ["Checkpoint", "PlannedSave", "load", "open", "save", "save_whole_model"]
