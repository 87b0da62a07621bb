"""Names in pickles: those that run code are refused by every route that leads to a call, the others stay names."""

from __future__ import annotations

import enum
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from catalogue.opcodes import name, text, torch_zip

import multiframe_ckpt as mfc
from multiframe_ckpt.pickle.known import PLAIN


def called(what: bytes, *args: bytes) -> bytes:
    return what + b"(" + b"".join(args) + b"tR"


OBJECT = name("my", "Class") + b")\x81"  # an unknown object, which takes anything without effect

#: Opcodes that have the standard unpickler call a name, sooner or later, with one text.
ROUTES: dict[str, Callable[[str, str, bytes], bytes]] = {
    "GLOBAL and REDUCE": lambda module, attribute, arg: called(name(module, attribute), arg),
    "NEWOBJ": lambda module, attribute, arg: name(module, attribute) + b"(" + arg + b"t\x81",
    "NEWOBJ_EX": lambda module, attribute, arg: name(module, attribute) + b"(" + arg + b"t}\x92",
    "OBJ": lambda module, attribute, arg: b"(" + name(module, attribute) + arg + b"o",
    "INST": lambda module, attribute, arg: b"(" + arg + f"i{module}\n{attribute}\n".encode(),
    "STACK_GLOBAL": lambda module, attribute, arg: called(text(module) + text(attribute) + b"\x93", arg),
    "a name from the memo": lambda module, attribute, arg: name(module, attribute) + b"q\x000" + called(b"h\x00", arg),
    "a name left on the stack": lambda module, attribute, arg: name(module, attribute) + b"2" + arg + b"\x85R0",
    "lines that end as on Windows": lambda module, attribute, arg: called(
        f"c{module}\r\n{attribute}\r\n".encode(), arg
    ),
    "a dotted name through another module": lambda module, attribute, arg: called(
        text("collections") + text(f"abc.{module}.{attribute}") + b"\x93", arg
    ),
    "an attribute of the name": lambda module, attribute, arg: called(
        called(name("builtins", "getattr"), name(module, attribute), text("__call__")), arg
    ),
    "a state": lambda module, attribute, arg: OBJECT + called(name(module, attribute), arg) + b"b",
    "a state with __setstate__": lambda module, attribute, arg: (
        OBJECT + b"}" + text("__setstate__") + name(module, attribute) + b"sb" + arg + b"b"
    ),
    "a state with __class__": lambda module, attribute, arg: (
        OBJECT + b"}" + text("__class__") + name(module, attribute) + b"sb"
    ),
    "items of an unknown object": lambda module, attribute, arg: OBJECT + name(module, attribute) + b"a",
    "entries of an unknown object": lambda module, attribute, arg: OBJECT + arg + name(module, attribute) + b"s",
    "map": lambda module, attribute, arg: called(name("builtins", "map"), name(module, attribute), b"]" + arg + b"a"),
    "partial": lambda module, attribute, arg: called(name("functools", "partial"), name(module, attribute), arg),
    "a class that is reconstructed": lambda module, attribute, arg: called(
        name("copyreg", "_reconstructor"), name(module, attribute), name("builtins", "object"), b"N"
    ),
    "the factory of a defaultdict": lambda module, attribute, arg: called(
        name("collections", "defaultdict"), name(module, attribute)
    ),
    "an entry of an OrderedDict": lambda module, attribute, arg: called(
        name("collections", "OrderedDict"), b"]" + arg + name(module, attribute) + b"\x86a"
    ),
    "a state of an OrderedDict": lambda module, attribute, arg: (
        called(name("collections", "OrderedDict")) + b"}" + arg + name(module, attribute) + b"sb"
    ),
    "a key": lambda module, attribute, arg: b"}" + called(name(module, attribute), arg) + b"Ns",
    "a member of a set": lambda module, attribute, arg: b"\x8f(" + name(module, attribute) + b"\x90",
    "a member of a frozenset": lambda module, attribute, arg: b"(" + name(module, attribute) + b"\x91",
    "the hooks of a tensor": lambda module, attribute, arg: called(
        name("torch._utils", "_rebuild_parameter"), b"N", b"\x89", name(module, attribute)
    ),
    "the type of a tensor": lambda module, attribute, arg: called(
        name("torch._tensor", "_rebuild_from_type_v2"), name(module, attribute), name("torch", "Tensor"), arg, b"N"
    ),
    "the type of a storage": lambda module, attribute, arg: (
        b"(" + text("storage") + name(module, attribute) + text("0") + text("cpu") + b"K\x10tQ"
    ),
    "a persistent id": lambda module, attribute, arg: name(module, attribute) + b"Q" + arg + b"\x85R",
    "a dtype": lambda module, attribute, arg: called(name("numpy", "dtype"), name(module, attribute)),
    "the elements of an array": lambda module, attribute, arg: (
        called(name("numpy", "ndarray"))
        + b"(K\x01K\x01\x85"
        + called(name("numpy", "dtype"), text("O8"))
        + b"\x89]"
        + called(name(module, attribute), arg)
        + b"atb"
    ),
    "a namespace": lambda module, attribute, arg: (
        called(name("argparse", "Namespace")) + b"}" + arg + name(module, attribute) + b"sb"
    ),
    "a name that is thrown away": lambda module, attribute, arg: name(module, attribute) + b"0N",
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(("module", "attribute"), [("posix", "system"), ("builtins", "exec")])
def test_a_name_that_runs_code_is_refused_by_every_route(
    route: Callable[[str, str, bytes], bytes], module: str, attribute: str, tmp_path: Path
) -> None:
    path = torch_zip(route(module, attribute, text("touch canary")), tmp_path / "x.pt")
    with pytest.raises(mfc.UnsafeError, match=f"{module}.{attribute}.*a name by which files run code"):
        mfc.open(path)


DANGEROUS = [
    path
    for paths in (
        "os.system os.popen os.path.join nt.system sys.settrace subprocess.Popen subprocess.check_output pty.spawn",
        "commands.getoutput builtins.eval builtins.compile builtins.__import__ builtins.open builtins.breakpoint",
        "builtins.setattr __builtin__.execfile __builtin__.apply io.open _io.FileIO codecs.open shutil.rmtree",
        "tempfile.mktemp pathlib.Path.touch pathlib.PosixPath.unlink socket.create_connection urllib.request.urlopen",
        "http.client.HTTPSConnection requests.api.get webbrowser.open aiohttp.client.get runpy.run_path",
        "importlib.import_module pkgutil.resolve_name zipimport.zipimporter imp.load_source marshal.loads",
        "operator.attrgetter operator.methodcaller _operator.attrgetter functools.reduce types.CodeType",
        "types.FunctionType ctypes.CDLL code.InteractiveInterpreter.runcode bdb.Bdb.run pdb.run cProfile.run",
        "timeit.timeit doctest.debug_script pydoc.pipepager idlelib.pyshell.ModifiedInterpreter.runcode asyncio.run",
        "multiprocessing.util.spawnv_passfds threading.Thread uuid._get_command_stdout _osx_support._read_output",
        "distutils.file_util.write_file pip.main venv.create logging.FileHandler logging.config.listen pickle.loads",
        "_pickle.Unpickler dill.loads cloudpickle.cloudpickle._make_function joblib.load numpy.load numpy.fromfile",
        "numpy.f2py.crackfortran.getlincoef numpy.testing._private.utils.runstring numpy.ctypeslib.load_library",
        "pandas.read_pickle torch.load torch.serialization.load torch.storage._load_from_bytes torch.hub.load",
        "torch.jit.load torch.compile torch._inductor.codecache.compile_file torch._dynamo.guards.GuardBuilder.get",
        "torch.utils.collect_env.run torch.utils.bottleneck.__main__.run_cprofile torch.utils.cpp_extension.load",
        "oneflow.load torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression",
        "tensorflow.keras.models.load_model my.helpers.Class.__init__.__globals__ my.helpers.__builtins__.eval",
        "my.helpers.torch.load",
    )
    for path in paths.split()
]


@pytest.mark.parametrize("path", DANGEROUS)
def test_every_name_that_scanners_warn_of_is_refused_wherever_it_is_split(path: str, tmp_path: Path) -> None:
    parts = path.split(".")
    for at in range(1, len(parts)):
        module, attribute = ".".join(parts[:at]), ".".join(parts[at:])
        file = torch_zip(called(text(module) + text(attribute) + b"\x93"), tmp_path / f"{at}.pt")
        if at == 1 or not path.startswith("my."):
            with pytest.raises(mfc.UnsafeError, match="a name by which files run code"):
                mfc.open(file)


def test_a_dangerous_name_that_is_only_mentioned_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(mfc.UnsafeError, match=r"os\.system"):
        mfc.open(torch_zip(b"}" + text("hook") + name("os", "system") + b"s", tmp_path / "x.pt"))


HARMLESS = [
    path
    for paths in (
        "functools.partial uuid.UUID http.HTTPStatus signal.Signals logging.getLogger torch.nn.functional.relu",
        "torch.trace my.os.Class my.code.Net my.test.Model collections.namedtuple numpy.random._pickle.__generator_ctor",
        "copyreg.__newobj__ _io.BytesIO urllib.parse.SplitResult builtins.slice",
        "lightning.fabric.utilities.data.AttributeDict",
    )
    for path in paths.split()
]


@pytest.mark.parametrize("path", HARMLESS)
def test_an_unknown_name_is_a_name_and_its_call_a_record(path: str, tmp_path: Path) -> None:
    module, _, attribute = path.rpartition(".")
    file = torch_zip(called(name(module, attribute), b"K\x07"), tmp_path / "x.pt")
    before = set(sys.modules)
    tree = mfc.open(file).tree
    assert (tree.type_name, tree.args) == (path, (7,))
    assert set(sys.modules) == before
    with pytest.raises(mfc.UnsafeError, match="allow_unknown"):
        mfc.load(file)


class Outer:
    class Inner(enum.Enum):
        MEMBER = 1


@pytest.mark.parametrize("protocol", range(6))
def test_a_class_within_a_class_is_a_name(protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("my_enums")
    module.Outer = Outer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_enums", module)
    for kind in (Outer, Outer.Inner):
        monkeypatch.setattr(kind, "__module__", "my_enums")
    tree = mfc.open(torch_zip(pickle.dumps(Outer.Inner.MEMBER, protocol)[:-1], tmp_path / "x.pt")).tree
    assert (tree.type_name, tree.args) == ("my_enums.Outer.Inner", (1,))


GETATTR = name("builtins", "getattr")
ATTRIBUTES = {
    "of an object, by which its class is found": called(GETATTR, OBJECT, text("__class__")),
    "of a method of an object": called(GETATTR, called(GETATTR, OBJECT, text("run")), text("__globals__")),
    "that is a path from an object": called(GETATTR, OBJECT, text("os.system")),
    "that is a path": called(GETATTR, name("my", "Class"), text("a.b")),
    "that is no text": called(GETATTR, name("my", "Class"), b"K\x01"),
    "that is missing": called(GETATTR, name("my", "Class")),
    "with a default": called(GETATTR, name("my", "Class"), text("x"), name("my", "f")),
    "of what every class has": called(GETATTR, name("builtins", "tuple"), text("__subclasses__")),
    "of a chain": called(GETATTR, called(GETATTR, name("my", "Class"), text("os")), text("system")),
}


@pytest.mark.parametrize("ops", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_an_attribute_by_which_files_run_code_is_refused(ops: bytes, tmp_path: Path) -> None:
    with pytest.raises(mfc.FormatError):
        mfc.open(torch_zip(ops, tmp_path / "x.pt"))


METHODS = {
    "of a text": called(GETATTR, text("x"), text("upper")),
    "of an unknown object": called(GETATTR, OBJECT, text("method")),
    "of a dict": called(GETATTR, b"}", text("update")),
    "of a list, by Python 2's name": called(name("__builtin__", "getattr"), b"]", text("append")),
    "by which an object is called": called(GETATTR, OBJECT, text("__call__")),
}


@pytest.mark.parametrize("ops", METHODS.values(), ids=METHODS)
def test_a_method_of_an_object_is_an_unknown_object_and_taken_from_nothing(ops: bytes, tmp_path: Path) -> None:
    tree = mfc.open(torch_zip(ops, tmp_path / "x.pt")).tree
    assert tree.type_name in ("builtins.getattr", "__builtin__.getattr")
    assert len(tree.args) == 2


def test_what_an_unknown_call_gave_is_called_in_name_only(tmp_path: Path) -> None:
    tree = mfc.open(torch_zip(called(called(name("my", "f"), b"K\x01"), text("x")), tmp_path / "x.pt")).tree
    assert (tree.type_name, tree.args[0].type_name, tree.args[0].args, tree.args[1]) == ("my.f()", "my.f", (1,), ("x",))


UNCALLABLE = {
    "a tensor's storage": b"("
    + text("storage")
    + name("torch", "FloatStorage")
    + text("0")
    + text("cpu")
    + b"K\x10tQ)R",
    "a text": called(text("os.system")),
    "a dict": called(b"}"),
    "a tuple of a name": called(name("my", "f") + b"\x85"),
}


@pytest.mark.parametrize("ops", UNCALLABLE.values(), ids=UNCALLABLE)
def test_only_names_are_called(ops: bytes, tmp_path: Path) -> None:
    with pytest.raises(mfc.UnsafeError, match=r"a pickle that calls a \w+, expected a name"):
        mfc.open(torch_zip(ops, tmp_path / "x.pt"))


def test_a_hostile_file_changes_nothing_for_the_next_one(tmp_path: Path) -> None:
    known = dict(PLAIN)
    benign = torch_zip(b"}" + text("d") + called(name("collections", "OrderedDict")) + b"s", tmp_path / "benign.pt")
    unknown = torch_zip(OBJECT, tmp_path / "unknown.pt")
    mfc.open(unknown)
    for route in ROUTES.values():
        with pytest.raises(mfc.UnsafeError):
            mfc.open(torch_zip(route("os", "system", text("x")), tmp_path / "x.pt"))
    assert mfc.open(benign).tree == {"d": {}}
    with pytest.raises(mfc.UnsafeError):
        mfc.load(unknown)
    assert known == PLAIN


def test_the_standard_unpickler_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the standard unpickler was used")

    for title in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, title, refuse)
    assert mfc.open(torch_zip(b"}" + text("a") + b"K\x01s", tmp_path / "x.pt")).tree == {"a": 1}
