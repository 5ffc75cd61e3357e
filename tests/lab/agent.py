# SPDX-License-Identifier: Apache-2.0
"""Runs commands in a node for the lab, and brings back what they write. It is the node's first
process: it also reaps what others leave. lab.py has the other end of the port.

Both ways go frames of a kind, the command's number, a length and as many bytes. To the node:
  X  run: folder and arguments, each ended by a zero byte
  I  input, nothing: its end
  K  a signal's number, as text, for the command and all of its process group
From the node:
  R  ready
  P  the command's process id, as text
  O  output   E  error output
  S  the end: exit status as a shell gives it, as text"""
import os
import select
import signal
import struct

HEAD = struct.Struct("<cII")
CHUNK = 1 << 16
SIGNALS = (signal.SIGCHLD, signal.SIGPIPE)  # those that this process treats differently


class Port:
    def __init__(self):
        (name,) = os.listdir("/sys/class/virtio-ports")
        self.descriptor = os.open(f"/dev/{name}", os.O_RDWR)
        self._read = b""

    def send(self, kind, number, content=b""):
        rest = HEAD.pack(kind, number, len(content)) + content
        while rest:
            rest = rest[os.write(self.descriptor, rest):]

    def frames(self):
        self._read += os.read(self.descriptor, CHUNK)
        while len(self._read) >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._read)
            if len(self._read) < HEAD.size + length:
                return
            content = self._read[HEAD.size:HEAD.size + length]
            self._read = self._read[HEAD.size + length:]
            yield kind, number, content


class Command:
    def __init__(self, number, folder, arguments):
        self.number = number
        self.input, self.output, self.error = os.pipe(), os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(folder, arguments)
        for descriptor in (self.input[0], self.output[1], self.error[1]):
            os.close(descriptor)
        self.input, self.output, self.error = self.input[1], self.output[0], self.error[0]
        for descriptor in (self.input, self.output, self.error):
            os.set_blocking(descriptor, False)
        self.pending, self.input_ends = b"", False

    def _become(self, folder, arguments):
        try:
            os.setsid()
            for descriptor, end in enumerate((self.input[0], self.output[1], self.error[1])):
                os.dup2(end, descriptor)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.chdir(folder)
            os.execvp(arguments[0], arguments)
        except OSError as error:
            os.write(2, f"{arguments[0]}: {error}\n".encode())
        os._exit(127)

    def write_input(self):
        """As much as the command takes now."""
        try:
            if self.pending:
                self.pending = self.pending[os.write(self.input, self.pending):]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.pending, self.input_ends = b"", True
        if self.input_ends and not self.pending:
            os.close(self.input)
            self.input = None

    def signal(self, number):
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            pass  # it has just ended


class Agent:
    def __init__(self):
        self.port = Port()
        self.commands = {}
        self.poll = select.poll()
        self.handlers = {}
        self.wake, waker = os.pipe()
        for descriptor in (self.wake, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self._watch(self.wake, select.POLLIN, self._reap)
        self._watch(self.port.descriptor, select.POLLIN, self._obey)

    def _watch(self, descriptor, events, handler):
        self.poll.register(descriptor, events)
        self.handlers[descriptor] = handler

    def _forget(self, descriptor):
        if self.handlers.pop(descriptor, None):
            self.poll.unregister(descriptor)

    def run(self):
        self.port.send(b"R", 0)
        while True:
            for descriptor, _ in self.poll.poll():
                if descriptor in self.handlers:
                    self.handlers[descriptor]()

    def _obey(self):
        for kind, number, content in self.port.frames():
            if kind == b"X":
                self._start(number, content)
                continue
            command = self.commands.get(number)
            if command and kind == b"I":
                self._take_input(command, content)
            elif command and kind == b"K":
                command.signal(int(content))

    def _start(self, number, content):
        folder, *arguments = content.split(b"\0")[:-1]
        command = self.commands[number] = Command(number, folder, arguments)
        self.port.send(b"P", number, b"%d" % command.pid)
        for kind, descriptor in ((b"O", command.output), (b"E", command.error)):
            self._watch(
                descriptor, select.POLLIN,
                lambda kind=kind, descriptor=descriptor: self._pass_on(kind, number, descriptor),
            )

    def _pass_on(self, kind, number, descriptor):
        """Whether there may be more."""
        try:
            content = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        if content:
            self.port.send(kind, number, content)
        else:
            self._forget(descriptor)
        return bool(content)

    def _take_input(self, command, content):
        if command.input is None or command.input_ends:
            return
        command.pending += content
        command.input_ends = not content
        self._write_input(command)

    def _write_input(self, command):
        descriptor = command.input
        command.write_input()
        self._forget(descriptor)
        if command.input is not None and command.pending:
            self._watch(descriptor, select.POLLOUT, lambda: self._write_input(command))

    def _reap(self):
        os.read(self.wake, CHUNK)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for command in list(self.commands.values()):
                if command.pid == pid:
                    self._end(command, status)

    def _end(self, command, status):
        """With a command ends all that it started and left in its process group."""
        command.signal(signal.SIGKILL)
        for kind, descriptor in ((b"O", command.output), (b"E", command.error)):
            while self._pass_on(kind, command.number, descriptor):
                pass
        for descriptor in (command.input, command.output, command.error):
            if descriptor is not None:
                self._forget(descriptor)
                os.close(descriptor)
        del self.commands[command.number]
        code = os.waitstatus_to_exitcode(status)
        self.port.send(b"S", command.number, b"%d" % (code if code >= 0 else 128 - code))


Agent().run()
