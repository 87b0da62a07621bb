"""A framework small enough to read: a tensor is a list of floats and a shape."""

__version__ = "4.2"


class Tensor:
    def __init__(self, values, shape):
        self.values, self.shape = list(values), tuple(shape)
