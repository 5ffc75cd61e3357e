# SPDX-License-Identifier: Apache-2.0
"""Programs under test and clients of their control sockets, for the tests of the control socket.

A test program gets the source root, the build folder and test-control-host."""
import atexit
import base64
import contextlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import tap

HOST = sys.argv[3]
ANSWER_S = 60  # a host that takes longer hangs
NOBODY = 65534
TRANSPORTS = "transports=shm,tcp"

# A sanitizer keeps what is freed for a while, and its shadow.
SANITIZED = any(
    option["name"] == "b_sanitize" and option["value"] != "none"
    for option in json.loads((tap.BUILD / "meson-info" / "intro-buildoptions.json").read_text())
)

_living = set()
_folder = None


def folder():
    """A folder of this test program's own, with room in a socket's path."""
    global _folder
    if not _folder:
        _folder = pathlib.Path(tempfile.mkdtemp(prefix="kvx-control-"))
        atexit.register(shutil.rmtree, _folder, True)
    return _folder


def fresh(name):
    """A path in that folder that nothing has."""
    return pathlib.Path(tempfile.mkdtemp(dir=folder())) / name


class Refused(AssertionError):
    """The host did not open: error is its code, text its explanation."""

    def __init__(self, told):
        super().__init__(told)
        self.error, self.text = told["error"], told["text"]


class Host:
    """A running test-control-host."""

    def __init__(self, *arguments, **options):
        self.process = subprocess.Popen(
            [HOST, TRANSPORTS, *map(str, arguments)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, **options,
        )  # fmt: skip
        _living.add(self)
        self.told = self.read()
        if "error" in self.told:
            self.end()
            raise Refused(self.told)
        self.name, self.address = self.told["name"], self.told["address"]
        self.pools, self.regions = self.told["pools"], self.told["regions"]
        self.control = dict(
            part.split(":", 1) for part in self.told["control"].split(",") if part
        )
        self.path = self.control.get("unix")

    @property
    def pid(self):
        return self.process.pid

    def read(self):
        line = self.process.stdout.readline()
        assert line, f"the host has ended with status {self.process.wait()}"
        return json.loads(line)

    def do(self, *words):
        """A command of its stdin; what it answers."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        """Ends as a program does that has no more to do; its exit status."""
        _living.discard(self)
        if self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        try:
            return self.process.wait(ANSWER_S)
        finally:
            self.process.kill()
            self.process.stdout.close()

    def kill(self):
        _living.discard(self)
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind:
            self.kill()
            return
        status = self.end()
        assert status == 0, f"{self.name}: exit status {status}"

    # What a client does, each over a connection of its own.

    def client(self):
        return Client(self.path)

    def ask(self, method, path, body=None, **options):
        with self.client() as client:
            return client.ask(method, path, body, **options)

    def get(self, path):
        return self.ask("GET", path).expect(200)

    def post(self, path, body, status=201):
        return self.ask("POST", path, body).expect(status)

    def delete(self, path, status=200):
        return self.ask("DELETE", path).expect(status)


@atexit.register
def _end_hosts():
    for host in list(_living):
        host.kill()


@contextlib.contextmanager
def hosts(*names, options=()):
    """Hosts of these names with a unix socket each, pools filled."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                Host(f"name={name}", f"control={fresh('s.sock')}", "--fill", *options)
            )
            for name in names
        ]


def expect_refused(code, word, *arguments):
    """A host with these does not open, for a reason that holds the word."""
    try:
        host = Host(*arguments)
    except Refused as refused:
        assert refused.error == code and word in refused.text, refused
        return
    host.kill()
    raise AssertionError(f"{arguments}: opened")


def as_nobody(function):
    """What the function returns, as JSON, in a process of another user; the name of its error."""
    if os.geteuid() != 0:
        raise tap.Skip("another user's process can be started by root alone")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = function()
        except Exception as error:
            told = type(error).__name__
        os.write(writing, json.dumps(told).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return json.loads(told)


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.data = response.read()

    @property
    def json(self):
        return json.loads(self.data) if self.data else None

    def expect(self, status):
        """Its JSON, if it has that status."""
        assert self.status == status, f"{self.status} in place of {status}: {self.data[:2000]}"
        return self.json

    def expect_problem(self, status, code=None, *words):
        """Its problem details, which have that status and code, and hold these words."""
        problem = self.expect(status)
        kind = self.headers["Content-Type"]
        assert kind == "application/problem+json", kind
        assert problem["type"] == "about:blank" and problem["title"], problem
        assert problem["status"] == status, problem
        assert code is None or problem["code"] == code, problem
        assert problem["broken"] in ("call", "transfer", "peer", "engine"), problem
        for word in words:
            assert str(word) in problem["detail"], problem
        return problem


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout=ANSWER_S):
        super().__init__("kvxfer", timeout=timeout)
        self.path = str(path)

    def connect(self):
        self.sock = connect(self.path, self.timeout)


def connect(path, timeout=ANSWER_S):
    """A bare connection."""
    made = socket.socket(socket.AF_UNIX)
    made.connect(str(path))  # one with a time-out would not wait for a queue that is full
    made.settimeout(timeout)
    return made


class Client:
    """One connection that is kept."""

    def __init__(self, path, connection=None, headers=None):
        self.connection = connection or UnixConnection(path)
        self.headers = headers or {}

    def send(self, method, path, body=None, headers=None, raw=None):
        """body: an object, sent as JSON; raw: bytes in place of it."""
        sent = dict(self.headers)
        if raw is None and body is not None:
            raw = json.dumps(body).encode()
        if raw is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        self.connection.request(method, path, raw, sent)

    def answer(self):
        return Answer(self.connection.getresponse())

    def ask(self, method, path, body=None, **options):
        self.send(method, path, body, **options)
        return self.answer()

    def get(self, path):
        return self.ask("GET", path).expect(200)

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def until(what, limit_s=60):
    """Asks again until it is so: for what the server does when it comes to it."""
    end = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


class Events:
    """A follower of /v1/events: iterating yields (id or None, event's name, data); comments are
    counted."""

    def __init__(self, host, query="", headers=None):
        self.client = host.client() if isinstance(host, Host) else host
        self.client.send("GET", "/v1/events" + query, headers=headers)
        self.response = self.client.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        kind = self.response.headers["Content-Type"]
        assert kind == "text/event-stream", kind
        self.comments = 0
        self.deadline = None

    def __iter__(self):
        fields = {}
        while True:
            line = self.response.readline()
            if not line:
                return
            line = line.decode().rstrip("\n")
            if line.startswith(":"):
                self.comments += 1
                late = self.deadline and time.monotonic() > self.deadline
                assert not late, "nothing came but comments"
            elif line:
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
            elif fields:
                number = fields.get("id")
                yield number and int(number), fields.get("event"), json.loads(fields["data"])
                fields = {}

    def until(self, name):
        """The events up to and with the first of that name."""
        found = []
        self.deadline = time.monotonic() + ANSWER_S
        for event in self:
            found.append(event)
            if event[1] == name:
                self.deadline = None
                return found
        raise AssertionError(f"no {name} among {found}")

    def close(self):
        self.client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def ticket(text):
    """The bytes of a ticket."""
    return base64.b64decode(text, validate=True)
