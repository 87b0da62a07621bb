"""Pickles that ask for more than they are: each is refused, or read within a multiple of its size."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from catalogue.opcodes import RECORDS, name, text, zipped

import multiframe_ckpt as mfc

resource = pytest.importorskip("resource")  # POSIX
STATUS = Path("/proc/self/statm")
SIZE = 1_000_000  # of one-byte opcodes, enough for lists of 64 MB
LIMIT = 64 << 20
MODULUS = (1 << 61) - 1  # of Python's hash of numbers


def torch_zip(pickled: bytes, folder: Path) -> Path:
    return zipped(folder / "x.pt", RECORDS | {"x/data.pkl": pickled})


def many(ops: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """Gives as many of the opcodes as make up SIZE, in a list."""
    return before + b"](" + ops * (SIZE // len(ops)) + b"e" + after


def numbered(ops: Callable[[int], bytes], each: int) -> bytes:
    return b"".join(map(ops, range(SIZE // each)))


def calls(module: str, attribute: str, args: bytes = b")", after: bytes = b"") -> bytes:
    return many(b"h\x00h\x01R" + after, name(module, attribute) + b"q\x000" + args + b"q\x010")


STORAGE = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x10t"
SHARED = b"](" + b"N" * 1000 + b"eq\x00](" + b"h\x00" * 1000 + b"eq\x01"
BAG = (
    name("argparse", "Namespace")
    + b")\x81}("
    + b"".join(text(f"a{n}") + b"N" for n in range(20_000))
    + b"ubq\x00]("
    + b"h\x00" * 400_000
    + b"e"
)

REFUSED: dict[str, Callable[[], bytes]] = {
    "lists in a list": lambda: many(b"]"),
    "lists on the stack": lambda: b"]" * SIZE,
    "dicts in a tuple": lambda: b"(" + b"}" * SIZE + b"t",
    "sets": lambda: many(b"\x8f"),
    "frozensets": lambda: many(b"(\x91"),
    "frozensets of one": lambda: many(b"(N\x91"),
    "sets of one": lambda: many(b"\x8f(N\x90"),
    "lists of one": lambda: many(b"]Na"),
    "dicts of one": lambda: many(b"}NNs"),
    "tuples in each other": lambda: b")" + b"\x85" * SIZE,
    "tuples of twice the same": lambda: b")" + b"2\x86" * (SIZE // 2),
    "marks": lambda: b"(" * SIZE,
    "unknown objects": lambda: calls("my", "Class"),
    "unknown objects with a state": lambda: calls("my", "Class", after=b"}b"),
    "namespaces": lambda: calls("argparse", "Namespace"),
    "arrays": lambda: calls("numpy", "ndarray"),
    "tensors over one storage": lambda: calls(
        "torch._utils", "_rebuild_tensor_v2", b"(" + STORAGE + b"QK\x00K\x01\x85K\x01\x85\x89}t"
    ),
    "text encoded again": lambda: calls("_codecs", "encode", text("x" * 1000) + b"\x85"),
    "a list copied again": lambda: calls("builtins", "list", b"](" + b"N" * 1000 + b"e\x85"),
    "a set made again": lambda: calls(
        "builtins", "set", b"](" + b"".join(b"M%c\x01" % n for n in range(256)) + b"e\x85"
    ),
    "arguments copied again": lambda: many(
        b"h\x00h\x01}NNs\x92", name("my", "Class") + b"q\x000(" + b"N" * 1000 + b"tq\x010"
    ),
    "a list of a list of a list": lambda: SHARED + many(b"h\x01"),
    "a namespace over and over": lambda: BAG,
    "names": lambda: b"](" + numbered(lambda n: name("a", str(n)), 9) + b"e",
    "a name of many parts": lambda: text("a") + text("b." * 300 + "c") + b"\x93",
    "a name of many characters": lambda: text("a") + text("b" * SIZE) + b"\x93",
    "ints of one hash as keys": lambda: (
        b"}(" + numbered(lambda n: b"\x8a\x0b" + (MODULUS * (n + 1)).to_bytes(11, "little") + b"N", 14) + b"u"
    ),
    "ints of one hash as keys, one by one": lambda: (
        b"}" + numbered(lambda n: b"\x8a\x0b" + (MODULUS * (n + 1)).to_bytes(11, "little") + b"Ns", 15)
    ),
    "ints of one hash in a set": lambda: (
        b"\x8f(" + numbered(lambda n: b"\x8a\x0b" + (MODULUS * (n + 1)).to_bytes(11, "little"), 13) + b"\x90"
    ),
    "ints of one hash in builtins.set": lambda: (
        name("builtins", "set")
        + b"]("
        + numbered(lambda n: b"\x8a\x0b" + (MODULUS * (n + 1)).to_bytes(11, "little"), 13)
        + b"e\x85R"
    ),
    "complex numbers of one hash as keys": lambda: (
        b"}"
        + numbered(
            lambda n: name("builtins", "complex") + struct.pack(">sdsd", b"G", -1000003.0 * n, b"G", n) + b"\x86RNs", 39
        )
    ),
    "keys that a tree spells alike": lambda: b"}" + numbered(lambda _: name("my", "C") + b")\x81Ns", 11),
    "an int of many digits": lambda: b"I" + b"9" * 5000 + b"\n",
    "a long of many digits": lambda: b"L" + b"9" * 5000 + b"L\n",
    "an int of many bytes": lambda: b"\x8b" + struct.pack("<i", SIZE) + b"\x7f" * SIZE,
    "a float of many digits": lambda: b"F" + b"9" * 5000 + b"\n",
    "a memo index of many digits": lambda: b"Np" + b"9" * 5000 + b"\n",
    "a memo index below zero": lambda: b"Np0\ng-1\n",
    "a long memo index never put": lambda: b"Nq\x00j\xff\xff\xff\xff",
    "a frame of no end": lambda: b"\x95" + struct.pack("<Q", 1 << 62) + b"N",
    "bytes of no end": lambda: b"\x8e" + struct.pack("<Q", 1 << 62) + b"x" * SIZE,
    "a bytearray of no end": lambda: b"\x96" + struct.pack("<Q", 1 << 40) + b"x" * SIZE,
    "text of no end": lambda: b"\x8d" + struct.pack("<Q", (1 << 64) - 8) + b"x" * SIZE,
    "extensions": lambda: many(b"\x82\x01"),
    "extensions of four bytes": lambda: many(b"\x84\x01\x00\x00\x00"),
    "buffers": lambda: many(b"\x97"),
    "persistent ids of text": lambda: many(b"Pabc\n"),
    "references to one storage": lambda: STORAGE + b"q\x00" + many(b"h\x00Q"),
}

READ: dict[str, Callable[[], bytes]] = {
    "one value over and over": lambda: b"(" + b"N" + b"2" * 200_000 + b"t",
    "a value remembered over and over": lambda: b"N" + b"\x94" * SIZE,
    "a value remembered at far places": lambda: (
        b"N" + numbered(lambda n: b"r" + struct.pack("<I", (n * 7919 + 1) % (1 << 32)), 5)
    ),
    "a value remembered at numbers of any size": lambda: b"N" + numbered(lambda n: b"p9%018d\n" % n, 21),
    "frames of nothing": lambda: (b"\x95" + bytes(8)) * (SIZE // 9) + b"N",
    "lists made and thrown away": lambda: b"]0" * (SIZE // 4) + b"N",
    "text that one character widens": lambda: text("x" * SIZE + "\U0001f600"),
    "texts that one character widens": lambda: many(text("x" * 996 + "\U0001f600")),
    "bytes": lambda: b"\x8e" + struct.pack("<Q", SIZE) + b"x" * SIZE,
    "a tuple that holds itself": lambda: b"]q\x00h\x00\x85a",
    "text of escapes": lambda: many(b"S'" + b"\\x41" * 16_000 + b"'\n"),
}


@contextmanager
def little_memory() -> Iterator[None]:
    """Raises MemoryError where more is taken inside than any small file may take."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(STATUS.read_text().split()[0]) if STATUS.exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("forge", REFUSED.values(), ids=REFUSED)
def test_a_pickle_that_asks_for_too_much_is_refused_in_little_memory(
    forge: Callable[[], bytes], tmp_path: Path
) -> None:
    path = torch_zip(b"\x80\x02" + forge() + b".", tmp_path)
    with little_memory(), pytest.raises(mfc.FormatError):
        mfc.open(path)


@pytest.mark.parametrize("forge", READ.values(), ids=READ)
def test_a_strange_pickle_is_read_in_little_memory(forge: Callable[[], bytes], tmp_path: Path) -> None:
    path = torch_zip(b"\x80\x02" + forge() + b".", tmp_path)
    with little_memory():
        mfc.open(path)


VALUES = {
    "plain": (None, True, False, 0, -1, 255, 256, 65536, -(1 << 31), 1 << 40, 1 << 900, 0.5, -0.0, 1e300, 2 + 3j),
    "text": ["", "a", "é\n\\", "漢字", "\U0001f600" * 300, "\udc80", "x" * 70_000],
    "bytes": [b"", b"a", bytes(range(256)), b"x" * 70_000],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {1: "a", None: [], (1, "b"): ()}],
    "long": {"list": list(range(5000)), "dict": {str(n): n for n in range(5000)}, "tuple": tuple(range(5000))},
    "ordered": OrderedDict([("b", 1), ("a", [2])]),
    "nested": [[[[[[[[{"x": ({"y": [1]},)}]]]]]]]],
}


def pure_python(value: Any, protocol: int) -> bytes:
    file = io.BytesIO()
    pickle._Pickler(file, protocol).dump(value)  # type: ignore[attr-defined]
    return file.getvalue()


PICKLERS: dict[str, Callable[[Any, int], bytes]] = {
    "C": pickle.dumps,
    "Python": pure_python,
    "optimized": lambda value, protocol: pickletools.optimize(pickle.dumps(value, protocol)),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("pickler", PICKLERS.values(), ids=PICKLERS)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_what_picklers_of_every_protocol_write_is_read(
    value: Any, pickler: Callable[[Any, int], bytes], protocol: int, tmp_path: Path
) -> None:
    assert mfc.open(torch_zip(pickler(value, protocol), tmp_path)).tree == value


@pytest.mark.parametrize("protocol", range(6))
def test_sets_are_lists_and_a_bytearray_is_bytes(protocol: int, tmp_path: Path) -> None:
    value = {"set": {3, 1, 2}, "frozenset": frozenset("ba"), "bytearray": bytearray(b"xyz")}
    tree = mfc.open(torch_zip(pickle.dumps(value, protocol), tmp_path)).tree
    assert tree == {"set": [1, 2, 3], "frozenset": ["a", "b"], "bytearray": b"xyz"}


@pytest.mark.parametrize("spelled", [rb"'a\n\t\r\\\'\"\x00\xff'", rb'"it\'s"', rb"''", rb"'caf\xc3\xa9'"])
def test_a_string_of_python_2_is_read_as_the_standard_unpickler_reads_it(spelled: bytes, tmp_path: Path) -> None:
    pickled = b"S" + spelled + b"\np0\n."
    expected = pickle.loads(pickled, encoding="utf-8", errors="surrogateescape")
    assert mfc.open(torch_zip(pickled, tmp_path)).tree == expected


@pytest.mark.parametrize("spelled", [rb"'\q'", rb"'a\'", rb"'\x4'", rb"'", rb"a"])
def test_a_string_that_no_python_2_writes_is_refused(spelled: bytes, tmp_path: Path) -> None:
    with pytest.raises(mfc.DamagedError):
        mfc.open(torch_zip(b"S" + spelled + b"\n.", tmp_path))


def test_many_equal_keys_in_many_dicts_are_no_attack(tmp_path: Path) -> None:
    value = [{(0, 1): 0, 1 << 62: 1} for _ in range(500)]
    assert mfc.open(torch_zip(pickle.dumps(value, 2), tmp_path)).tree == value


def test_the_largest_int_that_is_read_is_the_largest_that_is_written(tmp_path: Path) -> None:
    largest = (1 << 8 * (1 << 14) - 1) - 1
    mfc.save({"a": largest, "b": -largest}, tmp_path / "x.pt", format="torch")
    assert mfc.open(tmp_path / "x.pt").tree == {"a": largest, "b": -largest}
    with pytest.raises(mfc.ValueRefusedError, match=r"^a: found an int of \d+ bits"):
        mfc.save({"a": largest + 1}, tmp_path / "y.pt", format="torch")
