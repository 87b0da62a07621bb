"""The ``pickle`` format: a pickle of NumPy arrays and plain values, such as those of detectron2's model zoo; read only.

Nothing of it is run (``pickle/machine.py``). Large byte strings, which are the arrays, are left in the file.
"""

from __future__ import annotations

from ..pickle.known import PLAIN
from ..pickle.machine import PickleMachine
from ..pickle.optimizers import object_state_dict
from ..pickle.resolve import Resolver
from ..storage.folders import Folder
from ..tree import File
from .base import Format, Head, Opened, ReadOptions, require_file

__all__ = ["PickleFormat"]

_PROTOCOLS = tuple(b"\x80%c" % protocol for protocol in range(2, 6))
_OLD_PROTOCOLS = (b"(", b"]", b"}", b"c")  # 0 and 1 have no mark of their own
_STOP = b"."
#: What those write into their pickles that put bytes between the opcodes, or keep code.
_OTHERS = (b"joblib.numpy_pickle", b"dill._dill", b"cloudpickle.cloudpickle")


class PickleFormat(Format):
    """A pickle by itself, of any protocol."""

    name = "pickle"
    suffixes = (".pkl", ".pickle")

    def recognises(self, head: Head) -> bool:
        """Return whether a file begins and ends as a pickle does; one of an old protocol is known by its suffix too."""
        if head.is_folder or any(text in head.start for text in _OTHERS):
            return False
        file = require_file(head.place, self)
        is_old = head.start.startswith(_OLD_PROTOCOLS) and file.where.lower().endswith(self.suffixes)
        begins = is_old or head.start.startswith(_PROTOCOLS)
        return begins and file.read_at(file.size - 1, 1) == _STOP

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; tensors are views of the file."""
        file = require_file(place, self)
        machine = PickleMachine(file.contents(), where=file.where, builders=PLAIN)
        raw = machine.run()
        resolver = Resolver(file.where, machine.end, simplify=object_state_dict, versions=machine.versions)
        tree = resolver.tree(raw)
        return Opened(tree, {"container": "pickle", **resolver.facts})
