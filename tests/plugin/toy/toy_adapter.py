"""A third party's adapter: what a plugin has to write, and no more."""

from importlib import import_module

import numpy as np

from multiframe_ckpt.contracts import LazyTensor, TensorBackend


class ToyBackend(TensorBackend):
    name = "toyframe"

    def __init__(self):
        self._toyframe = import_module("toyframe")

    def is_tensor(self, obj):
        return isinstance(obj, self._toyframe.Tensor)

    def to_lazy(self, tensor, key):
        array = np.array(tensor.values, np.float32).reshape(tensor.shape)
        return LazyTensor.from_array(array, name=key, alias=("toyframe", id(tensor)))

    def from_lazy(self, tensor, key, *, device):
        return self._toyframe.Tensor(tensor.numpy().ravel().tolist(), tensor.shape)

    def copy_into(self, target, tensor):
        target.values[:] = tensor.numpy().ravel().tolist()
