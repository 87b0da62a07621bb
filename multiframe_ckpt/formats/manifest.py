"""The manifest: what a flat format keeps in its metadata slot so that a whole tree comes back.

    {"format_version": 2,
     "tree": …,                         see tree_json; absent: the tree is a flat dict of the tensors below, in order
     "tensors": [{"name": …,            the tensor's key in the tree (its dict key, where the tree is flat)
                  "member": …,          what the format calls it, where that is not its name
                  "dtype": …,           its dtype, where the format holds its bits as another
                  "tied_to": …,         the name of the earlier tensor that it is
                  "digest": "xxh3:…"},  of its little-endian bytes; absent where none was asked for
                 …],
     "versions": …,                     of the modules of state dicts, by the key of each; absent where there are none
     "metadata": "xxh3:…",              of the user's own metadata, in formats with a slot for them
     "seal": "xxh3:…"}                  the header digest: of the text before it, and of each member's name, dtype and shape

The header digest tells damage anywhere in the headers when they are read; the digests that in the tensors when those are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from ..dtypes import DType, dtype_named
from ..errors import DamagedError, FormatError, KeyRefusedError, ValueRefusedError
from ..pickle.modules import are_versions as are_facts
from ..tree import LazyTensor, TensorRef, Tree, combine, leaves, partition, tied_groups
from ..tree.digests import XXH3_PATTERN, digest_of_bytes, is_own_digest
from .base import VERSIONS, Versions
from .tree_json import Json, decode, dump_json, encode, is_utf8, load_json

__all__ = [
    "METADATA_KEY",
    "PENDING",
    "Manifest",
    "ManifestEntry",
    "Members",
    "are_versions",
    "assemble",
    "assemble_with_facts",
    "check_metadata",
    "fill_tree",
    "looks_like_manifest",
    "manifest_of",
    "member_names",
    "members_of",
    "own_manifest",
    "read_manifest",
    "require_named",
    "tensors_by_name",
]

FORMAT_VERSION = 2
_READABLE = (1, 2)  # version 1 says nothing of the user's metadata
#: What formats call the place where the manifest lies.
METADATA_KEY = "multiframe_ckpt"
#: Stands in for a digest that is known only once the bytes have been written; as long as a real one.
PENDING = "xxh3:" + "0" * 32
_DIGEST_KEY = ',"seal":"'
_MANIFEST_START = b'{"format_version":'
_WITH_DIGEST = re.compile(_DIGEST_KEY + XXH3_PATTERN + r'"}\Z')
_SHOWN_NAMES = 5
_CHANGED_HINT = (
    "the file was damaged, or another tool changed it and kept this manifest of it: restore it from a copy, or save it "
    f"again without the {METADATA_KEY!r} metadata"
)
_MANIFEST_KEYS = {"format_version", "tree", "tensors", "versions", "metadata", "seal"}
_ENTRY_KEYS = {"name", "member", "dtype", "tied_to", "digest"}
_ONLY_TEXT = {str}
_NO_VERSIONS: Versions = {}
_TAIL_LENGTH = len(_DIGEST_KEY) + len(PENDING) + len('"}')


#: Member → its dtype as the format has it, and its shape.
Members: TypeAlias = Mapping[str, tuple[DType, tuple[int, ...]]]


class ManifestEntry(NamedTuple):
    """What the manifest says of one tensor."""

    name: str
    member: str
    dtype: str | None = None
    tied_to: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """An entry for each tensor, in order, and their tree unless that is a flat dict of them."""

    entries: tuple[ManifestEntry, ...]
    flat: bool
    tree: Tree = None  # with a TensorRef for each tensor; None may also be the tree
    metadata: str | None = None  # the digest of the user's metadata
    versions: Versions = field(default_factory=dict)

    def text(
        self,
        members: Members,
        digests: Mapping[str, str] | None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Return the JSON text with its header digest.

        ``digests`` are by member, PENDING where one is missing, None for no digest at all. ``metadata`` is the user's own
        as the format reads it back, None in a format without a slot for it.
        """
        body: dict[str, Json] = {"format_version": FORMAT_VERSION}
        if not self.flat:
            body["tree"] = encode(self.tree)
        body["tensors"] = [
            _entry_json(entry, None if digests is None else digests.get(entry.member, PENDING))
            for entry in self.entries
        ]
        if self.versions:
            body["versions"] = encode(dict(self.versions))
        if metadata is not None:
            body["metadata"] = _metadata_digest(metadata)
        text = dump_json(body)[:-1]
        return f'{text}{_DIGEST_KEY}{_header_digest(text, members)}"}}'


def are_versions(value: object) -> TypeGuard[Versions]:
    """Return whether a value is what stands in a manifest for the versions of modules."""
    return isinstance(value, dict) and all(isinstance(key, str) and are_facts(facts) for key, facts in value.items())


def _entry_json(entry: ManifestEntry, digest: str | None) -> dict[str, Json]:
    body = {"name": encode(entry.name)}
    if entry.member != entry.name:
        body["member"] = entry.member
    if entry.dtype:
        body["dtype"] = entry.dtype
    if entry.tied_to is not None:
        body["tied_to"] = encode(entry.tied_to)
    return body if digest is None else body | {"digest": digest}


def _header_digest(text: str, members: Members) -> str:
    headers = dump_json(sorted((name, dtype.name, list(shape)) for name, (dtype, shape) in members.items()))
    return digest_of_bytes((text + headers).encode("utf-8", "surrogatepass"))


def _metadata_digest(metadata: Mapping[str, str]) -> str:
    return digest_of_bytes(dump_json(sorted(metadata.items())).encode("ascii"))


def _is_flat(tree: Tree) -> TypeGuard[dict[str, LazyTensor]]:
    return type(tree) is dict and all(type(key) is str and type(leaf) is LazyTensor for key, leaf in tree.items())


def tensors_by_name(tree: Tree) -> dict[str, LazyTensor]:
    """Return the tensors by the names a manifest has for them: a flat dict's own keys, else the tree's."""
    return dict(tree) if _is_flat(tree) else partition(tree)[1]


def manifest_of(
    tree: Tree, *, fits: Callable[[str], bool], stored_as: Callable[[DType], DType], versions: Versions = _NO_VERSIONS
) -> tuple[Manifest, dict[str, LazyTensor]]:
    """Return the manifest of a tree and its tensors by member name, in order.

    A name that does not fit the format gets a neutral member name; ``stored_as`` gives the dtype whose bits it holds.
    """
    tree_of_refs: Tree = None
    if flat := _is_flat(tree):
        table = dict(tree)
    else:
        tree_of_refs, table = partition(tree)
    members = member_names(table, fits)
    first_of_tie = {key: group[0] for group in tied_groups(table) for key in group[1:]}
    entries = [
        ManifestEntry(
            name,
            members[name],
            dtype=None if stored_as(tensor.dtype) == tensor.dtype else tensor.dtype.name,
            tied_to=first_of_tie.get(name),
        )
        for name, tensor in table.items()
    ]
    manifest = Manifest(tuple(entries), flat, tree_of_refs, versions=versions)
    return manifest, {members[name]: tensor for name, tensor in table.items()}


def member_names(names: Iterable[str], fits: Callable[[str], bool]) -> dict[str, str]:
    """Return each name's member name: itself where it fits the format, else a free ``tensor_<position>``."""
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


def members_of(
    tensors: Mapping[str, LazyTensor], stored_as: Callable[[DType], DType] = lambda dtype: dtype
) -> dict[str, tuple[DType, tuple[int, ...]]]:
    """Return what the header digest covers of tensors by member name."""
    return {member: (stored_as(tensor.dtype), tensor.shape) for member, tensor in tensors.items()}


def read_manifest(text: str | bytes, where: str) -> Manifest:
    """Read what :meth:`Manifest.text` gave; the header digest is checked by :func:`assemble`."""
    body = load_json(text, where)
    version = body.get("format_version") if isinstance(body, dict) else None
    if version not in _READABLE or type(version) is not int:
        raise FormatError(
            f"{where}: found format version {version!r}, expected 1 to {FORMAT_VERSION}; "
            "the file is damaged, or newer than this library: upgrade it"
        )
    if not {"format_version", "tensors", "seal"} <= body.keys() <= _MANIFEST_KEYS:
        raise _malformed(f"{where}: found entries {sorted(body)}")
    if not isinstance(body["tensors"], list):
        raise _malformed(f"{where}: found no list of tensors")
    entries = tuple(_read_entry(entry, where) for entry in body["tensors"])
    tree, metadata, versions = (
        decode(body.get("tree"), where),
        body.get("metadata"),
        decode(body.get("versions"), where),
    )
    return Manifest(
        entries,
        flat="tree" not in body,
        tree=tree,
        metadata=metadata,
        versions=versions if are_versions(versions) else {},
    )


def _read_entry(entry: Json, where: str) -> ManifestEntry:
    if not isinstance(entry, dict) or "name" not in entry or not entry.keys() <= _ENTRY_KEYS:
        raise _malformed(f"{where}: found the tensor entry {str(entry)[:80]!r}")
    values: dict[str, Json] = entry
    if not _ONLY_TEXT.issuperset(map(type, entry.values())):
        values = {key: value if type(value) is str else decode(value, where) for key, value in entry.items()}
        if not _ONLY_TEXT.issuperset(map(type, values.values())):
            raise _malformed(f"{where}: found the tensor entry {str(entry)[:80]!r}")
    name: str = values["name"]
    digest: str | None = values.get("digest")
    if digest is not None and not is_own_digest(digest):
        raise _malformed(f"{where}: found the digest {digest[:80]!r}")
    return ManifestEntry(name, values.get("member", name), values.get("dtype"), values.get("tied_to"), digest)


def _malformed(problem: str) -> DamagedError:
    return DamagedError(f"{problem}, expected what this version writes; the file was damaged: restore it from a copy")


def assemble(
    text: str | bytes, members: Mapping[str, LazyTensor], where: str, metadata: Mapping[str, str] | None = None
) -> Tree:
    """Return the tree that a manifest describes over its file's members; DamagedError where the two disagree.

    ``metadata`` is the user's own as the file has it, None in a format without a slot for it.
    """
    return assemble_with_facts(text, members, where, metadata)[0]


def assemble_with_facts(
    text: str | bytes, members: Mapping[str, LazyTensor], where: str, metadata: Mapping[str, str] | None = None
) -> tuple[Tree, dict[str, object]]:
    """Return the tree as :func:`assemble` does, and facts of it: the versions of modules, where the manifest has some."""
    manifest = read_manifest(text, where)
    once = _named_once(manifest.entries)
    listed_members = [entry.member for entry in manifest.entries if entry.name not in once]
    if len(set(listed_members)) != len(listed_members):
        raise _malformed(f"{where}: found a member listed twice")
    require_named(dict.fromkeys(listed_members), members, where, _CHANGED_HINT)
    _check_header_digest(text if isinstance(text, str) else text.decode("utf-8"), members, where)
    _check_metadata(manifest.metadata, metadata, where)
    table = {entry.name: _member_as_saved(entry, members[entry.member], where) for entry in manifest.entries}
    if len(table) != len(manifest.entries):
        raise _malformed(f"{where}: found a tensor name twice")
    _tie(manifest.entries, table, where)
    tree = table if manifest.flat else fill_tree(manifest.tree, table, where)
    return tree, {VERSIONS: manifest.versions} if manifest.versions else {}


def _named_once(entries: Sequence[ManifestEntry]) -> set[str]:
    """Return the tensors that are the members of those that they are tied to."""
    member_of = {entry.name: entry.member for entry in entries}
    tied = [entry for entry in entries if entry.tied_to not in (None, entry.name)]
    return {entry.name for entry in tied if member_of.get(entry.tied_to or "") == entry.member}


def require_named(listed: Collection[str], present: Collection[str], where: str, hint: str) -> None:
    """Raise DamagedError, naming both kinds, unless what a file lists and what is present are the same names."""
    missing = tuple(dict.fromkeys(name for name in listed if name not in present))
    extra = tuple(name for name in present if name not in listed)
    if missing or extra:
        problems = [f"no {_first_names(missing)}, which it lists"] if missing else []
        problems += [f"{_first_names(extra)}, unlisted"] if extra else []
        raise DamagedError(
            f"{where}: found {'; and '.join(problems)}, expected what it lists and no more; {hint}",
            missing=missing,
            extra=extra,
        )


def _first_names(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN_NAMES])
    return shown if len(names) <= _SHOWN_NAMES else f"{shown} and {len(names) - _SHOWN_NAMES} more"


def _check_header_digest(text: str, members: Mapping[str, LazyTensor], where: str) -> None:
    body, tail = text[:-_TAIL_LENGTH], text[-_TAIL_LENGTH:]
    if tail != f'{_DIGEST_KEY}{_header_digest(body, members_of(members))}"}}':
        raise DamagedError(f"{where}: found a digest of other headers, expected that of these; {_CHANGED_HINT}")


def _check_metadata(expected: str | None, metadata: Mapping[str, str] | None, where: str) -> None:
    if expected is not None and metadata is not None and _metadata_digest(metadata) != expected:
        names = _first_names(sorted(metadata))
        raise DamagedError(f"{where}: found metadata {names}, expected those written; {_CHANGED_HINT}")


def _member_as_saved(entry: ManifestEntry, stored: LazyTensor, where: str) -> LazyTensor:
    digest = entry.digest or stored.digest  # the format may have one of its own, such as a zip's CRC
    if entry.dtype is None:
        return stored if digest == stored.digest else stored.with_(digest=digest)
    dtype = dtype_named(entry.dtype)
    if dtype is None or dtype.itemsize != stored.dtype.itemsize:
        raise _malformed(f"{where}: {entry.name!r}: found dtype {entry.dtype!r} stored as {stored.dtype.name}")
    return stored.view_as(dtype, digest)


def _tie(entries: Iterable[ManifestEntry], table: dict[str, LazyTensor], where: str) -> None:
    """Give tied tensors one alias; which tensors may be tied is checked, since their bytes were written twice."""
    for entry in entries:
        if entry.tied_to is None:
            continue
        first, tensor = table.get(entry.tied_to), table[entry.name]
        if first is None or (first.dtype, first.shape, first.digest) != (tensor.dtype, tensor.shape, tensor.digest):
            raise _malformed(f"{where}: found {entry.name!r} tied to {entry.tied_to!r}, which is no tensor of its kind")
        alias = object() if first.alias is None else first.alias
        table[entry.tied_to] = first.with_(alias=alias)
        table[entry.name] = tensor.with_(alias=alias)


def looks_like_manifest(text: bytes) -> bool:
    """Return whether bytes begin or end as a manifest does: damage at one end leaves the other."""
    return text.startswith(_MANIFEST_START) or _WITH_DIGEST.search(text[-_TAIL_LENGTH:].decode("latin-1")) is not None


def own_manifest(metadata: Mapping[str, str], where: str) -> str | None:
    """Return the text of the manifest in a file's metadata, or None; DamagedError where it stands under another key."""
    if METADATA_KEY not in metadata and any(_WITH_DIGEST.search(value) for value in metadata.values()):
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


def fill_tree(tree: Tree, table: Mapping[str, LazyTensor], where: str) -> Tree:
    """Put the tensors of ``table`` into a tree that names each of them exactly once; else DamagedError."""
    listed_keys = [leaf.key for _, leaf in leaves(tree) if isinstance(leaf, TensorRef)]
    if len(set(listed_keys)) != len(listed_keys):
        raise _malformed(f"{where}: found a tensor that the tree names twice")
    require_named(dict.fromkeys(listed_keys), table, where, "the file was damaged: restore it from a copy")
    return combine(tree, table)
