"""Pickles that want code to run, by every way that an opcode offers, and pickles that blow up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from .case import Hostile, outside
from .opcodes import CONTAINERS, call, name, number, oneflow_folder, text, torch_zip

__all__ = ["CASES", "traps"]


def traps(canary: Path) -> dict[str, bytes]:
    """Gives opcodes, each another way to make an unpickler run something that leaves ``canary``."""
    touch, code = text(f"touch {canary}"), text(f"open({str(canary)!r}, 'w').close()")
    system = call("os", "system", touch)
    command = b"]" + text("touch") + b"a" + text(str(canary)) + b"a"
    short_names = b"\x8c\x02os\x8c\x06system\x93"
    loose = name("a", "B") + b")\x81"
    return {
        "GLOBAL and REDUCE of os.system": system,
        "posix.system": call("posix", "system", touch),
        "nt.system": call("nt", "system", touch),
        "STACK_GLOBAL": short_names + touch + b"\x85R",
        "STACK_GLOBAL of memoized names": text("os") + b"q\x00" + text("system") + b"q\x010h\x01\x930" + system,
        "INST": b"(" + code + b"ibuiltins\nexec\n",
        "OBJ": b"(" + name("builtins", "open") + text(str(canary)) + text("w") + b"o",
        "NEWOBJ of subprocess.Popen": name("subprocess", "Popen") + command + b"\x85\x81",
        "NEWOBJ_EX of subprocess.Popen": name("subprocess", "Popen") + b"(t}" + text("args") + command + b"s\x92",
        "BUILD with __setstate__": loose + b"}" + text("__setstate__") + name("os", "system") + b"sb" + touch + b"b",
        "BUILD with a call for a state": loose + system + b"b",
        "BUILD with slots": loose + b"(N}" + text("x") + system + b"stb",
        "BUILD of a class's own dict": name("a", "B") + b"}" + text("__reduce__") + system + b"sb",
        "builtins.eval": call("builtins", "eval", code),
        "builtins.exec of Python 2": call("__builtin__", "eval", code),
        "builtins.__import__": call("builtins", "__import__", text("hostile_canary")),
        "a module that would be imported": call("hostile_canary", "run"),
        "a dotted name": name("pathlib", "Path.touch") + call("pathlib", "PosixPath", text(str(canary))) + b"\x85R",
        "a dotted name through a module": call("torch", "os.system", touch),
        "numpy's own exec": call("numpy.testing._private.utils", "runstring", code, b"}"),
        "torch's loader": call("torch", "load", text(str(canary))),
        "torch.hub": call("torch.hub", "_import_module", text("x"), text(str(canary))),
        "runpy.run_path": call("runpy", "run_path", text(str(canary))),
        "getattr": call("builtins", "getattr", name("os", "path"), text("join")) + touch + b"\x85R",
        "operator.methodcaller": call("operator", "methodcaller", text("system"), touch),
        "functools.partial": call("functools", "partial", name("os", "system"), touch) + b")R",
        "map over os.system": call("builtins", "list", call("builtins", "map", name("os", "system"), command)),
        "code and function objects": call("types", "FunctionType", call("marshal", "loads", b"C\x01N"), b"}"),
        "ctypes": call("ctypes", "CDLL", text(str(canary))),
        "a socket": call("socket", "create_connection", text("localhost"), b"K\x01"),
        "pip": call("pip._internal", "main", b"]" + text("install") + b"a"),
        "pickle within a pickle": call("pickle", "loads", b"C\x02N."),
        "shutil.rmtree": call("shutil", "rmtree", text(str(canary.parent))),
        "os.remove": call("os", "remove", text(str(canary.parent / "secret"))),
        "webbrowser": call("webbrowser", "open", text("http://localhost")),
        "a debugger": call("pdb", "run", code),
        "a key of a dict": b"}" + system + b"Ns",
        "a member of a set": b"\x8f(" + system + b"\x90",
        "an argument of a known name": call("collections", "OrderedDict", system),
        "a defaultdict's factory": call("collections", "defaultdict", name("os", "abort")) + b"K\x01Ns",
        "a tensor's hooks": call("torch._utils", "_rebuild_parameter", b"N", b"\x89", system),
        "a tensor subclass's rebuilder": call("torch._tensor", "_rebuild_from_type_v2", name("os", "system"), touch),
        "a persistent id": system + b"Q",
        "an append to a call": system + touch + b"a",
        "copyreg's reconstructor": call("copyreg", "_reconstructor", name("subprocess", "Popen"), command, command),
        "copyreg's extension": call("copyreg", "add_extension", text("os"), text("system"), b"K\x01") + b"0\x82\x01",
        "numpy's reconstruct": call("numpy.core.multiarray", "_reconstruct", name("os", "system"), touch, b"C\x01b"),
        "lightning's own trick": call("torch.serialization", "_get_restore_location", touch),
    }


def _trap(title: str, container: Callable[[bytes, Path], Path], place: Path) -> None:
    container(traps(outside(place) / "canary")[title], place)


#: Refused whatever is asked for, or built as a record when that was asked for: harmless in both cases.
_TRAPS = {
    f"{title}, in a {kind}": Hostile(partial(_trap, title, container), "never")
    for title in traps(Path("canary"))
    for kind, container in CONTAINERS.items()
}

TUPLES = b")" + b"2\x86" * 64
BOMBS = {
    "tuples of two, 64 high": TUPLES,
    "lists of two, 64 high": b"]" + b"".join(b"q\x000]h\x00ah\x00a" for _ in range(64)),
    "dicts of two, 64 high": b"}" + b"".join(b"q\x000}K\x01h\x00sK\x02h\x00s" for _ in range(64)),
    "a tower as a key": b"}" + TUPLES + b"Ns",
    "a tower in a frozenset": b"(" + TUPLES + b"\x91",
    "lists nested past any stack": b"]" * 100_000 + b"a" * 99_999,
    "tuples nested past any stack": b")" + b"\x85" * 100_000,
    "marks without end": b"(" * 300_000,
    "a list that holds itself": b"]q\x00h\x00a",
    "a dict that holds itself": b"}q\x00K\x01h\x00s",
    "a list copied over and over": b"]("
    + b"N" * 9_000
    + b"eq\x00("
    + call("builtins", "list", b"h\x00") * 9_000
    + b"t",
    "text said over and over": text("x" * 500_000) + b"q\x00](" + b"h\x00" * 50_000 + b"e",
    "a memo index of 2**32 - 1": b"Nr\xff\xff\xff\xff0" + b"}" * 2 + b"N",
    "a length of 2**63": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "a frame of 2**63": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f" + b"X\xff\xff\xff\x7fx",
    "text of 2 GiB that is not there": b"X\xff\xff\xff\x7fx",
    "bytearray8 of 2**62": b"\x96\x00\x00\x00\x00\x00\x00\x00\x40",
    "an int of negative length": b"\x8b\xff\xff\xff\xff",
    "a decimal int of endless digits": b"I" + b"9" * 900_000 + b"\n",
    "a long of endless digits": b"L" + b"9" * 900_000 + b"L\n",
    "bytes made of a number": call("builtins", "bytearray", number(1 << 45)),
    "a set made of a number": call("builtins", "set", number(1 << 45)),
    "a range as a list": call("builtins", "list", call("builtins", "range", number(1 << 45))),
    "a text times a number": call("operator", "mul", text("x"), number(1 << 45)),
    "an array of endless size": call("numpy", "ndarray")
    + b"(K\x01K\x02\x85"
    + call("numpy", "dtype", text("f4"))
    + b"\x89"
    + number(1 << 45)
    + b"tb",
    "a dtype that is a little program": call("numpy", "dtype", text("(((f4")),
    "a dtype of a million fields": call("numpy", "dtype", text("f4," * 200_000)),
    "numpy.frombuffer of endless counts": call("numpy", "frombuffer", b"C\x01x", text("f8"), number(1 << 60)),
    "two STOPs and a trap": b"]." + call("os", "system", text("true")) + b"h\x07",
    "opcodes of no protocol": b"\xfe",
    "an extension of copyreg": b"\x82\x01",
    "an out-of-band buffer": b"\x97",
    "a protocol of the future": b"\x80\xffN",
    "a value from nothing": b"0",
    "a tuple without a mark": b"t",
    "a state for a list": b"]}b",
    "entries set on a text": text("x") + b"(K\x01K\x02u",
    "items appended to a tuple": b")K\x01a",
    "items appended to a class": name("a", "B") + b"(K\x01e",
    "text that is no UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    "a name with a line break": b"\x8c\x03o\nsX\x06\x00\x00\x00system\x93)R",
    "a name that is no text": b"K\x01K\x02\x93",
}
_READ = {
    *("two STOPs and a trap", "a memo index of 2**32 - 1"),
    *(
        "lists nested past any stack",
        "tuples nested past any stack",
        "a list that holds itself",
        "a dict that holds itself",
    ),
}
#: Unknown calls, kept where that was asked for.
_UNKNOWN = {
    *("a range as a list", "a text times a number", "numpy.frombuffer of endless counts", "a name with a line break"),
}

_BOMBS = {
    f"{title}, in a {kind}": Hostile(
        partial(container, ops), "never" if title in _READ else "whole" if title in _UNKNOWN else "headers"
    )
    for title, ops in BOMBS.items()
    for kind, container in (("torch zip", torch_zip), ("oneflow folder", oneflow_folder))
}

CASES: dict[str, Hostile] = _TRAPS | _BOMBS
