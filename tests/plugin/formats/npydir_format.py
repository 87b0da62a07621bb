"""A third party's format of folders: a .npy file for each tensor, and an index.json of them, which is written last."""

import json

import numpy as np

from multiframe_ckpt import contracts


class NpyFolderFormat(contracts.WritableFormat):
    """A folder of NumPy's files."""

    name = "npydir"

    def recognises(self, head):
        return "index.json" in head.names

    def owns(self, name):
        return name == "index.json" or (name.endswith(".npy") and name[:-4].isdigit())

    def open(self, place, options):
        index, members = contracts.require_folder(place, self).file("index.json"), {}
        with contracts.parsing(index.where):
            manifest, *files = json.loads(index.read_at(0, index.size))
            for name, member, dtype, shape, offset in files:
                row = contracts.dtype_named(dtype)
                members[member] = contracts.LazyTensor.in_file(place.file(name), row, tuple(shape), offset, what=member)
            return contracts.Opened(contracts.assemble(manifest, members, index.where))

    def plan(self, tree, options):
        return contracts.ManifestPlan.of(tree, options, self._write)

    def _write(self, target, arrays, manifest):
        target.mkdir()
        files = []
        for number, (member, array) in enumerate(arrays):
            path = target / f"{number}.npy"
            np.save(path, array)
            files.append([path.name, member, array.dtype.name, array.shape, path.stat().st_size - array.nbytes])
        (target / "index.json").write_text(json.dumps([manifest(), *files]))
