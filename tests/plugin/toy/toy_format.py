"""A third party's format: a line of JSON that names the tensors of a flat state dict, and their bytes behind it."""

import json

from multiframe_ckpt.contracts import LazyTensor, Opened, TablePlan, WritableFormat, dtype_named, parsing, require_file

MAGIC = '{"toy": '


class ToyFormat(WritableFormat):
    """A line of names and the bytes of numbers, of a third party."""

    name = "toy"
    suffixes = (".toy",)

    def recognises(self, head):
        return head.start.startswith(MAGIC.encode())

    def open(self, place, options):
        file, tree = require_file(place, self), {}
        with parsing(file.where):
            line, end, _ = file.read_at(0, min(file.size, 1 << 16)).partition(b"\n")
            offset = len(line + end)
            for key, dtype, shape in json.loads(line)["toy"]:
                tree[key] = LazyTensor.in_file(file, dtype_named(dtype), tuple(shape), offset, what=key)
                offset += tree[key].nbytes
            if not end or offset != file.size:
                raise ValueError(f"{file.size} bytes, not {offset}")
        return Opened(tree)

    def plan(self, tree, options):
        return TablePlan.of(tree, options, self._write)

    def _write(self, target, arrays):
        arrays = dict(arrays)
        outlines = [[key, array.dtype.name, array.shape] for key, array in arrays.items()]
        with target.open("xb") as file:
            file.write(f"{MAGIC}{json.dumps(outlines)}}}\n".encode())
            file.writelines(array.tobytes() for array in arrays.values())
