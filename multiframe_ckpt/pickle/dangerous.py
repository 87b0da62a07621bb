"""Names by which pickles are known to run code, reach files and networks, or load further pickles.

They are refused wherever a pickle mentions them, called or not: handed to another call, ``exec`` in ``map``, a name is
called all the same, and no checkpoint needs one. What is not here is not therefore harmless: it is never imported either,
and is refused unless unknown objects are allowed.

Sources: the deny lists of picklescan 1.0.5 (``scanner.py``), fickling 0.1.12 (``fickle.py``, ``analysis.py``), modelscan
0.8.8 (``settings.py``) and torch 2.13 (``_weights_only_unpickler.py``). Left out are names on them that checkpoints do
hold and that run nothing by themselves: ``functools.partial`` (what it holds is refused by its own name), ``getattr``
(``known`` answers it: a class within a class is pickled so, all else is refused), and the classes in ``_HARMLESS``.
"""

from __future__ import annotations

__all__ = ["is_dangerous"]

#: Modules of which every name is refused, and every name of the modules below them, by what they reach.
_DANGEROUS_MODULES = {
    module
    for modules in {
        "processes": "os posix nt sys subprocess _posixsubprocess pty commands popen2 multiprocessing concurrent asyncio "
        "pexpect signal _signal threading _thread select selectors syslog uuid _osx_support _aix_support _pyrepl sysconfig",
        "files": "shutil pathlib tempfile glob fileinput linecache filecmp mmap zipfile tarfile shelve dbm sqlite3 "
        "_sqlite3 distutils.ccompiler distutils.cmd distutils.core distutils.dir_util distutils.file_util distutils.spawn "
        "distutils.util numpy.lib.npyio numpy.lib._npyio_impl",
        "networks": "socket _socket socketserver ssl http httplib xmlrpc smtplib imaplib ftplib poplib telnetlib nntplib "
        "urllib.request urllib2 requests aiohttp httpx webbrowser torch.hub torch.distributed.rpc "
        "torch.distributed.elastic.rendezvous.api",
        "code": "code codeop runpy marshal compileall py_compile bdb pdb cProfile profile trace timeit doctest unittest "
        "test.support pydoc idlelib lib2to3 ctypes _ctypes cffi numpy.f2py numpy.distutils numpy.testing numpy.ctypeslib "
        "torch.jit torch.package torch._dynamo torch._inductor torch.utils.cpp_extension torch.utils.bottleneck "
        "torch.utils.collect_env torch.utils._config_module torch.fx.experimental.symbolic_shapes",
        "imports": "imp _imp importlib _frozen_importlib _frozen_importlib_external pkgutil zipimport site gc atexit "
        "venv ensurepip pip setuptools",
        "further pickles": "pickle _pickle cPickle pickletools dill cloudpickle joblib jsonpickle pandas.io.pickle "
        "keras.saving keras.src.saving torch.utils.data.datapipes.utils.decoder",
    }.values()
    for module in modules.split()
}

#: Names refused in modules that checkpoints use otherwise, and whatever is below these names.
_DANGEROUS_NAMES = {
    f"{module}.{name}"
    for modules, names in {
        "builtins __builtin__ __builtins__": "eval exec execfile compile open file input raw_input breakpoint __import__ "
        "__build_class__ apply setattr delattr globals locals vars memoryview reload help exit quit",
        "io _io": "open open_code FileIO",
        "codecs": "open",
        "operator _operator": "attrgetter itemgetter methodcaller call",
        "functools _functools": "reduce partialmethod",
        "types": "CodeType FunctionType LambdaType",
        "inspect": "getattr_static currentframe stack",
        "logging": "FileHandler basicConfig config handlers",
        "platform": "popen _syscmd_file _syscmd_ver",
        "numpy numpy.core.multiarray numpy._core.multiarray": "load loadtxt genfromtxt fromfile fromregex memmap "
        "save savez savetxt DataSource ndarray.tofile ndarray.dump",
        "pandas": "read_pickle eval HDFStore",
        "torch": "load save compile from_file UntypedStorage.from_file",
        "torch.serialization": "load save _load _legacy_load",
        "torch.storage": "_load_from_bytes UntypedStorage.from_file TypedStorage.from_file",
        "oneflow": "load save",
        "tensorflow": "load_library load_op_library py_function numpy_function",
        "keras keras.models tensorflow.keras.models": "load_model",
    }.items()
    for module in modules.split()
    for name in names.split()
}

#: Values that checkpoints hold of the modules above.
_HARMLESS = {
    *("uuid.UUID", "uuid.SafeUUID", "http.HTTPStatus", "signal.Signals", "signal.Handlers"),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    ),
}


_DANGEROUS = _DANGEROUS_MODULES | _DANGEROUS_NAMES
_MAX_PARTS = 32  # no honest name has more


def is_dangerous(module: str, name: str) -> bool:
    """Return whether a pickle that mentions the name is refused; a dotted name may lead from any module to another."""
    dotted_path = f"{module}.{name}"
    if dotted_path in _HARMLESS:
        return False
    parts, attributes = dotted_path.split("."), name.split(".")
    if len(parts) > _MAX_PARTS or not _DANGEROUS.isdisjoint(_prefixes(parts)):
        return True
    if len(attributes) > 1 and any(attribute[:2] == attribute[-2:] == "__" for attribute in attributes):
        return True
    return any(not _DANGEROUS.isdisjoint(_prefixes(attributes[start:])) for start in range(len(attributes) - 1))


def _prefixes(parts: list[str]) -> list[str]:
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
