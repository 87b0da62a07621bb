"""The document: what a flat layout keeps in its metadata slot so that a whole tree comes back.

    {"format_version": 2,
     "tree": skeleton,                  absent: the tree is a flat dict of the tensors below, in their order
     "tensors": [{"name": …,            the tensor's key in the tree (its dict key, where the tree is flat)
                  "member": …,          what the layout calls it, where that is not its name
                  "dtype": …,           its dtype, where the layout holds its bits as another
                  "tied_to": …,         the name of the earlier tensor that it is
                  "digest": "xxh3:…"},  of its little-endian bytes; absent where none was asked for
                 …],
     "metadata": "xxh3:…",              of the user's own metadata, in layouts with a slot for them
     "seal": "xxh3:…"}                  of the text before the seal, and of every member's name, dtype and shape

The seal tells damage anywhere in the headers when they are read; the digests tell it in the tensors when those are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

from ..dtypes import DType, dtype_named
from ..errors import DamagedError, FormatError, KeyRefusedError, ValueRefusedError
from ..tree import LazyTensor, TensorRef, Tree, leaves, map_leaves, partition, tied_groups
from ..tree.digests import digest_of_bytes
from .tree_json import decode, dump_json, encode, is_utf8, load_json

__all__ = [
    "METADATA_KEY",
    "PENDING",
    "Manifest",
    "Note",
    "assemble",
    "check_metadata",
    "looks_like_manifest",
    "manifest_of",
    "member_names",
    "named_tensors",
    "own_entry",
    "read_manifest",
    "rebuild",
    "require_named",
]

FORMAT_VERSION = 2
_READABLE = (1, 2)  # version 1 says nothing of the user's metadata
#: What layouts call the place where the document lies.
METADATA_KEY = "multiframe_ckpt"
#: Stands in for a digest that is known only once the bytes have been written; as long as a real one.
PENDING = "xxh3:" + "0" * 32
_DIGEST = re.compile(r"xxh3:[0-9a-f]{32}")
_SEAL = ',"seal":"'
_START = b'{"format_version":'
_SEALED = re.compile(_SEAL + r'xxh3:[0-9a-f]{32}"}\Z')
_SHOWN = 5
_CHANGED = (
    "the file was damaged, or another tool changed it and kept the notes about it: restore it from a copy, or save it "
    f"again without the {METADATA_KEY!r} metadata"
)
_ENTRIES = {"format_version", "tree", "tensors", "metadata", "seal"}
_NOTED = {"name", "member", "dtype", "tied_to", "digest"}
_TAIL = len(_SEAL) + len(PENDING) + len('"}')


class Note(NamedTuple):
    """What the document says of one tensor."""

    name: str
    member: str
    dtype: str | None = None
    tied_to: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A note for each tensor, in order, and the skeleton of their tree unless that is a flat dict of them."""

    notes: tuple[Note, ...]
    flat: bool
    skeleton: Tree = None  # None may also be the tree
    metadata: str | None = None  # the digest of the user's metadata

    def text(
        self,
        members: Mapping[str, tuple[DType, tuple[int, ...]]],
        digests: Mapping[str, str] | None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Return the sealed JSON text; ``digests`` by member, PENDING where one is missing, None for no digest at all.

        ``metadata`` is the user's own as the layout reads it back, None in a layout without a slot for it.
        """
        body: dict[str, Any] = {"format_version": FORMAT_VERSION}
        if not self.flat:
            body["tree"] = encode(self.skeleton)
        body["tensors"] = [
            _note_json(note, None if digests is None else digests.get(note.member, PENDING)) for note in self.notes
        ]
        if metadata is not None:
            body["metadata"] = _metadata_digest(metadata)
        text = dump_json(body)[:-1]
        return f'{text}{_SEAL}{_seal(text, members)}"}}'


def _note_json(note: Note, digest: str | None) -> dict[str, Any]:
    entry = {"name": encode(note.name)}
    if note.member != note.name:
        entry["member"] = note.member
    if note.dtype:
        entry["dtype"] = note.dtype
    if note.tied_to is not None:
        entry["tied_to"] = encode(note.tied_to)
    return entry if digest is None else entry | {"digest": digest}


def _seal(text: str, members: Mapping[str, tuple[DType, tuple[int, ...]]]) -> str:
    outline = dump_json(sorted((name, dtype.name, list(shape)) for name, (dtype, shape) in members.items()))
    return digest_of_bytes((text + outline).encode("utf-8", "surrogatepass"))


def _metadata_digest(metadata: Mapping[str, str]) -> str:
    return digest_of_bytes(dump_json(sorted(metadata.items())).encode("ascii"))


def _is_flat(tree: Tree) -> bool:
    return type(tree) is dict and all(type(key) is str and type(leaf) is LazyTensor for key, leaf in tree.items())


def named_tensors(tree: Tree) -> dict[str, LazyTensor]:
    """Return the tensors by the names a document has for them: a flat dict's own keys, else the tree's."""
    return dict(tree) if _is_flat(tree) else partition(tree)[1]


def manifest_of(
    tree: Tree, *, fits: Callable[[str], bool], stored_as: Callable[[DType], DType]
) -> tuple[Manifest, dict[str, LazyTensor]]:
    """Return the document of a tree and its tensors by member name, in order.

    A name that does not fit the layout gets a neutral member name; ``stored_as`` gives the dtype whose bits it holds.
    """
    flat = _is_flat(tree)
    skeleton, table = (None, dict(tree)) if flat else partition(tree)
    members = member_names(table, fits)
    first = {key: group[0] for group in tied_groups(table) for key in group[1:]}
    notes = [
        Note(
            name,
            members[name],
            dtype=None if stored_as(tensor.dtype) == tensor.dtype else tensor.dtype.name,
            tied_to=first.get(name),
        )
        for name, tensor in table.items()
    ]
    return Manifest(tuple(notes), flat, skeleton), {members[name]: tensor for name, tensor in table.items()}


def member_names(names: Iterable[str], fits: Callable[[str], bool]) -> dict[str, str]:
    """Return each name's member name: itself where it fits the layout, else a free ``tensor_<position>``."""
    members = {name: name if fits(name) else "" for name in names}
    taken = {prefix for member in members.values() for prefix in accumulate(member.split("/"), "{}/{}".format)}
    for position, (name, member) in enumerate(members.items()):
        if not fits(name):
            member = f"tensor_{position}"
            while member in taken:
                member += "_"
            taken.add(member)
        members[name] = member
    return members


def read_manifest(text: str | bytes, where: str) -> Manifest:
    """Read what :meth:`Manifest.text` gave; the seal is checked by :func:`assemble`."""
    body = load_json(text, where)
    version = body.get("format_version") if isinstance(body, dict) else None
    if version not in _READABLE or type(version) is not int:
        raise FormatError(
            f"{where}: found format version {version!r}, expected 1 to {FORMAT_VERSION}; "
            "the file is damaged, or newer than this library: upgrade it"
        )
    if not {"format_version", "tensors", "seal"} <= body.keys() <= _ENTRIES:
        raise _malformed(f"{where}: found entries {sorted(body)}")
    if not isinstance(body["tensors"], list):
        raise _malformed(f"{where}: found no list of tensors")
    notes = tuple(_read_note(entry, where) for entry in body["tensors"])
    skeleton, metadata = decode(body.get("tree"), where), body.get("metadata")
    return Manifest(notes, flat="tree" not in body, skeleton=skeleton, metadata=metadata)


def _read_note(entry: Any, where: str) -> Note:
    if not isinstance(entry, dict) or "name" not in entry or not entry.keys() <= _NOTED:
        raise _malformed(f"{where}: found the tensor entry {str(entry)[:80]!r}")
    values = {}
    for key, value in entry.items():
        values[key] = text = value if type(value) is str else decode(value, where)
        if type(text) is not str:
            raise _malformed(f"{where}: found the tensor entry {str(entry)[:80]!r}")
    digest, name = values.get("digest"), values["name"]
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise _malformed(f"{where}: found the digest {digest[:80]!r}")
    return Note(name, values.get("member", name), values.get("dtype"), values.get("tied_to"), digest)


def _malformed(found: str) -> DamagedError:
    return DamagedError(f"{found}, expected what this version writes; the file was damaged: restore it from a copy")


def assemble(
    text: str | bytes, members: Mapping[str, LazyTensor], where: str, metadata: Mapping[str, str] | None = None
) -> Tree:
    """Return the tree that a document describes over its file's members; DamagedError where the two disagree.

    ``metadata`` is the user's own as the file has it, None in a layout without a slot for it.
    """
    document = read_manifest(text, where)
    listed = [note.member for note in document.notes]
    if len(set(listed)) != len(listed):
        raise _malformed(f"{where}: found a member listed twice")
    require_named(dict.fromkeys(listed), members, where, _CHANGED)
    _check_seal(text if isinstance(text, str) else text.decode("utf-8"), members, where)
    _check_metadata(document.metadata, metadata, where)
    table = {note.name: _restored(note, members[note.member], where) for note in document.notes}
    if len(table) != len(document.notes):
        raise _malformed(f"{where}: found a tensor name twice")
    _tie(document.notes, table, where)
    return table if document.flat else rebuild(document.skeleton, table, where)


def require_named(listed: Collection[str], there: Collection[str], where: str, hint: str) -> None:
    """Raise DamagedError, naming both kinds, unless what a file lists and what is there are the same names."""
    missing = tuple(dict.fromkeys(name for name in listed if name not in there))
    extra = tuple(name for name in there if name not in listed)
    if missing or extra:
        found = [f"no {_few(missing)}, which it lists"] * bool(missing) + [f"{_few(extra)}, unlisted"] * bool(extra)
        raise DamagedError(
            f"{where}: found {'; and '.join(found)}, expected what it lists and no more; {hint}",
            missing=missing,
            extra=extra,
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _check_seal(text: str, members: Mapping[str, LazyTensor], where: str) -> None:
    outline = {name: (tensor.dtype, tensor.shape) for name, tensor in members.items()}
    body, tail = text[:-_TAIL], text[-_TAIL:]
    if tail != f'{_SEAL}{_seal(body, outline)}"}}':
        raise DamagedError(f"{where}: found a seal of other headers, expected that of these; {_CHANGED}")


def _check_metadata(promised: str | None, metadata: Mapping[str, str] | None, where: str) -> None:
    if promised is not None and metadata is not None and _metadata_digest(metadata) != promised:
        raise DamagedError(f"{where}: found metadata {_few(sorted(metadata))}, expected those written; {_CHANGED}")


def _restored(note: Note, stored: LazyTensor, where: str) -> LazyTensor:
    digest = note.digest or stored.digest  # the layout may have one of its own, such as a zip's CRC
    if note.dtype is None:
        if stored.alias is not None:  # it may be another member too, with a digest of its own
            return replace(stored, digest=digest)
        stored.digest = digest
        return stored
    dtype = dtype_named(note.dtype)
    if dtype is None or dtype.itemsize != stored.dtype.itemsize:
        raise _malformed(f"{where}: {note.name!r}: found dtype {note.dtype!r} stored as {stored.dtype.name}")
    return stored.view_as(dtype, digest)


def _tie(notes: Iterable[Note], table: dict[str, LazyTensor], where: str) -> None:
    """Return tied tensors one alias; which tensors may be tied is checked, since their bytes were written twice."""
    for note in notes:
        if note.tied_to is None:
            continue
        first, tensor = table.get(note.tied_to), table[note.name]
        if first is None or (first.dtype, first.shape, first.digest) != (tensor.dtype, tensor.shape, tensor.digest):
            raise _malformed(f"{where}: found {note.name!r} tied to {note.tied_to!r}, which is no tensor of its kind")
        alias = object() if first.alias is None else first.alias
        table[note.tied_to] = replace(first, alias=alias)
        table[note.name] = replace(tensor, alias=alias)


def looks_like_manifest(text: bytes) -> bool:
    """Return whether bytes begin or end as a document does: damage at one end leaves the other."""
    return text.startswith(_START) or _SEALED.search(text[-_TAIL:].decode("latin-1")) is not None


def own_entry(metadata: Mapping[str, str], where: str) -> str | None:
    """Return the document among a file's metadata, or None; DamagedError where one stands under another key."""
    if METADATA_KEY not in metadata and any(_SEALED.search(value) for value in metadata.values()):
        raise _malformed(f"{where}: found {METADATA_KEY}'s own metadata under another key")
    return metadata.get(METADATA_KEY)


def check_metadata(metadata: Mapping[Any, Any]) -> None:
    """Raise a RefusedError for user metadata that is not UTF-8 text, or whose key this library keeps for itself."""
    for key, value in metadata.items():
        if key == METADATA_KEY:
            raise KeyRefusedError(f"metadata: found key {key!r}, expected another: it is this library's; rename it")
        if not (isinstance(key, str) and isinstance(value, str) and is_utf8(key) and is_utf8(value)):
            raise ValueRefusedError(
                f"metadata: found {key!r}: {value!r}, expected UTF-8 text for both; write it as text"
            )


def rebuild(skeleton: Tree, table: Mapping[str, LazyTensor], where: str) -> Tree:
    """Put the tensors of ``table`` into a skeleton that names each of them exactly once; else DamagedError."""
    listed = [leaf.key for _, leaf in leaves(skeleton) if isinstance(leaf, TensorRef)]
    if len(set(listed)) != len(listed):
        raise _malformed(f"{where}: found a tensor that the skeleton names twice")
    require_named(dict.fromkeys(listed), table, where, "the file was damaged: restore it from a copy")
    return map_leaves(skeleton, lambda _, leaf: table[leaf.key] if isinstance(leaf, TensorRef) else leaf)
