"""The names of the files that OneFlow's folders consist of."""

from __future__ import annotations

__all__ = ["GRAPH", "MARKER", "META", "OUT", "OWN_NAMES", "PICKLE"]

MARKER = "snapshot_done"
PICKLE = "pickled_data"
META, OUT = "meta", "out"
#: What OneFlow's Graph export adds.
GRAPH = "model.mlir"
OWN_NAMES = frozenset({MARKER, PICKLE, META, OUT, GRAPH})
