# SPDX-License-Identifier: Apache-2.0
"""What the model computes with. The operations that numpy and torch have under one name are taken
from `xp`; the rest stands here, once for each."""
import ctypes
import math
import sys


class Missing(Exception):
    """Something is not installed or not there; the text says what to do."""


def memory_at(address, shape):
    """So many float32 of this process, as a buffer."""
    return (ctypes.c_float * math.prod(shape)).from_address(address)


class Numpy:
    name = "numpy"
    on_device = False

    def __init__(self, device, seed):
        if device != "cpu":
            raise Missing(f"numpy computes on the cpu, not on {device}: try --backend torch")
        try:
            import numpy
        except ImportError:
            raise Missing(
                f"{sys.executable} has no numpy: install Debian's package python3-numpy and use"
                " /usr/bin/python3, or install numpy with pip"
            ) from None
        self.xp = numpy
        self.random = numpy.random.default_rng(seed)

    def normal(self, shape, deviation):
        drawn = self.random.standard_normal(shape, dtype=self.xp.float32)
        return drawn * self.xp.float32(deviation)

    def floats(self, values):
        return self.xp.array(values, dtype=self.xp.float32)

    def integers(self, values):
        return self.xp.array(values, dtype=self.xp.int64)

    def zeros(self, shape):
        return self.xp.zeros(shape, dtype=self.xp.float32)

    def over(self, address, shape):
        """An array over memory of this process."""
        return self.xp.frombuffer(memory_at(address, shape), dtype=self.xp.float32).reshape(shape)

    @staticmethod
    def address(array):
        return array.ctypes.data

    def after(self, call):
        """Calls once all that was computed so far is in memory, which it is."""
        call()

    def finish(self):
        """Until all that was computed is in memory and all calls are made."""

    def record(self, step):
        """A function that does what step does. What step does meanwhile must not matter."""
        return step


class Torch:
    name = "torch"

    def __init__(self, device, seed):
        try:
            import torch
        except ImportError:
            raise Missing(
                f"{sys.executable} has no torch: install PyTorch, or take --backend numpy"
            ) from None
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise Missing(
                f"torch {torch.__version__} finds no GPU for --device {device}: look at nvidia-smi,"
                " or take --device cpu"
            )
        self.xp, self.device = torch, device
        self.on_device = device.startswith("cuda")
        # The weights are drawn on the CPU, so that they are the same on every device.
        self.random = torch.Generator().manual_seed(seed)
        self.pending = []
        if self.on_device:
            torch.cuda.set_device(torch.device(device))

    def normal(self, shape, deviation):
        drawn = self.xp.randn(shape, generator=self.random, dtype=self.xp.float32)
        return (drawn * deviation).to(self.device)

    def floats(self, values):
        return self.xp.tensor(values, dtype=self.xp.float32, device=self.device)

    def integers(self, values):
        return self.xp.tensor(values, dtype=self.xp.int64, device=self.device)

    def zeros(self, shape):
        return self.xp.zeros(shape, dtype=self.xp.float32, device=self.device)

    def over(self, address, shape):
        """A tensor over memory of this process, which a GPU could not use."""
        return self.xp.frombuffer(memory_at(address, shape), dtype=self.xp.float32).reshape(shape)

    @staticmethod
    def address(tensor):
        return tensor.data_ptr()

    def after(self, call):
        """Calls once all that was given to the GPU so far is computed; until then it gets more. An
        event tells when that is."""
        if not self.on_device:
            call()
            return
        event = self.xp.cuda.Event()
        event.record()
        self.pending.append((event, call))
        while self.pending and self.pending[0][0].query():
            self.pending.pop(0)[1]()

    def finish(self):
        """Until all that was computed is in memory and all calls are made."""
        while self.pending:
            event, call = self.pending.pop(0)
            event.synchronize()
            call()
        if self.on_device:
            self.xp.cuda.synchronize()

    def record(self, step):
        """On a GPU step becomes a CUDA graph, which costs one launch each time it is replayed."""
        if not self.on_device:
            return step
        cuda = self.xp.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):  # what is made at the first use does not belong into the graph
            step()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        # The engine's thread may call the driver meanwhile, which is no business of this graph.
        with cuda.graph(graph, capture_error_mode="thread_local"):
            step()
        cuda.synchronize()
        return graph.replay


BACKENDS = {backend.name: backend for backend in (Numpy, Torch)}
