"""Hdf5Reader: walks an HDF5 file's groups and gives its datasets as lazy tensors.

HDF5 can make a reader open other files, or walk for ever. Nothing of the kind is followed: external links, virtual
datasets and external storage are refused, each by name; soft links and groups with a second name stand in the tree as
unknown objects, as do datasets of types and filters that are not known. The file is read through one descriptor of ours,
so h5py holds none of its own and no lock, and a file that is replaced is still read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np

from ...dtypes import DTYPES, UINT8, DType, dtype_of_numpy, is_numpys_own, unsigned_of
from ...errors import DamagedError, FormatError, UnsafeError
from ...storage.zip_reader import FREE_INFLATED, MAX_TIMES_INFLATED
from ...tree import MAX_DEPTH, MISSING, Computed, File, LazyTensor, Missing, Source, Tree, Unknown, leaves
from ...tree.boxes import Box, as_slices, shape_of
from ...tree.shapes import require_shape
from ...tree.sources import native, pieces_of
from .chunks import Chunks
from .heaps import require_sound_heaps

__all__ = ["Hdf5Reader"]

#: Text becomes plain values at once; a file may hold so many characters of it, or as many as it has bytes.
_LEAST_TEXT_LIMIT = 1 << 24
_MAX_TEXTS = 100_000
_SHOWN_TYPE = 200
#: Dtypes that HDF5 does not have: unsigned ints with an attribute that names them.
_DTYPE_OF_ATTRIBUTE = {row.name: row for row in DTYPES if not is_numpys_own(row)}


class Hdf5Reader:
    """An HDF5 file opened for reading."""

    def __init__(self, file: File) -> None:
        import h5py  # import cost: a fifth of a second that other formats need not pay

        self._h5py = h5py
        self._file = file
        with self._errors("file"):
            self._h5 = h5py.File(file.stream(), "r")
        self._text_limit = self._text_left = max(_LEAST_TEXT_LIMIT, file.size)
        self._heaps_are_checked = False
        self._unpacked_nbytes = 0
        self._group_paths: dict[int, str] = {}  # by the address of the group
        self._tensors: dict[int, LazyTensor] = {}  # by the address of the dataset: several links may lead to one

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn what h5py raises for a broken file into DamagedError."""
        try:
            yield
        except FormatError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError) as problem:
            raise DamagedError(
                f"{self._file.where}: {what}: found what HDF5 cannot read ({problem}), expected a whole file; "
                "the file is damaged: fetch it again"
            ) from None

    def root_attribute(self, name: str) -> bytes | None:
        """Return the bytes of a root attribute of bytes, or None where there is none."""
        with self._errors(f"attribute {name!r}"):
            if name not in self._h5.attrs:
                return None
            value = self._attribute(name)
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 1:
            raise DamagedError(f"{self._file.where}: attribute {name!r}: found {type(value).__name__}, expected bytes")
        return value.tobytes()

    def text_attributes(self) -> dict[str, str]:
        """Return the root attributes that are text."""
        with self._errors("root attributes"):
            values = {name: self._attribute(name) for name in self._h5.attrs if self._has_dtype(name)}
            return {name: value for name, value in values.items() if isinstance(value, str)}

    def _has_dtype(self, name: str) -> bool:
        try:
            self._h5.attrs.get_id(name).dtype  # noqa: B018  (h5py makes it when it is asked for)
        except TypeError:  # a type that NumPy has no equivalent for, such as HDF5's of time
            return False
        return True

    def _attribute(self, name: str) -> Any:
        if self._h5.attrs.get_id(name).dtype.hasobject:
            self._require_sound_heaps()
        return self._h5.attrs[name]

    def _require_sound_heaps(self) -> None:
        """Look through the file once, before the library reads text of varying length."""
        if self._heaps_are_checked:
            return
        if self._h5.id.get_create_plist().get_sizes()[1] != 8:
            raise FormatError(
                f"{self._file.where}: found text of varying length in a file whose sizes are not of 8 bytes, expected 8; "
                "write it again (h5repack does)"
            )
        require_sound_heaps(self._file.contents(), self._file.where)
        self._heaps_are_checked = True

    def nested(self) -> Tree:
        """Return the file as nested dicts."""
        return self._group(self._h5, ())

    def tensors(self) -> dict[str, LazyTensor]:
        """Return every tensor by its path in the file."""
        return {"/".join(path): leaf for path, leaf in leaves(self.nested()) if isinstance(leaf, LazyTensor)}

    def _group(self, group: Any, path: tuple[str, ...]) -> Tree:
        where = f"group '/{'/'.join(path)}'"
        with self._errors(where):
            address = self._h5py.h5o.get_info(group.id).addr
            names = list(group)
        if address in self._group_paths:
            return Unknown(f"the HDF5 group {self._group_paths[address]!r} under another name")
        if len(path) == MAX_DEPTH - 1 and any(self._is_group(group, name) for name in names):
            return Unknown(f"an HDF5 group below {MAX_DEPTH - 1} others")
        self._group_paths[address] = f"/{'/'.join(path)}"
        nodes = ((name, self._node(group, (*path, name))) for name in names)
        return {name: node for name, node in nodes if node is not MISSING}

    def _is_group(self, group: Any, name: str) -> bool:
        is_own = isinstance(group.get(name, getlink=True), self._h5py.HardLink)
        return is_own and group.get(name, getclass=True) is self._h5py.Group

    def _node(self, group: Any, path: tuple[str, ...]) -> Tree | Missing:
        where = f"'/{'/'.join(path)}'"
        with self._errors(where):
            link = group.get(path[-1], getlink=True)
            if isinstance(link, self._h5py.SoftLink):
                return Unknown(f"an HDF5 link to {link.path!r}"[:_SHOWN_TYPE])
            if not isinstance(link, self._h5py.HardLink):
                raise UnsafeError(
                    f"{self._file.where}: {where}: found a link that may lead out of the file, expected the data itself; "
                    "copy what it names into the file"
                )
            member = group[path[-1]]
        if isinstance(member, self._h5py.Group):
            return self._group(member, path)
        # what is neither is a named datatype, which holds no data
        return self._dataset(member, where) if isinstance(member, self._h5py.Dataset) else MISSING

    def _dataset(self, dataset: Any, where: str) -> Tree:
        with self._errors(where):
            self._refuse_foreign_bytes(dataset, where)
            if dataset.shape is None:
                return None
            info = self._h5py.h5o.get_info(dataset.id)
            if info.addr not in self._tensors:
                obstacle = self._type_obstacle(dataset)
                if obstacle is not None:
                    return Unknown(obstacle, (tuple(dataset.shape),))
                chunks = Chunks(dataset, f"{self._file.where}: {where}")
                obstacle = chunks.obstacle() or self._size_obstacle(dataset, chunks)
                if obstacle is not None:
                    return Unknown(obstacle, (tuple(dataset.shape),))
                if self._h5py.check_string_dtype(dataset.dtype) is not None:
                    chunks.require_sound()
                    return self._dataset_text(dataset, where)
                tensor = self._dataset_tensor(dataset, chunks, where)
                if tensor is None:
                    return self._unknown_dataset(dataset, chunks, where)
                self._tensors[info.addr] = tensor.with_(alias=object()) if info.rc > 1 else tensor
        return self._tensors[info.addr]

    def _refuse_foreign_bytes(self, dataset: Any, where: str) -> None:
        creation = dataset.id.get_create_plist()
        if dataset.is_virtual or creation.get_external_count():
            raise UnsafeError(
                f"{self._file.where}: {where}: found a dataset whose bytes lie in other files, expected them here; "
                "copy them into it (h5repack does)"
            )

    def _type_obstacle(self, dataset: Any) -> str | None:
        """Return why a dataset is not read: its type."""
        try:
            dataset.dtype  # noqa: B018  (h5py makes it when it is asked for)
        except TypeError as problem:  # of HDF5's types of time, which NumPy has no equivalent for
            return f"an HDF5 dataset of a type that h5py does not read ({problem})"[:_SHOWN_TYPE]
        return None

    def _size_obstacle(self, dataset: Any, chunks: Chunks) -> str | None:
        """Return why a dataset is not read: with it, those of the file would unpack to many times what the file has."""
        stored_nbytes, nbytes = dataset.id.get_storage_size(), prod(dataset.shape) * dataset.dtype.itemsize
        if nbytes + chunks.nbytes <= stored_nbytes or (nbytes <= stored_nbytes and not chunks.filters):
            return None
        unpacked_nbytes = self._unpacked_nbytes + nbytes + chunks.nbytes
        # Half of what an archive may inflate to: the library unpacks into memory of its own, which it keeps for a while.
        if unpacked_nbytes > max(FREE_INFLATED, MAX_TIMES_INFLATED * self._file.size) // 2:
            return f"an HDF5 dataset of {nbytes:,} bytes, of which {stored_nbytes:,} are stored (h5repack unpacks it)"
        self._unpacked_nbytes = unpacked_nbytes
        return None

    def _dataset_tensor(self, dataset: Any, chunks: Chunks, where: str) -> LazyTensor | None:
        """Return the tensor of a dataset, or None for one whose elements are no numbers."""
        dtype = dtype_of_numpy(np.dtype(dataset.dtype.str))
        if dtype is None:
            return self._opaque_tensor(dataset, chunks, where)
        require_shape(dataset.shape, dtype, f"{self._file.where}: {where}")
        stored, dtype = dtype, self._named_dtype(dataset, dtype)
        tensor = self._in_file(dataset, stored, where) or LazyTensor(
            stored, dataset.shape, _Dataset(self, dataset, chunks, stored, where)
        )
        return tensor if dtype is stored else tensor.view_as(dtype, None)

    def _opaque_tensor(self, dataset: Any, chunks: Chunks, where: str) -> LazyTensor | None:
        """Return the tensor of opaque bytes where an attribute says what they are: how Keras writes bfloat16."""
        is_opaque = dataset.dtype.kind == "V" and dataset.dtype.names is None and dataset.dtype.subdtype is None
        dtype = self._attribute_dtype(dataset) if is_opaque else None
        if dtype is None or dtype.itemsize != dataset.dtype.itemsize:
            return None
        require_shape(dataset.shape, dtype, f"{self._file.where}: {where}")
        whole = tuple(map(range, dataset.shape))
        return LazyTensor.from_function(
            dtype, dataset.shape, lambda: self.read(dataset, chunks, whole, where).view(dtype.numpy)
        )

    def _unknown_dataset(self, dataset: Any, chunks: Chunks, where: str) -> Unknown:
        """Return a dataset of no numbers as its bytes, where they are all there is to it."""
        title, shape = f"HDF5 type {dataset.dtype}"[:_SHOWN_TYPE], tuple(dataset.shape)
        if dataset.dtype.hasobject:
            return Unknown(title, (shape,))
        width = dataset.dtype.itemsize
        require_shape((*shape, width), UINT8, f"{self._file.where}: {where}")

        def read() -> np.ndarray:
            array = np.ascontiguousarray(self.read(dataset, chunks, tuple(map(range, shape)), where))
            return array.reshape(-1).view(np.uint8).reshape(*shape, -1)

        return Unknown(title, (shape,), {"bytes": LazyTensor.from_function(UINT8, (*shape, width), read)})

    def _named_dtype(self, dataset: Any, stored: DType) -> DType:
        dtype = self._attribute_dtype(dataset)
        return dtype if dtype and stored is unsigned_of(dtype.itemsize) else stored

    def _attribute_dtype(self, dataset: Any) -> DType | None:
        name = dataset.attrs.get("dtype")
        return _DTYPE_OF_ATTRIBUTE.get(name) if isinstance(name, str) else None

    def _in_file(self, dataset: Any, dtype: DType, where: str) -> LazyTensor | None:
        """Return the tensor where its bytes lie whole in the file as NumPy would have them, else None."""
        native = self._h5py.h5t.py_create(dtype.numpy, logical=True)
        offset = dataset.id.get_offset()  # None unless contiguous and written
        if offset is None or self._h5.userblock_size or not dataset.id.get_type().equal(native):
            return None
        return LazyTensor.in_file(self._file, dtype, dataset.shape, offset, what=where)

    def look_into(self, chunks: Chunks, where: str) -> None:
        """Raise UnsafeError for a chunk of a dataset that holds more than its shape says."""
        with self._errors(where):
            chunks.require_sound()

    def read(self, dataset: Any, chunks: Chunks, box: Box, where: str) -> np.ndarray:
        """Return a part of a dataset, read and unpacked by the library; what it unpacks was looked into before."""
        with self._errors(where):
            chunks.require_sound(box)
            return np.asarray(dataset[as_slices(box)])

    def _dataset_text(self, dataset: Any, where: str) -> Tree:
        fixed_length = self._h5py.check_string_dtype(dataset.dtype).length or 0
        if dataset.size > _MAX_TEXTS or fixed_length * dataset.size > self._text_left:
            return Unknown(f"HDF5 type {dataset.dtype}", (tuple(dataset.shape),))
        self._count_text(fixed_length * dataset.size, where)
        if not fixed_length:
            self._require_sound_heaps()
        texts, values = dataset.asstr(), np.empty(dataset.shape, object)
        for index in np.ndindex(dataset.shape):
            values[index] = texts[index]
            if not fixed_length:  # and many texts may lie on one another
                self._count_text(len(values[index]), where)
        text: Tree = values.tolist()
        return text

    def _count_text(self, length: int, where: str) -> None:
        self._text_left -= length
        if self._text_left < 0:
            raise UnsafeError(
                f"{self._file.where}: {where}: found text past {self._text_limit} characters, expected fewer; "
                "keep it in another file"
            )


class _Dataset(Source):
    """A dataset that the library unpacks: in chunks, compressed, or of foreign byte order."""

    __slots__ = ("_chunks", "_dataset", "_reader", "_where", "dtype", "shape")

    def __init__(self, reader: Hdf5Reader, dataset: Any, chunks: Chunks, dtype: DType, where: str) -> None:
        self._reader, self._dataset, self._chunks, self._where = reader, dataset, chunks, where
        self.dtype, self.shape = dtype, tuple(dataset.shape)

    def array(self) -> np.ndarray:
        """Read the whole dataset."""
        return native(self._read(tuple(map(range, self.shape))), self.dtype)

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read some rows at a time."""
        if not self.shape:
            yield from super().pieces(buffer)
            return
        self._reader.look_into(self._chunks, self._where)
        step = self._chunks.rows(prod(self.shape[1:]) * self.dtype.itemsize)
        for start in range(0, self.shape[0], step):
            rows = range(start, min(start + step, self.shape[0]))
            yield from pieces_of(self._read((rows, *map(range, self.shape[1:]))), self.dtype, buffer)

    def _read(self, box: Box) -> np.ndarray:
        return self._reader.read(self._dataset, self._chunks, box, self._where)

    def part(self, box: Box) -> Source:
        """Read the chunks that a box crosses."""
        forward = tuple(entry if isinstance(entry, int) or entry.step > 0 else entry[::-1] for entry in box)
        flips = tuple(slice(None, None, -1 if entry.step < 0 else 1) for entry in box if isinstance(entry, range))

        def read() -> np.ndarray:
            return self._read(forward)[flips]

        return Computed(self.dtype, shape_of(box), read)
