"""Torch files whose tensors reach out of their storages, and legacy streams that lie about theirs."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

from .case import Hostile
from .opcodes import LEGACY_HEAD, legacy_of, number, storage, tensor, text, zip_of

__all__ = ["CASES", "FORGED"]

FORGED = {
    "a negative offset": tensor(offset=number(-1)),
    "an offset past the end": tensor(offset=number(11)),
    "an offset past 2**63": tensor(offset=number(1 << 70)),
    "an offset of text": tensor(offset=text("0")),
    "an offset of True": tensor(offset=b"\x88"),
    "a negative stride": tensor(stride=(-3, 1)),
    "a stride that leaves the storage": tensor(stride=(16, 1)),
    "a stride that wraps around": tensor(stride=(1 << 62, 1)),
    "a stride too few": tensor(stride=(1,)),
    "a negative shape": tensor(shape=(-2, -3)),
    "a shape past any memory": tensor(shape=(1 << 62, 1 << 62)),
    "a shape whose product wraps to zero": tensor(shape=(1 << 32, 1 << 32), stride=(0, 0)),
    "a shape expanded past any memory": tensor(shape=(1 << 45,), stride=(0,)),
    "an empty shape of endless size": tensor(shape=(0, 1 << 62, 8)),
    "seventy dimensions": tensor(shape=(1,) * 70, stride=(1,) * 70),
    "a thousand endless dimensions": tensor(shape=(1 << 9000,) * 1000, stride=(0,) * 1000),
    "a shape of text": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + storage()
    + b"K\x00"
    + text("ab")
    + text("ab")
    + b"\x89}tR",
    "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage() + b"tR",
    "a tensor over a number": tensor(over=b"K\x01"),
    "a tensor over a tensor": tensor(over=tensor()),
    "a storage of a type of nobody": tensor(over=storage(kind="torch\nEvilStorage")),
    "a storage that is a class of another": tensor(over=storage(kind="os\nsystem")),
    "a storage of more elements than there are": tensor(over=storage(count=number(17))),
    "a storage of fewer elements than there are": tensor(over=storage(count=number(15))),
    "a storage of a negative count": tensor(over=storage(count=number(-16))),
    "a storage of a count in text": tensor(over=storage(count=text("16"))),
    "a storage of endless size": tensor(over=storage(count=number(1 << 90))),
    "a storage of a wider type": tensor(over=storage(kind="torch\nDoubleStorage")),
    "a storage of another key": tensor(over=storage(key=text("1"))),
    "a storage whose key leads outside": tensor(over=storage(key=text("../../etc/passwd"))),
    "a storage whose key is a number": tensor(over=storage(key=number(0))),
    "a reference of six parts or none": tensor(over=storage(more=b"NN")),
    "a conjugated float": tensor(rest=b"\x89}}" + text("conj") + b"\x88s"),
    "a negated bool": tensor(
        over=storage(kind="torch\nBoolStorage", count=number(64)), rest=b"\x89}}" + text("neg") + b"\x88s"
    ),
    "a third version without its dtype": b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage() + b"K\x00))\x89}tR",
    "a third version of a dtype of nobody": b"ctorch._utils\n_rebuild_tensor_v3\n("
    + storage()
    + b"K\x00))\x89}cos\nsystem\ntR",
}

#: Listed as bytes, of which a zip archive has the number.
_LISTED = "a storage of a type of nobody"

STREAMS = {
    "keys that are no list": {"keys": b"\x80\x02N."},
    "a key that is a list": {"keys": b"\x80\x02]]a."},
    "a key that no tensor names": {"keys": b"\x80\x02]X\x01\x00\x00\x001a."},
    "no keys": {"keys": b"\x80\x02]."},
    "a count that is negative": {"stored": struct.pack("<q", -16) + bytes(64)},
    "a count that is too large": {"stored": struct.pack("<q", 1 << 62) + bytes(64)},
    "values cut short": {"stored": struct.pack("<q", 16) + bytes(63)},
    "a count cut short": {"stored": b"\x10\x00"},
    "nothing after the keys": {"stored": b""},
}

HEADERS = {
    "another protocol": LEGACY_HEAD + b"\x80\x02K\x07." + b"\x80\x02}." * 2 + b"\x80\x02].",
    "a system that is a tower": LEGACY_HEAD + b"\x80\x02M\xe9\x03.\x80\x02)" + b"2\x86" * 64 + b".N.].",
    "a protocol that is a tower": LEGACY_HEAD + b"\x80\x02)" + b"2\x86" * 64 + b".}.N.].",
    "an end after the magic number": LEGACY_HEAD,
}


def _written(raw: bytes, place: Path) -> None:
    place.write_bytes(raw)


def _in_a_stream(ops: bytes) -> bytes:
    """Gives a tensor's opcodes as a legacy stream has them, whose persistent ids have six parts."""
    return ops.replace(text("cpu") + number(16) + b"tQ", text("cpu") + number(16) + b"NtQ")


CASES: dict[str, Hostile] = {
    **{
        f"{title}, in a zip": Hostile(partial(zip_of, ops), "whole" if title == _LISTED else "headers")
        for title, ops in FORGED.items()
    },
    **{f"{title}, in a stream": Hostile(partial(legacy_of, _in_a_stream(ops))) for title, ops in FORGED.items()},
    **{
        f"{title}, in a stream": Hostile(partial(legacy_of, tensor(over=storage(more=b"N")), **parts))
        for title, parts in STREAMS.items()
    },
    **{f"{title}, in a stream": Hostile(partial(_written, raw)) for title, raw in HEADERS.items()},
}
