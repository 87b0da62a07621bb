"""The shipped suite, subclassed as a plugin's author would; test_plugin.py runs it where the plugin is installed."""

import numpy as np
import toyframe

from multiframe_ckpt.backend import backend_named
from multiframe_ckpt.testing.backends import BackendContract


class TestToy(BackendContract):
    backend = backend_named("toyframe")
    dtypes = ("float32",)

    def tensor(self, array):
        return toyframe.Tensor(array.ravel().tolist(), array.shape)

    def array(self, tensor):
        return np.array(tensor.values, np.float32).reshape(tensor.shape)
