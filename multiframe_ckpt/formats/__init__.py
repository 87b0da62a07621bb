"""How checkpoints lie on disk: a file or a folder a format, and the table that finds them."""

from .base import (
    VERSIONS,
    Changes,
    Format,
    Head,
    Opened,
    Plan,
    ReadOptions,
    Unread,
    Versions,
    WritableFormat,
    WriteOptions,
)
from .opening import (
    FORMATS,
    format_at,
    format_for,
    format_named,
    format_to_write,
    open_path,
    require_replaceable,
    writable_format,
)

__all__ = [
    "FORMATS",
    "VERSIONS",
    "Changes",
    "Format",
    "Head",
    "Opened",
    "Plan",
    "ReadOptions",
    "Unread",
    "Versions",
    "WritableFormat",
    "WriteOptions",
    "format_at",
    "format_for",
    "format_named",
    "format_to_write",
    "open_path",
    "require_replaceable",
    "writable_format",
]
