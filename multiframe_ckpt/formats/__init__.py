"""How checkpoints lie on disk: a file or a folder a format, and the table that finds them."""

from .opening import FORMATS, format_at, format_for, format_named, refuse_foreign

__all__ = ["FORMATS", "format_at", "format_for", "format_named", "refuse_foreign"]
