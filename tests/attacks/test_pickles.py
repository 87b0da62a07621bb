"""Hostile pickles, in every container that holds one: each is refused as a FormatError, and nothing of it is run.

An attack is a few opcodes, put where each format keeps its pickle.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from catalogue.opcodes import CONTAINERS, call, name, number, text, torch_zip

import multiframe_ckpt as mfc
from multiframe_ckpt.tree import leaves

IN_EVERY_CONTAINER = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)


def read_all(path: Path, **options: bool) -> None:
    for tensor in mfc.open(path, **options).tensors().values():
        tensor.numpy()


#: Tuples of two that hold one tuple twice, 64 times over: 2**64 parts once they are walked.
TUPLE_TOWER = b")" + b"2\x86" * 64
LIST_TOWER = b"]" + b"".join(b"q\x000]h\x00ah\x00a" for _ in range(64))
DICT_TOWER = b"}" + b"".join(b"q\x000}K\x01h\x00sK\x02h\x00s" for _ in range(64))
DEEP_TUPLE = b")" + b"\x85" * 300_000
MODULE = name("__main__", "M") + b")\x81}(" + text("_parameters") + b"}" + text("_modules") + b"}"
MODULE_TOWER = (
    MODULE
    + b"ubq\x000"
    + b"".join(MODULE + b"(" + text("a") + b"h\x00" + text("b") + b"h\x00uubq\x000" for _ in range(64))
    + b"h\x00"
)

BOMBS = {
    "a tower of tuples": TUPLE_TOWER,
    "a tower of lists": LIST_TOWER,
    "a tower of dicts": DICT_TOWER,
    "a tower of unknown objects": b")" + b"".join(b"q\x000" + name("a", "B") + b"h\x00h\x00\x86R" for _ in range(64)),
    "a tower of modules": MODULE_TOWER,
    "a tower as a dict key": b"}" + TUPLE_TOWER + b"Ns",
    "a tower as a dict key, in DICT": b"(" + TUPLE_TOWER + b"Nd",
    "a tower in a set": b"\x8f(" + TUPLE_TOWER + b"\x90",
    "a tower in a frozenset": b"(" + TUPLE_TOWER + b"\x91",
    "a tower in builtins.set": call("builtins", "set", b"]" + TUPLE_TOWER + b"a"),
    "a tower in an OrderedDict": call("collections", "OrderedDict", b"]" + TUPLE_TOWER + b"N\x86a"),
    "a tower in a defaultdict": call("collections", "defaultdict", b"N", b"]" + TUPLE_TOWER + b"N\x86a"),
    "a tower of unknown objects in a set": b"\x8f(" + name("a", "B") + TUPLE_TOWER + b"\x85R\x90",
    "a tower in an unknown object as a dict key": b"}" + name("a", "B") + TUPLE_TOWER + b"\x85RNs",
    "a tower as the attributes of a namespace": call("argparse", "Namespace") + b"}" + TUPLE_TOWER + b"Nsb",
    "nesting of tuples as a key": b"}" + DEEP_TUPLE + b"Ns",
    "a module that holds itself": MODULE + b"q\x01" + text("a") + b"0h\x01ub",
    "a list copied over and over": b"]("
    + b"N" * 200_000
    + b"eq\x00("
    + call("builtins", "list", b"h\x00") * 20_000
    + b"t",
    "text encoded over and over": text("x" * 1_000_000)
    + b"q\x00("
    + call("_codecs", "encode", b"h\x00") * 20_000
    + b"t",
    "a dict copied over and over": b"}("
    + b"".join(number(n) + b"N" for n in range(20_000))
    + b"uq\x00("
    + call("collections", "OrderedDict", b"h\x00") * 20_000
    + b"t",
    "arguments copied over and over": b"("
    + b"N" * 200_000
    + b"tq\x000]("
    + (name("a", "B") + b"h\x00}K\x01K\x02s\x92") * 20_000
    + b"e",
    "text that is there over and over": text("x" * 1_000_000) + b"q\x00](" + b"h\x00" * 50_000 + b"e",
    "a number that is a size": call("builtins", "bytearray", number(1 << 45)),
    "bytes of a number": call("builtins", "bytes", number(1 << 45)),
    "a set of a number": call("builtins", "set", number(1 << 45)),
    "a fraction with a zero below": call("fractions", "Fraction", text("1/x")),
    "a decimal that is none": call("decimal", "Decimal", text("zzz")),
    "a decimal of a huge int": call("decimal", "Decimal", number(1 << 20_000_000)),
    "an int of too many digits, in text": b"I" + b"9" * 60_000 + b"\n",
    "a long without an end": b"L" + b"9" * 100_000,
    "an array over a number": call("numpy", "ndarray")
    + b"(K\x01"
    + b"K\x02\x85"
    + call("numpy", "dtype", text("f4"))
    + b"\x89"
    + number(1 << 45)
    + b"tb",
    "an array of endless dimensions": call("numpy", "ndarray")
    + b"(K\x01("
    + number(1 << 800) * 20_000
    + b"t"
    + call("numpy", "dtype", text("f4"))
    + b"\x89C\x00tb",
    "an array without its state": call("numpy", "ndarray"),
    "an array whose state is short": call("numpy", "ndarray") + b")b",
    "a dtype that is a little program": call("numpy", "dtype", text("(((f4")),
    "a dtype of objects": call("numpy", "ndarray") + b"(K\x01)" + call("numpy", "dtype", text("O8")) + b"\x89C\x00tb",
    "a moment that is none": call("datetime", "datetime", text("tomorrow")),
    "a time span past the end of time": call("datetime", "timedelta", number(1 << 200)),
}


@IN_EVERY_CONTAINER
@pytest.mark.parametrize("ops", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_and_takes_neither_time_nor_memory(
    container: Callable[[bytes, Path], Path], ops: bytes, tmp_path: Path
) -> None:
    with pytest.raises(mfc.FormatError):
        read_all(container(ops, tmp_path / "x"))


#: Read as a value, since what would go off is never made.
DUDS = {
    "a fraction of endless digits": call("fractions", "Fraction", text("1e1000000000")),
    "a decimal of endless digits": call("decimal", "Decimal", text("1e1000000000")),
    "a tower as a module's transient buffers": MODULE
    + text("_buffers")
    + b"}"
    + text("x")
    + b"Ns"
    + text("_non_persistent_buffers_set")
    + b"]"
    + TUPLE_TOWER
    + b"aub",
}


@pytest.mark.parametrize("ops", DUDS.values(), ids=DUDS)
def test_a_bomb_that_is_never_armed_is_a_value(ops: bytes, tmp_path: Path) -> None:
    read_all(torch_zip(ops, tmp_path / "x.pt"))


#: Nesting and circles, which configurations and models have too: they end where they would go on for ever.
ENDLESS = {
    "nesting past any stack": b"]" * 300_000 + b"a" * 299_999,
    "nesting of tuples": DEEP_TUPLE,
    "nesting of modules": MODULE
    + b"ub"
    + b"".join(b"q\x000" + MODULE + b"(" + text("a") + b"h\x00uub" for _ in range(2000)),
    "a list that holds itself": b"]q\x00h\x00a",
    "a dict that holds itself": b"}q\x00K\x01h\x00s",
    "a namespace that holds itself": call("argparse", "Namespace") + b"q\x00}" + text("x") + b"h\x00sb",
    "an unknown object that holds itself": name("a", "B") + b")Rq\x00h\x00b",
    "an array that holds itself": call("numpy", "ndarray")
    + b"q\x00(K\x01K\x01\x85"
    + call("numpy", "dtype", text("O8"))
    + b"\x89]h\x00atb",
    "two objects that hold each other": name("a", "B") + b")\x81q\x00" + name("a", "C") + b")\x81h\x00b" + b"b",
}


@IN_EVERY_CONTAINER
@pytest.mark.parametrize("ops", ENDLESS.values(), ids=ENDLESS)
def test_what_goes_on_for_ever_ends_in_an_unknown_object(
    container: Callable[[bytes, Path], Path], ops: bytes, tmp_path: Path
) -> None:
    path = container(ops, tmp_path / "x")
    read_all(path)
    endings = [leaf for _, leaf in leaves(mfc.open(path).tree) if str(leaf).endswith((", which holds this", " others"))]
    assert len(endings) == 1
    mfc.convert(path, tmp_path / "out.pt", allow_unknown=True)


BROKEN = {
    "nothing on the stack": b"",
    "a value taken from an empty stack": b"0",
    "a mark and nothing else": b"(",
    "a tuple without its mark": b"t",
    "a mark inside a tuple": b"(\x85",
    "a key without a value": b"}(K\x01u",
    "items for a number": b"K\x01(K\x02e",
    "entries for a list": b"](K\x01K\x02u",
    "members for a list": b"](K\x01\x90",
    "a state for a number": b"K\x01}b",
    "a state for nothing": b"}b",
    "a state for a known text": text("x") + b"}b",
    "a memo that was never filled": b"h\x07",
    "a memo of nothing": b"q\x00",
    "a memo at a number that is none": b"Npx\n",
    "a call of a number": b"K\x01)R",
    "a call of a builder's result": call("collections", "OrderedDict") + b")R",
    "a call with a list": name("collections", "OrderedDict") + b"]R",
    "a name that is a number": b"K\x01K\x02\x93",
    "an unhashable key": b"}]Ns",
    "an unhashable member": b"\x8f(]\x90",
    "a list without its end": b"](",
    "text longer than the file": b"X\xff\xff\xff\x7fx",
    "text of a negative length": b"T\xff\xff\xff\xffx",
    "bytes longer than any memory": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "text that is no UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    "a string without quotes": b"Sabc\n",
    "a float that is none": b"Fxyz\n",
    "an int that is none": b"Ixyz\n",
    "a name cut short": b"cos\nsys",
    "an extension": b"\x82\x01",
    "a buffer that is elsewhere": b"\x97",
    "a read-only buffer that is elsewhere": b"]\x98",
    "an opcode of no protocol": b"\xfe",
    "a protocol of the future": b"\x80\x09N",
    "a reference to an outside object of one part": b"K\x01\x85Q",
    "a reference to an outside object by text": b"Pstorage\n",
    "a reference by a tower": TUPLE_TOWER + b"Q",
    "an unhashable storage key": b"("
    + text("storage")
    + name("torch", "FloatStorage")
    + b"]"
    + text("cpu")
    + b"K\x01tQ",
}


@IN_EVERY_CONTAINER
@pytest.mark.parametrize("ops", BROKEN.values(), ids=BROKEN)
def test_opcodes_that_no_pickler_writes_are_a_format_error(
    container: Callable[[bytes, Path], Path], ops: bytes, tmp_path: Path
) -> None:
    with pytest.raises(mfc.FormatError):
        read_all(container(ops, tmp_path / "x"))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A path that exists once anything named by a file has been run."""
    return tmp_path / "canary"


def traps(canary: Path) -> dict[str, bytes]:
    """Gives opcodes that make the standard unpickler create ``canary``."""
    touch, code = text(f"touch {canary}"), text(f"open({str(canary)!r}, 'w').close()")
    getattr_open = call("builtins", "getattr", name("builtins", "__import__"), text("__call__"))
    return {
        "os.system": call("os", "system", touch),
        "posix.system": call("posix", "system", touch),
        "subprocess.Popen by NEWOBJ": name("subprocess", "Popen")
        + b"]"
        + text("touch")
        + b"a"
        + text(str(canary))
        + b"a\x85\x81",
        "builtins.exec": call("builtins", "exec", code),
        "builtins.eval by INST": b"(" + code + b"ibuiltins\neval\n",
        "builtins.open by OBJ": b"(" + name("builtins", "open") + text(str(canary)) + text("w") + b"o",
        "pathlib.Path.touch by a dotted name": name("pathlib", "Path.touch")
        + call("pathlib", "PosixPath", text(str(canary)))
        + b"\x85R",
        "a name put together on the stack": text("os") + text("system") + b"\x93" + touch + b"\x85R",
        "getattr of a getattr": getattr_open,
        "a state that is a call": name("a", "B") + b")\x81" + call("os", "system", touch) + b"b",
        "a trap as a dict key": b"}" + call("os", "system", touch) + b"Ns",
        "a trap as an argument of a known name": call("collections", "OrderedDict", call("os", "system", touch)),
        "a trap as a tensor's hooks": call(
            "torch._utils", "_rebuild_parameter", b"N", b"\x89", call("os", "system", touch)
        ),
        "a trap as a defaultdict's factory": call("collections", "defaultdict", name("os", "abort")) + b"K\x01Ns",
        "a trap in a reference": call("os", "system", touch) + b"Q",
        "a trap in a list's append": name("os", "system") + b")R" + touch + b"a",
        "a trap in __setstate__": name("a", "B")
        + b")\x81}"
        + text("__setstate__")
        + name("os", "system")
        + b"sb"
        + touch
        + b"b",
        "a trap after the stop": b"N." + call("os", "system", touch),
    }


@IN_EVERY_CONTAINER
@pytest.mark.parametrize("trap", traps(Path("canary")))
def test_a_trap_is_never_run(container: Callable[[bytes, Path], Path], trap: str, tmp_path: Path, canary: Path) -> None:
    path = container(traps(canary)[trap], tmp_path / "x")
    with suppress(mfc.MultiframeError):
        checkpoint = mfc.open(path)
        mfc.convert(path, tmp_path / "out.pt", allow_unknown=True)
        checkpoint.to_backend("numpy")
        mfc.verify(path)
    assert not canary.exists()


@pytest.mark.parametrize("trap", ["os.system", "builtins.exec", "builtins.eval by INST"])
def test_the_traps_are_live_ammunition(trap: str, canary: Path) -> None:
    pickle.loads(b"\x80\x02" + traps(canary)[trap] + b".")
    assert canary.exists()


@IN_EVERY_CONTAINER
def test_a_refused_trap_is_named(container: Callable[[bytes, Path], Path], tmp_path: Path, canary: Path) -> None:
    with pytest.raises(mfc.UnsafeError, match=r"posix\.system"):
        mfc.open(container(b"]" + traps(canary)["posix.system"] + b"a", tmp_path / "x"))


def test_two_objects_that_a_tree_spells_alike_stay_two_entries(tmp_path: Path) -> None:
    path_key = call("pathlib", "PosixPath", text("a"))
    member = [name("m", "Color") + b"K" + bytes([value]) + b"\x85R" for value in (1, 2)]
    entries = (text("a") + b"K\x01", path_key + b"K\x02", member[0] + b"K\x03", member[1] + b"K\x04")
    tree = mfc.open(torch_zip(b"}(" + b"".join(entries) + b"u", tmp_path / "x.pt")).tree
    assert tree == {"a": 1, "a (2)": 2, "m.Color(1)": 3, "m.Color(2)": 4}
