"""json: a checkpoint as one JSON object, readable by a person and by any JSON reader.

    {"format": "multiframe_ckpt", "format_version": 2,
     "tree": …,                          see tree_json
     "layers": [
     {"name": "l1.weight", "dtype": "float32", "shape": [2, 3], "digest": "xxh3:…", "values": [
     [0.1, 0.2, 0.3],
     [0.4, 0.5, 0.6]
     ]},
     {"name": "head.weight", "tied_to": "l1.weight"}
     ],
     "seal": "xxh3:…"}                   the header digest: of everything but the values, which each layer's digest covers

Exact for every value of every dtype. Reading walks the text once and notes where each layer's values lie; they are
parsed when asked for. Other entries, white space and the order of keys do not matter. docs/formats/json.md says more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import dtype_named
from ...errors import DamagedError, FormatError
from ...progress import OnProgress
from ...storage.folders import Folder
from ...storage.transfer import HashingReader
from ...tree import Computed, File, LazyTensor, Sharing, Tree, partition, tied_groups
from ...tree.digests import digest_of_bytes, is_digest
from ...tree.shapes import require_shape
from ..base import (
    VERSIONS,
    Changes,
    Head,
    Opened,
    Plan,
    ProgressMeter,
    ReadOptions,
    Unread,
    WritableFormat,
    WriteOptions,
    require_file,
)
from ..manifest import are_versions, check_metadata, fill_tree
from ..tree_json import Json, decode, encode
from .scan import Scanner, Span
from .values import PIECE_ELEMENTS, least_text_nbytes, parse_values, value_texts

__all__ = ["JsonFormat"]

FORMAT_VERSION = 2
_VERSION_WITHOUT_DIGEST = 1  # what a person writes by hand, and this library wrote before there was a header digest
_KNOWN_KEYS = {"format", "format_version", "metadata", "tree", "layers", "seal", VERSIONS}
_FORMAT = "multiframe_ckpt"
_FORMAT_ENTRY = re.compile(rb'\s*\{.*"format"\s*:\s*"multiframe_ckpt"', re.DOTALL)


class JsonFormat(WritableFormat):
    """Text for people and for any JSON reader; exact, and large."""

    name = "json"
    suffixes = (".json",)
    holds_metadata = holds_versions = True

    def recognises(self, head: Head) -> bool:
        """Return whether this is a JSON object whose entry ``format`` is this library's."""
        if _FORMAT_ENTRY.match(head.start):
            return True
        return head.start.lstrip()[:1] == b"{" and _is_ours(require_file(head.place, self))

    def open(self, place: File | Folder, options: ReadOptions) -> Opened:
        """Return the tree; one without ``tree`` is a flat dict of its layers. The metadata are text entries."""
        file = require_file(place, self)
        scanner = Scanner(file.contents(), file.where)
        entries = scanner.whole_object({"layers": lambda start: scanner.read_array(start, scanner.read_object)})
        version, metadata = _version(scanner, entries), _metadata(scanner, entries)
        if not isinstance(entries.get("layers"), list):
            raise DamagedError(f"{file.where}: found no list of layers, expected one; restore the file from a copy")
        table: dict[str, LazyTensor] = {}
        layer_headers = [_add_layer(table, file, scanner, layer) for layer in entries["layers"]]
        tree_entry = {"tree": scanner.load(entries["tree"])} if "tree" in entries else {}
        tree: Tree = table
        if tree_entry:
            tree = fill_tree(decode(tree_entry["tree"], f"{file.where}: tree"), table, f"{file.where}: tree")
        versions = scanner.load(entries[VERSIONS]) if VERSIONS in entries else None
        if VERSIONS in entries:
            tree_entry[VERSIONS] = versions
        if version != _VERSION_WITHOUT_DIGEST:
            _check_header_digest(scanner, entries, _header_digest(metadata, tree_entry, layer_headers))
        decoded = decode(versions, f"{file.where}: {VERSIONS}")
        facts = {VERSIONS: decoded} if are_versions(decoded) and decoded else {}
        # Entries that this library does not know do not matter, and the header digest does not cover them.
        extra = tuple(key for key in entries if key not in _KNOWN_KEYS)
        return Opened(tree, facts, metadata=metadata, unread=lambda: Unread(extra))

    def plan(self, tree: Tree, options: WriteOptions) -> Plan:
        """Say which tensors lose a shared storage; those that are one and the same stay so."""
        tree_entry, table = partition(tree)
        check_metadata(options.metadata)
        changes = Changes.of(Sharing(table), duplicates=False)
        versions = {VERSIONS: encode(dict(options.versions))} if options.versions else {}
        return _Plan({"tree": encode(tree_entry), **versions}, table, options, changes)


@dataclass(frozen=True, slots=True)
class _Plan(Plan):
    """The tree as JSON, and the tensors that its layers are of."""

    tree_entry: Mapping[str, Json]
    table: Mapping[str, LazyTensor]
    options: WriteOptions
    changes: Changes

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors, which their text takes at the least."""
        return sum(tensor.nbytes for tensor in self.table.values())

    def write(self, target: Path, on_progress: OnProgress) -> None:
        """Write the text layer by layer, and the header digest at its end."""
        head: dict[str, Json] = {"format": _FORMAT, "format_version": FORMAT_VERSION}
        if self.options.metadata:
            head["metadata"] = dict(self.options.metadata)
        text = _json_text({**head, **self.tree_entry}, indent=2)
        meter = ProgressMeter(self.table, on_progress)
        layer_headers: list[dict[str, Json]] = []
        with target.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text.removesuffix("\n}") + ',\n  "layers": [\n')
            for piece in _layer_texts(self.table, meter, self.options, layer_headers):
                file.write(piece)
            digest = _header_digest(self.options.metadata, self.tree_entry, layer_headers)
            file.write(f'\n],\n  "seal": "{digest}"\n}}\n')


def _json_text(value: Json, *, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _layer_texts(
    table: Mapping[str, LazyTensor], meter: ProgressMeter, options: WriteOptions, layer_headers: list[dict[str, Json]]
) -> Iterator[str]:
    """Yield the text of every layer, and add what each says before its values to ``layer_headers``."""
    first_of_tie = {key: group[0] for group in tied_groups(table) for key in group[1:]}
    comma = ""
    for key, tensor in table.items():
        yield comma
        comma = ",\n"
        if key in first_of_tie:
            layer_headers.append({"name": encode(key), "tied_to": encode(first_of_tie[key])})
            yield _json_text(layer_headers[-1])
        else:
            layer_headers.append(_layer_header(key, tensor, _digest(key, tensor, options)))
            yield _json_text(layer_headers[-1])[:-1] + ', "values": '
            yield from _reported(value_texts(tensor), meter, key, tensor)
            yield "}"
        meter.moved(key, tensor)


def _digest(key: str, tensor: LazyTensor, options: WriteOptions) -> str | None:
    """Read the tensor, compared with its own digest, and return the one that is written before the values, if asked for.

    It is read once more for its values, which takes little beside making text of them.
    """
    reader = HashingReader(key, tensor, ["xxh3"])
    if options.digest or tensor.digest is not None:
        for _ in reader:
            pass
    return reader.digests["xxh3"] if options.digest else None


def _reported(texts: Iterator[str], meter: ProgressMeter, key: str, tensor: LazyTensor) -> Iterator[str]:
    """Yield a layer's texts, and report how far it is after each: a large one takes many seconds."""
    done = 0
    for text in texts:
        yield text
        done = min(done + PIECE_ELEMENTS * tensor.dtype.itemsize, tensor.nbytes)
        meter.moving(key, done)


def _layer_header(key: str, tensor: LazyTensor, digest: str | None) -> dict[str, Json]:
    head = {"name": encode(key), "dtype": tensor.dtype.name, "shape": list(tensor.shape)}
    return head if digest is None else head | {"digest": digest}


def _header_digest(
    metadata: Mapping[str, str], tree_entry: Mapping[str, Json], layer_headers: list[dict[str, Json]]
) -> str:
    """Return the digest of all that a file says but its tensors' values, however it is laid out.

    ``tree_entry`` is the entry ``tree`` where there is one. Keys are sorted, since other tools may sort those of a file.
    """
    content = {"metadata": dict(metadata), "layers": layer_headers, **tree_entry}
    return digest_of_bytes(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii"))


def _is_ours(file: File) -> bool:
    scanner = Scanner(file.contents(), file.where)
    return bool(_load_entry(scanner, scanner.whole_object({}), "format") == _FORMAT)


def _load_entry(scanner: Scanner, entries: Mapping[str, Any], key: str) -> Any:
    """Return the value of an entry, or None where there is none."""
    span = entries.get(key)
    return scanner.load(span) if isinstance(span, Span) else None


def _metadata(scanner: Scanner, entries: Mapping[str, Any]) -> dict[str, str]:
    metadata = _load_entry(scanner, entries, "metadata")
    texts = metadata.items() if isinstance(metadata, dict) else ()
    return {key: value for key, value in texts if isinstance(value, str)}


def _version(scanner: Scanner, entries: Mapping[str, Any]) -> int:
    format, version = _load_entry(scanner, entries, "format"), _load_entry(scanner, entries, "format_version")
    if format != _FORMAT or type(version) is not int or version not in (_VERSION_WITHOUT_DIGEST, FORMAT_VERSION):
        raise FormatError(
            f"{scanner.where}: found format {format!r}, version {version!r}, expected {_FORMAT!r}, "
            f"{_VERSION_WITHOUT_DIGEST} or {FORMAT_VERSION}; this is another kind of JSON, or newer than this library: "
            "upgrade it"
        )
    return version


def _check_header_digest(scanner: Scanner, entries: Mapping[str, Any], expected: str) -> None:
    """Raise DamagedError unless the header digest is that of what was read, or null, as who changed the file writes."""
    digest = _load_entry(scanner, entries, "seal")
    if digest != expected and not ("seal" in entries and digest is None):
        raise DamagedError(
            f"{scanner.where}: found seal {str(digest)[:80]!r}, expected {expected!r} for these names, shapes and plain "
            'values; restore the file from a copy, or if you changed it on purpose, write "seal": null'
        )


def _add_layer(table: dict[str, LazyTensor], file: File, scanner: Scanner, layer: Mapping[str, Any]) -> dict[str, Json]:
    """Add a layer to the table, which holds the layers before it; return its header, what it says before its values."""
    name = decode(_load_entry(scanner, layer, "name"), f"{scanner.where}: name")
    where = f"{scanner.where}: layer {name!r}"
    if not isinstance(name, str) or name in table:
        raise DamagedError(f"{where}: found no name of its own, expected text; restore the file from a copy")
    if "tied_to" not in layer:
        tensor = table[name] = _layer_tensor(file, scanner, layer, where)
        return _layer_header(name, tensor, tensor.digest)
    tied_to = decode(_load_entry(scanner, layer, "tied_to"), where)
    if not isinstance(tied_to, str) or tied_to not in table:
        raise DamagedError(f"{where}: found it tied to {tied_to!r}, expected a layer before it; restore it from a copy")
    if table[tied_to].alias is None:
        table[tied_to] = table[tied_to].with_(alias=object())
    table[name] = table[tied_to]
    return {"name": encode(name), "tied_to": encode(tied_to)}


def _layer_tensor(file: File, scanner: Scanner, layer: Mapping[str, Any], where: str) -> LazyTensor:
    dtype_name, shape, digest = (_load_entry(scanner, layer, key) for key in ("dtype", "shape", "digest"))
    dtype, values = dtype_named(dtype_name) if isinstance(dtype_name, str) else None, layer.get("values")
    if dtype is None:
        raise FormatError(
            f"{where}: found dtype {dtype_name!r}, expected one of multiframe_ckpt.dtypes.DTYPES; correct it"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise DamagedError(f"{where}: found shape {shape!r}, expected a list of sizes; correct it")
    if not isinstance(values, Span) or not (digest is None or (isinstance(digest, str) and is_digest(digest))):
        raise DamagedError(
            f"{where}: found no values, or digest {digest!r}, expected both; restore the file from a copy"
        )
    sizes = tuple(shape)
    require_shape(sizes, dtype, where)
    if values.stop - values.start < least_text_nbytes(dtype, sizes):
        raise DamagedError(f"{where}: found fewer values than {dtype.name} {shape} has; restore the file from a copy")

    def read_values() -> np.ndarray:
        return parse_values(file.mapped(values.start, values.stop - values.start), dtype, sizes, where)

    return LazyTensor(dtype, sizes, Computed(dtype, sizes, read_values), digest=digest)
