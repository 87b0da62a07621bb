"""A third party's format: a line of magic, then one line for each float32 vector of a flat state dict."""

from dataclasses import dataclass

import numpy as np

from multiframe_ckpt.contracts import Changes, LazyTensor, Opened, Plan, WritableFormat, require_file, tensors

MAGIC = b"toy 1\n"


class ToyFormat(WritableFormat):
    """Lines of numbers, of a third party."""

    name = "toy"
    suffixes = (".toy",)

    def recognises(self, head):
        return head.start.startswith(MAGIC)

    def open(self, place, options):
        file = require_file(place, self)
        lines = file.read_at(0, file.size).decode().splitlines()[1:]
        pairs = (line.split("=") for line in lines)
        return Opened({key: LazyTensor.from_array(np.array(values.split(), np.float32)) for key, values in pairs})

    def plan(self, tree, options):
        return ToyPlan(tensors(tree), Changes())


@dataclass(frozen=True)
class ToyPlan(Plan):
    table: dict
    changes: Changes

    @property
    def nbytes(self):
        return 0

    def write(self, target, on_progress):
        lines = (f"{key}={' '.join(map(str, tensor.numpy().tolist()))}\n" for key, tensor in self.table.items())
        target.write_text(MAGIC.decode() + "".join(lines))
