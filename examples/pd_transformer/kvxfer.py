# SPDX-License-Identifier: Apache-2.0
"""kvxfer from Python, by ctypes: as much of <kvxfer/kvxfer.h> as moving a KV cache takes.

The header is the reference. What fails raises Error, with the code's name and the library's own
text. Objects are closed by close() or with: the last one opened first."""
import ctypes
from ctypes import c_char, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

ALL_LAYERS = 0xFFFFFFFF
TAIL = 511
LAYOUT_WHOLE, LAYOUT_HND, LAYOUT_NHD = range(3)


class Extra(ctypes.Structure):
    _fields_ = [("block_bytes", c_uint32), ("token_bytes", c_uint32)]


class Geometry(ctypes.Structure):
    _fields_ = [
        ("layers", c_uint32),
        ("planes", c_uint32),
        ("blocks", c_uint32),
        ("block_bytes", c_uint32),
        ("block_tokens", c_uint32),
        ("dtype", c_char * 12),
        ("model", c_uint64),
        ("layer_first", c_uint32),
        ("layout", c_int),
        ("heads", c_uint32),
        ("head_first", c_uint32),
        ("heads_total", c_uint32),
        ("head_bytes", c_uint32),
        ("head_stride", c_uint32),
        ("token_stride", c_uint32),
        ("plane_stride", c_uint32),
        ("extra_planes", c_uint32),
        ("extra", Extra * 4),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [("region", c_void_p), ("offset", c_uint64), ("block_stride", c_uint64)]


class Tail(ctypes.Structure):
    _fields_ = [("region", c_void_p), ("offset", c_uint64), ("bytes", c_uint32)]


class GrantOptions(ctypes.Structure):
    _fields_ = [
        ("tokens", c_uint32),
        ("held_blocks", c_uint32),
        ("senders", c_uint32),
        ("tail", Tail),
    ]


class StreamOptions(ctypes.Structure):
    _fields_ = [("chunk_tokens", c_uint32), ("tail", Tail)]


class Stats(ctypes.Structure):
    _fields_ = [
        (name, c_uint64)
        for name in (
            "bytes_sent", "bytes_received", "slices_sent", "units_sent", "units_resent",
            "units_received", "units_duplicate", "units_late", "layers_whole", "grants_opened",
            "grants_completed", "grants_failed", "streams_opened", "streams_completed",
            "streams_failed", "peers_lost", "rails_lost", "protocol_errors", "progress_ns",
        )
    ]  # fmt: skip


# Of each structure its name in the header.
STRUCTURES = {
    "kvx_extra": Extra,
    "kvx_geometry": Geometry,
    "kvx_tensor": Tensor,
    "kvx_tail": Tail,
    "kvx_grant_options": GrantOptions,
    "kvx_stream_options": StreamOptions,
    "kvx_stats": Stats,
}

# What each function returns and takes; every pointer but a text is a c_void_p. Of those that
# return a c_int a negative one is an error.
FUNCTIONS = {
    "kvx_error_name": (c_char_p, c_int),
    "kvx_error_text": (c_char_p,),
    "kvx_version": (c_char_p,),
    "kvx_options_new": (c_int, c_void_p),
    "kvx_options_set": (c_int, c_void_p, c_char_p, c_char_p),
    "kvx_options_free": (None, c_void_p),
    "kvx_engine_open": (c_int, c_void_p, c_void_p),
    "kvx_engine_close": (None, c_void_p),
    "kvx_engine_stats": (None, c_void_p, c_void_p),
    "kvx_region_register": (c_int, c_void_p, c_void_p, c_size_t, c_void_p),
    "kvx_region_alloc": (c_int, c_void_p, c_size_t, c_void_p),
    "kvx_region_address": (c_void_p, c_void_p),
    "kvx_region_bytes": (c_size_t, c_void_p),
    "kvx_region_close": (c_int, c_void_p),
    "kvx_pool_open": (c_int, c_void_p, c_void_p, c_void_p, c_void_p),
    "kvx_pool_alloc": (c_int, c_void_p, c_void_p, c_void_p),
    "kvx_pool_block": (c_void_p, c_void_p, c_uint32, c_uint32, c_uint32),
    "kvx_pool_close": (c_int, c_void_p),
    "kvx_grant_open": (c_int, c_void_p, c_void_p, c_uint32, c_void_p, c_uint32, c_void_p),
    "kvx_grant_ticket": (c_void_p, c_void_p, c_void_p),
    "kvx_grant_wait": (c_int, c_void_p, c_uint32, c_uint32),
    "kvx_grant_poll": (c_int, c_void_p, c_uint32),
    "kvx_grant_revoke": (c_int, c_void_p, c_uint32),
    "kvx_grant_close": (None, c_void_p),
    "kvx_stream_open": (
        c_int, c_void_p, c_void_p, c_uint32, c_void_p, c_void_p, c_size_t, c_void_p,
    ),  # fmt: skip
    "kvx_stream_layers_ready": (c_int, c_void_p, c_uint32, c_uint32),
    "kvx_stream_tail_ready": (c_int, c_void_p),
    "kvx_stream_wait": (c_int, c_void_p, c_uint32, c_uint32),
    "kvx_stream_poll": (c_int, c_void_p, c_uint32),
    "kvx_stream_explain": (c_size_t, c_void_p, c_char_p, c_size_t),
    "kvx_stream_close": (None, c_void_p),
}


class Error(Exception):
    """A call that failed: the name of its code, and the library's explanation."""

    def __init__(self, code, name, text):
        super().__init__(f"{name}: {text}")
        self.code, self.name, self.text = code, name, text


class Library:
    """The functions of libkvxfer as attributes, without their prefix. path: of the shared library;
    None: where the system's loader finds it."""

    def __init__(self, path=None):
        loaded = ctypes.CDLL(path or "libkvxfer.so.0")
        for name, (returned, *taken) in FUNCTIONS.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = returned, taken
            if returned is c_int:
                function.errcheck = self._check
            setattr(self, name.removeprefix("kvx_"), function)

    def _check(self, result, _function, _arguments):
        if result < 0:  # the explanation is this thread's
            name, text = self.error_name(result), self.error_text()
            raise Error(result, name.decode(), text.decode(errors="replace"))
        return result


class _Object:
    """A handle of the library that is closed once. Its parent must outlive it and is kept."""

    def __init__(self, library, close, parent=None):
        self.library, self.parent, self.handle = library, parent, c_void_p()
        self._close = close

    def close(self):
        if self.handle:
            self._close(self.handle)
            self.handle = c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Engine(_Object):
    """Options are given by name: Engine(transports="tcp")."""

    def __init__(self, library=None, **options):
        library = library or Library()
        super().__init__(library, library.engine_close)
        made = c_void_p()
        library.options_new(ctypes.byref(made))
        try:
            for name, value in options.items():
                library.options_set(made, name.encode(), str(value).encode())
            library.engine_open(made, ctypes.byref(self.handle))
        finally:
            library.options_free(made)

    def stats(self):
        stats = Stats()
        self.library.engine_stats(self.handle, ctypes.byref(stats))
        return stats


class Region(_Object):
    """bytes at address, which stay the caller's; or, without one, memory of the library's."""

    def __init__(self, engine, size, address=None):
        library = engine.library
        super().__init__(library, library.region_close, engine)
        if address is None:
            library.region_alloc(engine.handle, size, ctypes.byref(self.handle))
        else:
            library.region_register(engine.handle, address, size, ctypes.byref(self.handle))

    @property
    def address(self):
        return self.library.region_address(self.handle)


class Pool(_Object):
    """A pool over a region, packed as [layer][plane][block]; without one it has memory of its own,
    in the same order."""

    def __init__(self, engine, geometry, region=None):
        library = engine.library
        super().__init__(library, library.pool_close, region or engine)
        made, shape = ctypes.byref(self.handle), ctypes.byref(geometry)
        if region is None:
            library.pool_alloc(engine.handle, shape, made)
            return
        planes = geometry.layers * geometry.planes
        plane_bytes = library.region_bytes(region.handle) // planes
        tensors = (Tensor * planes)(
            *(Tensor(region.handle, index * plane_bytes, 0) for index in range(planes))
        )
        library.pool_open(engine.handle, shape, tensors, made)

    @property
    def address(self):
        return self.library.pool_block(self.handle, 0, 0, 0)


def _table(blocks):
    return (c_uint32 * len(blocks))(*blocks), len(blocks)


def _tail(region):
    """A tail that is the whole of a region; None: no tail."""
    return Tail(region.handle, 0, region.library.region_bytes(region.handle)) if region else Tail()


class Grant(_Object):
    """Blocks of a pool for tokens of a request; its tail fills a region."""

    def __init__(self, pool, blocks, lease_ms, tokens=0, tail=None):
        library = pool.library
        super().__init__(library, library.grant_close, pool)
        options = GrantOptions(tokens=tokens, tail=_tail(tail))
        library.grant_open(
            pool.handle, *_table(blocks), ctypes.byref(options), lease_ms, ctypes.byref(self.handle)
        )

    def ticket(self):
        size = c_size_t()
        first = self.library.grant_ticket(self.handle, ctypes.byref(size))
        return ctypes.string_at(first, size.value)

    def wait(self, layer, timeout_ms):
        self.library.grant_wait(self.handle, layer, timeout_ms)

    def poll(self, layer):
        return bool(self.library.grant_poll(self.handle, layer))

    def revoke(self, timeout_ms):
        self.library.grant_revoke(self.handle, timeout_ms)


class Stream(_Object):
    """Sends blocks of a pool into the grant of a ticket; its tail is a region."""

    def __init__(self, pool, blocks, ticket, tail=None):
        library = pool.library
        super().__init__(library, library.stream_close, pool)
        options = StreamOptions(tail=_tail(tail))
        library.stream_open(
            pool.handle, *_table(blocks), ctypes.byref(options), ticket, len(ticket),
            ctypes.byref(self.handle),
        )  # fmt: skip

    def layers_ready(self, first, count=1):
        self.library.stream_layers_ready(self.handle, first, count)

    def tail_ready(self):
        self.library.stream_tail_ready(self.handle)

    def wait(self, layer, timeout_ms):
        self.library.stream_wait(self.handle, layer, timeout_ms)

    def poll(self, layer):
        return bool(self.library.stream_poll(self.handle, layer))

    def explain(self):
        text = ctypes.create_string_buffer(4096)
        self.library.stream_explain(self.handle, text, len(text))
        return text.value.decode()
