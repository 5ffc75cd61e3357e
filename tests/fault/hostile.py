# SPDX-License-Identifier: Apache-2.0
"""Peers that are not kvxfer, or pretend to be: each attack makes some connections and ends them.

They speak as much of the wire format (docs/protocol.md) as it takes to get past the door."""
import collections
import contextlib
import fcntl
import os
import random
import socket
import struct
import threading

HELD_MAX = 300  # connections that say nothing, at once
TCP_MAGIC, CONTROL, DATA = b"kvxtcp\r\n", 1, 2
FRAME_MAGIC = 0x6D617266
HELLO, OPEN, CANCEL = 1, 2, 7
RING_BYTES = 2 * 128 + 16 * (1024 + 512)


def _preamble(role, index, count, token):
    return TCP_MAGIC + struct.pack("<HBBHHQ", 1, role, 0, index, count, token)


def _message(body):
    return struct.pack("<H", len(body)) + body


def _hello():
    name = b"neighbour"
    body = struct.pack("<BIQIH", HELLO, 1, random.getrandbits(63) | 1, 1000, len(name))
    return _message(body + name)


def _frame(length):
    """For a grant that is somebody else's."""
    slot, generation = random.randrange(4), random.randrange(1, 200)
    imm = slot << 20 | (generation & 31) << 15 | random.randrange(16) << 6
    return struct.pack(
        "<IIIIQI", FRAME_MAGIC, imm, generation, length, 0, FRAME_MAGIC ^ length
    )


class Neighbour(threading.Thread):
    """Makes that many connections to both doors of an engine."""

    def __init__(self, address, connections):
        super().__init__()
        parts = dict(part.split(":", 1) for part in address.split(","))
        self.tcp = ("127.0.0.1", int(parts["tcp"].rpartition(":")[2]))
        self.unix = "\0" + parts["shm"].partition("@")[0]
        self.connections = connections
        self.made = 0
        self.failure = None
        self.held = collections.deque()

    def run(self):
        attacks = (self.silence, self.garbage, self.half_a_greeting, self.reset, self.mid_frame,
                   self.bad_messages, self.unix_garbage, self.unix_hello, self.unix_rings)
        try:
            while self.made < self.connections:
                # An engine that has enough of it may close first.
                with contextlib.suppress(ConnectionError, BlockingIOError, TimeoutError):
                    random.choice(attacks)()
        except OSError as error:
            self.failure = error
        for connection in self.held:
            connection.close()

    def dial(self):
        self.made += 1
        return socket.create_connection(self.tcp, timeout=5)

    def dial_unix(self):
        self.made += 1
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            connection.connect(self.unix)
        except OSError:
            connection.close()
            raise
        return connection

    def silence(self):
        self.held.append(self.dial() if random.random() < 0.5 else self.dial_unix())
        if len(self.held) > HELD_MAX:
            self.held.popleft().close()

    def garbage(self):
        with self.dial() as connection:
            connection.sendall(os.urandom(random.randrange(1, 2000)))

    def half_a_greeting(self):
        greeting = _preamble(CONTROL, 0, 2, random.getrandbits(64))
        with self.dial() as connection:
            connection.sendall(greeting[: random.randrange(len(greeting))])

    def reset(self):
        with self.dial() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(_preamble(DATA, 0, 1, random.getrandbits(64)))

    @contextlib.contextmanager
    def link(self):
        """Past the transport's door: a control connection and one data connection."""
        token = random.getrandbits(64)
        with self.dial() as control, self.dial() as data:
            control.sendall(_preamble(CONTROL, 0, 1, token))
            data.sendall(_preamble(DATA, 0, 1, token))
            control.recv(4096)
            yield control, data

    def mid_frame(self):
        with self.link() as (control, data):
            control.sendall(_hello())
            length = random.randrange(1, 1 << 20)
            data.sendall(_frame(length) + os.urandom(random.randrange(length)))

    def bad_messages(self):
        with self.link() as (control, _):
            if random.random() < 0.7:
                control.sendall(_hello())
            for _ in range(random.randrange(20)):
                slot, generation = random.randrange(4), random.randrange(1, 200)
                cancel = struct.pack("<BIIH", CANCEL, slot, generation, 0)
                other = os.urandom(random.randrange(1, 200))
                opening = struct.pack("<BQII", OPEN, 1, slot, generation) + other
                control.sendall(_message(random.choice((cancel, cancel, opening, other))))

    def unix_garbage(self):
        with self.dial_unix() as connection:
            connection.send(os.urandom(random.randrange(1, 320)))

    def unix_hello(self, file=-1):
        with self.dial_unix() as connection:
            self.greet(connection, file)

    def unix_rings(self):
        """Rings that hold garbage, of the right size and sealed or not."""
        file = os.memfd_create("rings", os.MFD_ALLOW_SEALING)
        try:
            os.write(file, os.urandom(RING_BYTES - random.choice((0, 0, 0, 16))))
            if random.random() < 0.7:
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
            self.unix_hello(file)
        finally:
            os.close(file)

    @staticmethod
    def greet(connection, file):
        hello = struct.pack("<B8sIIQQ", 1, b"kvxf-shm", 1, RING_BYTES, random.getrandbits(47), 7)
        cut = random.choice((len(hello),) * 3 + (9,))
        socket.send_fds(connection, [hello[:cut]], [file] if file >= 0 else [])
        for _ in range(random.randrange(4)):
            connection.send(os.urandom(random.randrange(1, 64)))
