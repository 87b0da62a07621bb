"""Hdf5Reader: walks an HDF5 file's groups and gives its datasets as lazy tensors.

HDF5 can make a reader open other files, or walk for ever. Nothing of the kind is followed: external and soft links,
virtual datasets, external storage and groups with two names are refused, each by name. The file is read through
one descriptor of ours, so h5py holds none of its own and no lock, and a file that is replaced is still read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from ...dtypes import DTYPES, DType, dtype_of_numpy, is_numpys_own
from ...errors import DamagedError, FormatError, UnsafeError
from ...tree import MAX_DEPTH, MISSING, Computed, File, LazyTensor, Source, Tree
from ...tree.boxes import Box, as_slices, shape_of
from ...tree.shapes import require_shape
from .heaps import require_sound_heaps

__all__ = ["Hdf5Reader"]

#: A dataset may be this large whatever is stored of it; one that is larger must have bytes to show for its size.
_FREE_SIZE = 1 << 24
_MAX_RATIO = 1032  # what deflate, HDF5's best compressor of its own, can reach
#: Text becomes plain values at once; a file may hold this much of it, or as much as it is large.
_TEXT_CAP = 1 << 24
_TEXT_COUNT = 100_000
#: What HDF5 and h5py decode by themselves: deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf. For any other
#: filter HDF5 would look on the disk for a plugin, and run it.
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
#: Dtypes that HDF5 does not have: unsigned ints with an attribute that names them.
_BY_ATTRIBUTE = {row.name: row for row in DTYPES if not is_numpys_own(row)}


class Hdf5Reader:
    """An HDF5 file opened for reading."""

    def __init__(self, file: File) -> None:
        import h5py  # import cost: a fifth of a second that other formats need not pay

        self._h5py = h5py
        self._source = file
        with self._errors("file"):
            self._file = h5py.File(file.stream(), "r")
        self._most_text = self._text_left = max(_TEXT_CAP, file.size)
        self._heaps_are_sound = False
        self._groups: set[Any] = set()
        self._shared: dict[Any, LazyTensor] = {}

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn what h5py raises for a broken file into DamagedError."""
        try:
            yield
        except FormatError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError) as problem:
            raise DamagedError(
                f"{self._source.where}: {what}: found what HDF5 cannot read ({problem}), expected a whole file; "
                "the file is damaged: fetch it again"
            ) from None

    def root_attribute(self, name: str) -> bytes | None:
        """Return the bytes of a root attribute of bytes, or None where there is none."""
        with self._errors(f"attribute {name!r}"):
            if name not in self._file.attrs:
                return None
            found = self._attribute(name)
        if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 1:
            raise DamagedError(
                f"{self._source.where}: attribute {name!r}: found {type(found).__name__}, expected bytes"
            )
        return found.tobytes()

    def text_attributes(self) -> dict[str, str]:
        """Return the root attributes that are text."""
        with self._errors("root attributes"):
            values = {name: self._attribute(name) for name in self._file.attrs}
            return {name: value for name, value in values.items() if isinstance(value, str)}

    def _attribute(self, name: str) -> Any:
        if self._file.attrs.get_id(name).dtype.hasobject:
            self._require_sound_heaps()
        return self._file.attrs[name]

    def _require_sound_heaps(self) -> None:
        """Look through the file once, before the library reads text of varying length."""
        if self._heaps_are_sound:
            return
        if self._file.id.get_create_plist().get_sizes()[1] != 8:
            raise FormatError(
                f"{self._source.where}: found text of varying length in a file whose sizes are not of 8 bytes, expected 8; "
                "write it again (h5repack does)"
            )
        require_sound_heaps(self._source.contents(), self._source.where)
        self._heaps_are_sound = True

    def nested(self) -> Tree:
        """Return the file as nested dicts."""
        return self._group(self._file, ())

    def tensors(self) -> dict[str, LazyTensor]:
        """Return every tensor by its path in the file."""
        found: dict[str, LazyTensor] = {}

        def collect(node: Tree, path: tuple[str, ...]) -> None:
            for name, child in node.items():
                if isinstance(child, dict):
                    collect(child, (*path, name))
                elif isinstance(child, LazyTensor):
                    found["/".join((*path, name))] = child

        collect(self.nested(), ())
        return found

    def _group(self, group: Any, path: tuple[str, ...]) -> dict[str, Tree]:
        where = f"group '/{'/'.join(path)}'"
        with self._errors(where):
            identity = self._h5py.h5o.get_info(group.id).addr
            names = list(group)
        if identity in self._groups or len(path) > MAX_DEPTH:
            raise UnsafeError(
                f"{self._source.where}: {where}: found a group that is reached twice or nests deeper than {MAX_DEPTH}, "
                "expected a tree; write the file without links between groups"
            )
        self._groups.add(identity)
        nodes = ((name, self._node(group, (*path, name))) for name in names)
        return {name: node for name, node in nodes if node is not MISSING}

    def _node(self, group: Any, path: tuple[str, ...]) -> Tree:
        where = f"'/{'/'.join(path)}'"
        with self._errors(where):
            link = group.get(path[-1], getlink=True)
            if not isinstance(link, self._h5py.HardLink):
                raise UnsafeError(
                    f"{self._source.where}: {where}: found a link that may lead out of the file, expected the data itself; "
                    "copy what it names into the file"
                )
            found = group[path[-1]]
        if isinstance(found, self._h5py.Group):
            return self._group(found, path)
        # what is neither is a named datatype, which holds no data
        return self._dataset(found, where) if isinstance(found, self._h5py.Dataset) else MISSING

    def _dataset(self, dataset: Any, where: str) -> Tree:
        with self._errors(where):
            self._refuse_foreign_bytes(dataset, where)
            if dataset.shape is None:
                return None
            self._require_stored(dataset, where)
            if self._h5py.check_string_dtype(dataset.dtype) is not None:
                return self._text(dataset, where)
            identity = self._h5py.h5o.get_info(dataset.id).addr
            if identity not in self._shared:
                several = self._h5py.h5o.get_info(dataset.id).rc > 1
                tensor = self._tensor(dataset, where)
                self._shared[identity] = tensor.with_(alias=object()) if several else tensor
        return self._shared[identity]

    def _refuse_foreign_bytes(self, dataset: Any, where: str) -> None:
        creation = dataset.id.get_create_plist()
        if dataset.is_virtual or creation.get_external_count():
            raise UnsafeError(
                f"{self._source.where}: {where}: found a dataset whose bytes lie in other files, expected them here; "
                "copy them into it (h5repack does)"
            )
        codes = {creation.get_filter(number)[0] for number in range(creation.get_nfilters())}
        if codes - _FILTERS:
            raise FormatError(
                f"{self._source.where}: {where}: found HDF5 filter {min(codes - _FILTERS)}, which is a plugin, expected "
                "one of HDF5's own; write it again with them (h5repack does)"
            )

    def _require_stored(self, dataset: Any, where: str) -> None:
        """Refuse a dataset whose claimed size its stored bytes cannot account for."""
        chunk = prod(dataset.chunks or ()) * dataset.dtype.itemsize
        claimed = max(prod(dataset.shape) * dataset.dtype.itemsize, chunk)
        stored = dataset.id.get_storage_size()
        if claimed > _FREE_SIZE + _MAX_RATIO * stored:
            raise UnsafeError(
                f"{self._source.where}: {where}: found {stored} bytes said to hold {claimed}, expected at most "
                f"{_MAX_RATIO} times as many; the file is damaged or forged"
            )

    def _tensor(self, dataset: Any, where: str) -> LazyTensor:
        dtype = dtype_of_numpy(np.dtype(dataset.dtype.str))
        if dtype is None:
            raise FormatError(
                f"{self._source.where}: {where}: found HDF5 type {dataset.dtype}, expected numbers, booleans or text; "
                "write it as another type"
            )
        require_shape(dataset.shape, dtype, f"{self._source.where}: {where}")
        stored, dtype = dtype, self._named_dtype(dataset, dtype)
        tensor = self._in_file(dataset, stored, where) or LazyTensor(
            stored, dataset.shape, _Dataset(self, dataset, stored, where)
        )
        return tensor if dtype is stored else tensor.view_as(dtype, None)

    def _named_dtype(self, dataset: Any, stored: DType) -> DType:
        name = dataset.attrs.get("dtype")
        named = _BY_ATTRIBUTE.get(name) if isinstance(name, str) else None
        return named if named and stored.name == f"uint{8 * named.itemsize}" else stored

    def _in_file(self, dataset: Any, dtype: DType, where: str) -> LazyTensor | None:
        """Return the tensor where its bytes lie whole in the file as NumPy would have them, else None."""
        native = self._h5py.h5t.py_create(dtype.numpy, logical=True)
        offset = dataset.id.get_offset()  # None unless contiguous and written
        if offset is None or self._file.userblock_size or not dataset.id.get_type().equal(native):
            return None
        return LazyTensor.in_file(self._source, dtype, dataset.shape, offset, what=where)

    def read(self, dataset: Any, index: tuple[slice | int, ...], where: str) -> np.ndarray:
        """Return a part of a dataset, read and unpacked by the library."""
        with self._errors(where):
            return np.asarray(dataset[index])

    def _text(self, dataset: Any, where: str) -> Tree:
        if dataset.size > _TEXT_COUNT:
            raise FormatError(
                f"{self._source.where}: {where}: found {dataset.size} texts, expected at most {_TEXT_COUNT}"
            )
        fixed = self._h5py.check_string_dtype(dataset.dtype).length or 0
        self._spend_text(fixed * dataset.size, where)
        if not fixed:
            self._require_sound_heaps()
        texts, values = dataset.asstr(), np.empty(dataset.shape, object)
        for index in np.ndindex(dataset.shape):
            values[index] = texts[index]
            if not fixed:  # and many texts may lie on one another
                self._spend_text(len(values[index]), where)
        return values.tolist()

    def _spend_text(self, size: int, where: str) -> None:
        self._text_left -= size
        if self._text_left < 0:
            raise UnsafeError(
                f"{self._source.where}: {where}: found text past {self._most_text} characters, expected fewer; "
                "keep it in another file"
            )


class _Dataset(Source):
    """A dataset that the library unpacks: in chunks, compressed, or of foreign byte order."""

    __slots__ = ("_dataset", "_reader", "_where", "dtype", "shape")

    def __init__(self, reader: Hdf5Reader, dataset: Any, dtype: DType, where: str) -> None:
        self._reader, self._dataset, self._where = reader, dataset, where
        self.dtype, self.shape = dtype, tuple(dataset.shape)

    def array(self) -> np.ndarray:
        """Read the whole dataset."""
        return self._reader.read(self._dataset, (), self._where)

    def part(self, box: Box) -> Source:
        """Read the chunks that a box crosses."""
        forward = tuple(entry if isinstance(entry, int) or entry.step > 0 else entry[::-1] for entry in box)
        flips = tuple(slice(None, None, -1 if entry.step < 0 else 1) for entry in box if isinstance(entry, range))

        def read() -> np.ndarray:
            return self._reader.read(self._dataset, as_slices(forward), self._where)[flips]

        return Computed(self.dtype, shape_of(box), read)
