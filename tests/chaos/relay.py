# SPDX-License-Identifier: Apache-2.0
"""A process between the sender and the tcp port of a receiver, and what it does to connections.

    relay.py HOST SEED

It listens at HOST on the ports it is told of and carries bytes to and from 127.0.0.1 at the same
port. A line on stdin is a command, answered by how many connections it struck:

    front PORT              begin
    drop PORT               end, with all connections
    close PORT WHICH        close both ends: the peers see the end of the stream
    reset PORT WHICH        the same, but the peers see a reset
    half PORT WHICH         end one direction of each; the other goes on
    freeze PORT WHICH       carry nothing any more, and tell nobody: buffers fill up
    trickle PORT WHICH      carry a few bytes at a time
    flow PORT WHICH         carry again as usual

WHICH is control, data (one data connection, at random) or all, which also holds for connections
that come later where a command has a lasting effect."""
import contextlib
import os
import random
import select
import socket
import struct
import sys

BUFFER_BYTES = 1 << 16
TRICKLE_BYTES = 7
PREAMBLE_ROLE = 10  # offset of the byte that tells what a connection is for (docs/protocol.md)
CONTROL, DATA = 1, 2
RESET = struct.pack("ii", 1, 0)


class Way:
    """One direction of a connection."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.held = b""
        self.open = True

    def read(self, limit):
        try:
            got = self.source.recv(limit)
        except BlockingIOError:
            return
        self.held += got
        if not got:
            self.end()

    def write(self, limit):
        with contextlib.suppress(BlockingIOError):
            self.held = self.held[self.target.send(self.held[:limit]) :]

    def end(self):
        """What is held is lost, if anything is."""
        self.open = False
        with contextlib.suppress(OSError):
            self.target.shutdown(socket.SHUT_WR)


class Connection:
    def __init__(self, front, near):
        self.front, self.near = front, near
        self.far = socket.create_connection(("127.0.0.1", front.port), timeout=5)
        for end in (self.near, self.far):
            end.setblocking(False)
        self.there, self.back = Way(self.near, self.far), Way(self.far, self.near)
        self.role = None
        self.limit = front.limit

    def ways(self):
        return (self.there, self.back)

    def wants(self):
        """Whom to wait for: sockets to read from, and to write to."""
        if not self.limit:
            return [], []
        readable = [way.source for way in self.ways() if way.open and not way.held]
        return readable, [way.target for way in self.ways() if way.held]

    def carry(self, readable, writable):
        for way in self.ways():
            if way.source in readable and way.open and not way.held:
                way.read(self.limit)
                if way is self.there and self.role is None and len(way.held) > PREAMBLE_ROLE:
                    self.role = way.held[PREAMBLE_ROLE]
            if way.target in writable and way.held:
                way.write(self.limit)
        return self.there.open or self.back.open

    def close(self, reset=False):
        for end in (self.near, self.far):
            if reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.close()


class Front:
    def __init__(self, host, port):
        self.port = port
        self.limit = BUFFER_BYTES
        self.listener = socket.create_server((host, port), backlog=64)
        self.listener.setblocking(False)
        self.connections = []

    def accept(self):
        with contextlib.suppress(OSError):
            near = self.listener.accept()[0]
            try:
                self.connections.append(Connection(self, near))
            except OSError:  # nobody is there: so it is for who came
                near.close()

    def pick(self, which):
        if which == "all":
            return list(self.connections)
        role = CONTROL if which == "control" else DATA
        those = [one for one in self.connections if one.role == role]
        return random.sample(those, min(1, len(those)))

    def remove(self, connection, reset=False):
        connection.close(reset)
        self.connections.remove(connection)


class Relay:
    def __init__(self, host):
        self.host, self.fronts = host, {}

    def command(self, verb, port, which="all"):
        port = int(port)
        if verb == "front":
            self.fronts[port] = Front(self.host, port)
            return 0
        front = self.fronts[port]
        struck = front.pick(which)
        limits = {"freeze": 0, "trickle": TRICKLE_BYTES, "flow": BUFFER_BYTES}
        if verb in limits:
            if which == "all":
                front.limit = limits[verb]
            for connection in struck:
                connection.limit = limits[verb]
        elif verb == "half":
            for connection in struck:
                random.choice(connection.ways()).end()
        else:
            for connection in struck:
                front.remove(connection, verb == "reset")
        if verb == "drop":
            front.listener.close()
            del self.fronts[port]
        return len(struck)

    def step(self):
        connections = [(front, one) for front in self.fronts.values() for one in front.connections]
        readers = [sys.stdin.fileno()] + [front.listener for front in self.fronts.values()]
        writers = []
        for _, connection in connections:
            readable, writable = connection.wants()
            readers += readable
            writers += writable
        readable, writable, _ = select.select(readers, writers, [])
        readable, writable = set(readable), set(writable)
        for front, connection in connections:
            try:
                alive = connection.carry(readable, writable)
            except OSError:
                alive = False
            if not alive:
                front.remove(connection)
        for front in list(self.fronts.values()):
            if front.listener in readable:
                front.accept()
        return sys.stdin.fileno() in readable

    def run(self):
        pending = b""
        while True:
            if not self.step():
                continue
            got = os.read(sys.stdin.fileno(), 4096)
            if not got:
                return
            *lines, pending = (pending + got).split(b"\n")
            for line in lines:
                print(self.command(*line.decode().split()), flush=True)


if __name__ == "__main__":
    random.seed(int(sys.argv[2]))
    Relay(sys.argv[1]).run()
