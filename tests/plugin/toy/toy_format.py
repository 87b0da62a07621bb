"""A third party's layout: a line of magic, then one line for each float32 vector of a flat state dict."""

import numpy as np

from multiframe_ckpt.formats.base import ReadOptions, WriteOptions, WritePlan
from multiframe_ckpt.progress import silent
from multiframe_ckpt.tree import LazyTensor, tensors

MAGIC = "toy 1\n"


class ToyFormat:
    name = "toy"
    suffixes = (".toy",)

    def sniff(self, path):
        return path.is_file() and path.read_bytes().startswith(MAGIC.encode())

    def read(self, path, options=ReadOptions()):
        pairs = (line.split("=") for line in path.read_text().removeprefix(MAGIC).splitlines())
        return {key: LazyTensor.of_array(np.array(values.split(), np.float32)) for key, values in pairs}

    def plan(self, tree):
        return WritePlan()

    def write(self, tree, path, options=WriteOptions(), *, on_progress=silent):
        lines = (f"{key}={' '.join(map(str, tensor.numpy().tolist()))}\n" for key, tensor in tensors(tree).items())
        path.write_text(MAGIC + "".join(lines))
