"""The shipped suites, subclassed as a plugin's author would; test_plugin.py runs them where the plugins are installed."""

import frozenframe
import numpy as np
import toyframe

from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.contracts import ValueRefusedError
from multiframe_ckpt.formats import format_named
from multiframe_ckpt.testing import BackendContract, FormatContract, LikeBackendContract


class TestToy(BackendContract, LikeBackendContract):
    backend = backend_named("toyframe")
    dtypes = ("float32",)

    def tensor(self, array):
        return toyframe.Tensor(array.ravel().tolist(), array.shape)

    def array(self, tensor):
        return np.array(tensor.values, np.float32).reshape(tensor.shape)


class TestFrozen(LikeBackendContract):
    backend = backend_named("frozenframe")
    dtypes = ("float32", "int64", "bool", "bfloat16")

    def tensor(self, array):
        return frozenframe.Array(array)

    def array(self, tensor):
        return np.asarray(tensor)


class TestToyFormat(FormatContract):
    format = format_named("toy")
    holds_ties = holds_plain_values = False
    may_refuse = (ValueRefusedError,)
