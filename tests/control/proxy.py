# SPDX-License-Identifier: Apache-2.0
"""A network that fails when a test says so: a TCP proxy between two engines, whose connections can
be held back, cut and spoken into. The connecting engine makes its control connection first, then
its data connections in the order of its rails."""
import socket
import threading

import control

PIECE_BYTES = 65536


def place_of(host):
    """The transport of an engine that has one, and the port that it listens on."""
    name, _, place = host.address.partition(":")
    return name, int(place.rpartition(":")[2])


class Connection:
    """One connection through the proxy: near is who made it, far is who took it."""

    def __init__(self, near, far):
        self.near, self.far = near, far
        self.changed = threading.Condition()
        self.room = None  # bytes that may still go to the far side; None: any number
        self.waiting = 0  # bytes that have come for the far side, and may not go on

    def hold(self, room=0):
        """Only so many more bytes reach the far side, until it is released."""
        with self.changed:
            self.room = room

    def release(self):
        with self.changed:
            self.room = None
            self.changed.notify_all()

    def until_held(self):
        """Waits until something has come that may not go on."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting, control.ANSWER_S), "nothing came"

    def cut(self):
        for end in (self.near, self.far):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself
        self.release()

    def forward(self, data):
        """As much of it as may go on now, then the rest when it may."""
        while data:
            with self.changed:
                self.waiting = len(data) if self.room == 0 else 0
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.room != 0)
                count = len(data) if self.room is None else min(self.room, len(data))
                if self.room is not None:
                    self.room -= count
            self.far.sendall(data[:count])
            data = data[count:]
        self.waiting = 0

    def run(self, source, send):
        try:
            while piece := source.recv(PIECE_BYTES):
                send(piece)
        except OSError:
            pass  # cut, or an engine has ended
        self.cut()


class Proxy:
    """Listens on loopback for what is meant for a host."""

    def __init__(self, host):
        name, self.port = place_of(host)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"{name}:127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = []
        self.opened = threading.Event()  # connections are made only while it is set
        self.opened.set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.opened.wait()
            try:
                far = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                near.close()
                continue
            made = Connection(near, far)
            self.connections.append(made)
            for source, send in ((near, made.forward), (far, near.sendall)):
                threading.Thread(target=made.run, args=(source, send), daemon=True).start()

    @property
    def control(self):
        return self.connections[0]

    def rail(self, index):
        """The data connection that a rail began with."""
        return self.connections[1 + index]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.set()
        self.listener.close()
        for connection in self.connections:
            connection.cut()
