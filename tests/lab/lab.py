# SPDX-License-Identifier: Apache-2.0
"""Two virtual machines with soft-RoCE, two rails each: real verbs where there is no RDMA device.

    with Lab() as lab:
        lab.run(0, "ibv_devinfo").expect()
        server = lab.spawn(1, "ib_write_bw -d rxe0 -x 1")
        lab.set_link(0, 1, False)

A lab takes many commands, one after another and several at once. All cables are socket pairs
between the two machines' processes: nothing listens, and nothing is left when the processes end.
Methods of one Lab may be called from any thread, those of one Command from one at a time; but the
machines end with the thread that has started them."""
import json
import os
import pathlib
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import image
from image import CannotRun

NODES = (0, 1)
RAILS = (0, 1)
NETWORKS = {"rail0": 0, "rail1": 1, "mgmt": 9}  # the byte that tells them apart in addresses
SHARE = "/lab"  # where the nodes see Lab.folder
BOOT_LIMIT_S = 120
ANSWER_LIMIT_S = 30
TIMED_OUT = 124  # what timeout(1) says

_HEAD = struct.Struct("<cII")
_CHUNK = 1 << 16


class LabError(Exception):
    """The lab itself failed: a machine ended, or does not answer."""


class Hung(LabError):
    """A machine has not come up in time, and did not say why."""


def address(node, network):
    """Of an interface: rail0, rail1 or mgmt."""
    return f"10.77.{NETWORKS[network]}.{node + 1}"


def end_on_signals():
    """Ctrl-C, SIGTERM and SIGHUP become an exception, once, so that `with` blocks end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number, _):
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in numbers:
        signal.signal(each, end)


class Result:
    """How a command ended: its exit status as a shell gives it, or TIMED_OUT, and its output."""

    def __init__(self, command, code, out, err):
        self.command, self.code, self.out, self.err = command, code, out, err

    def __repr__(self):
        return f"{self.command}: exit status {self.code}\n{self.out}{self.err}"

    def expect(self, *codes):
        if self.code not in (codes or (0,)):
            raise AssertionError(repr(self))
        return self


class Command:
    """One that runs in a node. Signals go to its whole process group, which ends with it."""

    def __init__(self, node, number, shown, echo):
        self.node, self.number, self.shown, self.echo = node, number, shown, echo
        self.changed = threading.Condition()
        self.pid = None  # in the node
        self.code = None
        self.lost = None  # why nothing more can come
        self.data = {b"O": bytearray(), b"E": bytearray()}
        self.line_at = 0

    def take(self, kind, content):
        """Called by the thread that reads from the node."""
        with self.changed:
            if kind == b"P":
                self.pid = int(content)
            elif kind == b"S":
                self.code = int(content)
            else:
                self.data[kind] += content
                if self.echo:
                    self.echo(self.node.number, kind == b"E", content)
            self.changed.notify_all()

    def lose(self, reason):
        with self.changed:
            self.lost = self.lost or reason
            self.changed.notify_all()

    def _wait_for(self, condition, limit_s):
        """Whether the condition came true; not, if the command has ended or time is up."""
        with self.changed:
            self.changed.wait_for(
                lambda: condition() or self.lost or self.code is not None, limit_s
            )
            if not condition() and self.lost:
                raise LabError(f"{self.shown}: {self.lost}")
            return condition()

    @property
    def out(self):
        with self.changed:
            return self.data[b"O"].decode(errors="replace")

    @property
    def err(self):
        with self.changed:
            return self.data[b"E"].decode(errors="replace")

    def write(self, text):
        content = text.encode() if isinstance(text, str) else text
        for at in range(0, len(content), _CHUNK):
            self.node.send(b"I", self.number, content[at:at + _CHUNK])

    def close_input(self):
        self.node.send(b"I", self.number)

    def read_line(self, limit_s=ANSWER_LIMIT_S):
        """The next line of output; an error if none comes in time."""
        output = self.data[b"O"]
        if not self._wait_for(lambda: b"\n" in output[self.line_at:], limit_s):
            raise LabError(f"{self.shown}: no line in {limit_s} s\n{self.out}{self.err}")
        with self.changed:
            end = output.index(b"\n", self.line_at) + 1
            line, self.line_at = output[self.line_at:end], end
        return line.decode(errors="replace")

    def wait_for_text(self, text, limit_s=ANSWER_LIMIT_S):
        """Until the output, of either kind, has the text."""
        wanted = text.encode()
        if not self._wait_for(lambda: any(wanted in d for d in self.data.values()), limit_s):
            raise LabError(f"{self.shown}: not said in {limit_s} s: {text}\n{self.out}{self.err}")

    def signal(self, number):
        if self.code is None:
            self.node.send(b"K", self.number, b"%d" % number)

    def kill(self):
        self.signal(signal.SIGKILL)

    def poll(self):
        """Its exit status, or None while it runs."""
        return self.code

    def wait(self, limit_s=60):
        """Its result. It is killed when the time is up."""
        code = None
        if not self._wait_for(lambda: self.code is not None, limit_s):
            code = TIMED_OUT
            self.kill()
            if not self._wait_for(lambda: self.code is not None, ANSWER_LIMIT_S):
                raise LabError(f"{self.shown}: cannot be killed in node {self.node.number}")
        return Result(self.shown, self.code if code is None else code, self.out, self.err)


class Monitor:
    """QEMU's."""

    def __init__(self, channel):
        self.channel = channel
        channel.settimeout(ANSWER_LIMIT_S)
        self.lines = channel.makefile("r")
        self.lock = threading.Lock()

    def ask(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        with self.lock:
            try:
                self.channel.sendall(json.dumps(request).encode() + b"\n")
                for line in self.lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise LabError(f"{command}: {answer['error']['desc']}")
                    if "return" in answer:  # and not an event or the greeting
                        return answer["return"]
            except OSError as error:
                raise LabError(f"{command}: {error}") from error
        raise LabError(f"{command}: the machine has ended")

    def close(self):
        self.lines.close()
        self.channel.close()


class Node:
    def __init__(self, number, arguments, cables, console):
        """cables: this machine's ends, by network. They are kept open here too."""
        self.number, self.cables, self.console = number, cables, console
        self.commands, self.count = {}, 0
        self.lock = threading.Lock()
        self.ready = threading.Event()
        self.dropping = None
        self.ended = False
        self.port, port = socket.socketpair()
        monitor, ours = socket.socketpair()
        self.monitor = Monitor(ours)
        with port, monitor:
            inherited = [port.fileno(), monitor.fileno()]
            inherited += [cable.fileno() for cable in cables.values()]
            self.process = subprocess.Popen(
                (
                    *arguments,
                    "-chardev", f"socket,id=agent,fd={port.fileno()}",
                    "-chardev", f"socket,id=monitor,fd={monitor.fileno()}",
                    "-mon", "chardev=monitor,mode=control",
                ),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C at a terminal is for us alone
            )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        data = bytearray()
        while True:
            try:
                content = self.port.recv(_CHUNK)
            except OSError:
                content = b""
            if not content:
                break
            data += content
            while len(data) >= _HEAD.size:
                kind, number, length = _HEAD.unpack_from(data)
                if len(data) < _HEAD.size + length:
                    break
                content = bytes(data[_HEAD.size:_HEAD.size + length])
                del data[:_HEAD.size + length]
                self._take(kind, number, content)
        with self.lock:
            self.ended = True
            commands = list(self.commands.values())
        for command in commands:
            command.lose(f"node {self.number} has ended")
        self.ready.set()

    def _take(self, kind, number, content):
        if kind == b"R":
            self.ready.set()
            return
        with self.lock:
            command = self.commands.get(number)
            if kind == b"S":
                del self.commands[number]
        if command:
            command.take(kind, content)

    def send(self, kind, number, content=b""):
        try:
            with self.lock:
                self.port.sendall(_HEAD.pack(kind, number, len(content)) + content)
        except OSError as error:
            raise LabError(f"node {self.number} has ended") from error

    def spawn(self, folder, arguments, shown, echo):
        with self.lock:
            if self.ended:
                raise LabError(f"node {self.number} has ended")
            self.count += 1
            command = self.commands[self.count] = Command(self, self.count, shown, echo)
        words = (os.fspath(folder), *map(str, arguments))
        self.send(b"X", command.number, b"".join(os.fsencode(word) + b"\0" for word in words))
        return command

    def wait_until_up(self, deadline):
        self.ready.wait(max(0, deadline - time.monotonic()))
        if not self.ready.is_set() or self.ended:
            self.console.flush()
            said = pathlib.Path(self.console.name).read_text(errors="replace")
            if self.ended:
                raise LabError(f"node {self.number} ended:\n" + said[-4000:])
            raise Hung(f"node {self.number} did not get up:\n" + said[-4000:])
        self.monitor.ask("qmp_capabilities")

    def pause(self):
        if self.dropping:
            return
        self.process.send_signal(signal.SIGSTOP)
        # The signal takes effect thread by thread.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self.dropping = Dropping(self.cables.values())

    def resume(self):
        if self.dropping:
            self.dropping.end()
            self.dropping = None
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.kill()
        self.process.wait()
        if self.dropping:
            self.dropping.end()
        self.port.shutdown(socket.SHUT_RDWR)
        self.reader.join()
        self.port.close()
        self.monitor.close()
        self.console.close()


class Dropping:
    """Takes and forgets what arrives for a machine that stands still, as a network would. Without
    it the other machine could not send and would never find out that nobody answers."""

    def __init__(self, cables):
        self.cables = list(cables)
        self.woken, self.waker = os.pipe()
        self.thread = threading.Thread(target=self._drop, daemon=True)
        self.thread.start()

    def _drop(self):
        while True:
            readable, _, _ = select.select([self.woken, *self.cables], [], [])
            if self.woken in readable:
                return
            for cable in readable:
                try:
                    cable.recv(_CHUNK << 1, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass

    def end(self):
        os.close(self.waker)
        self.thread.join()
        os.close(self.woken)


class Lab:
    """folder, on this machine, is /lab in both nodes. It is given by output or goes with the lab;
    what the nodes' kernels said is there too."""

    def __init__(self, output=None, cache=None, accel=None, memory_mib=1024, may_install=False):
        self.output, self.memory_mib = output, memory_mib
        self.image = image.Image(cache, may_install)
        wanted = accel or os.environ.get("KVXFER_LAB_ACCEL")
        self.accelerator = self.image.accelerator(wanted)
        self.nodes, self.cables = [], []
        self.folder = self.temporary = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        try:
            self.temporary = pathlib.Path(tempfile.mkdtemp(prefix="kvxfer-lab."))
            self.folder = pathlib.Path(self.output or self.temporary / "share").resolve()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.image.write_file_system(self.temporary / "initramfs")
            cables = {name: socket.socketpair(type=socket.SOCK_DGRAM) for name in NETWORKS}
            self.cables = [end for pair in cables.values() for end in pair]
            for number in NODES:
                ends = {name: pair[number] for name, pair in cables.items()}
                console = (self.folder / f"node{number}.console").open("wb")
                self.nodes.append(Node(number, self._machine(number, ends), ends, console))
            deadline = time.monotonic() + BOOT_LIMIT_S
            for node in self.nodes:
                node.wait_until_up(deadline)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        """Everything ends at once; nobody shuts down."""
        for node in self.nodes:
            node.stop()
        for end in self.cables:
            end.close()
        self.nodes, self.cables = [], []
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary = None

    def _machine(self, number, cables):
        """Two CPUs, each with its memory and its own PCIe bridges. Rail 0's NIC is behind a switch
        at the first, rail 1's alone at the second."""
        half = f"{self.memory_mib // 2}M"
        kernel = (
            "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog tsc=reliable "
            f"rcupdate.rcu_cpu_stall_suppress=1 net.ifnames=0 lab.node={number}"
        )
        devices = [
            "pxb-pcie,id=host0,bus=pcie.0,bus_nr=32,numa_node=0",
            "pxb-pcie,id=host1,bus=pcie.0,bus_nr=64,numa_node=1",
            "pcie-root-port,id=root0,bus=host0,chassis=1",
            "pcie-root-port,id=root1,bus=host1,chassis=2",
            "x3130-upstream,id=switch,bus=root0",
            "xio3130-downstream,id=leaf,bus=switch,chassis=3",
            "virtio-9p-pci,bus=pcie.0,fsdev=host,mount_tag=host",
            "virtio-9p-pci,bus=pcie.0,fsdev=share,mount_tag=share",
            "virtio-serial-pci,bus=pcie.0",
            "virtserialport,chardev=agent,name=agent",
        ]
        arguments = [
            *image.qemu(self.accelerator, self.memory_mib),
            "-no-reboot", "-serial", "stdio", "-smp", "2,sockets=2,cores=1,threads=1",
            "-kernel", self.image.kernel, "-initrd", self.temporary / "initramfs",
            "-append", kernel,
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-fsdev", f"local,id=share,path={comma_safe(self.folder)},security_model=none,"
            "multidevs=remap",
        ]
        for memory in (0, 1):
            arguments += ("-object", f"memory-backend-ram,id=memory{memory},size={half}")
            arguments += ("-numa", f"node,nodeid={memory},cpus={memory},memdev=memory{memory}")
        for name, bus in (("rail0", "leaf"), ("rail1", "root1"), ("mgmt", "pcie.0")):
            mac = f"52:54:00:4b:{NETWORKS[name]:02}:{number + 1:02}"
            arguments += ("-netdev", f"socket,id={name}-cable,fd={cables[name].fileno()}")
            devices.append(
                f"virtio-net-pci,id={name},bus={bus},netdev={name}-cable,mac={mac},"
                "speed=10000,duplex=full,romfile="
            )
        for device in devices:
            arguments += ("-device", device)
        return arguments

    # Commands. A string is for sh; a list is a program and its arguments. They start in this
    # process's working folder, which the nodes see too.

    def spawn(self, node, command, folder=None, echo=None):
        """echo(node, is error output, bytes) is called with output as it comes."""
        shell = isinstance(command, (str, bytes))
        arguments = ("/bin/sh", "-c", command) if shell else tuple(command)
        shown = command if shell else " ".join(map(str, command))
        return self.nodes[node].spawn(folder or os.getcwd(), arguments, shown, echo)

    def run(self, node, command, limit_s=60, folder=None):
        started = self.spawn(node, command, folder)
        started.close_input()
        return started.wait(limit_s)

    def wait_for_listener(self, node, port, limit_s=ANSWER_LIMIT_S):
        """Until something in the node takes TCP connections at the port."""
        listens = f"cat /proc/net/tcp /proc/net/tcp6 | grep -q ':{port:04X} [0-9A-F:]* 0A '"
        self.run(node, f"until {listens}; do sleep 0.1; done", limit_s).expect()

    # Files.

    def put(self, node, source, target):
        """A file of this machine. What was there when the lab began the nodes see anyway."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            shutil.copy(source, folder)
            passed = f"{SHARE}/{pathlib.Path(folder).name}/{pathlib.Path(source).name}"
            self.run(node, ("cp", passed, target)).expect()

    def get(self, node, source, target):
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            self.run(node, ("cp", source, f"{SHARE}/{pathlib.Path(folder).name}/file")).expect()
            shutil.copyfile(pathlib.Path(folder) / "file", target)

    # Faults.

    def set_link(self, node, rail, up):
        """Pulls the cable out of a rail's NIC or puts it back: the port of its rxe device goes
        down or becomes active. The NIC at the other end does not notice."""
        self.set_network(node, f"rail{rail}", up)

    def set_network(self, node, network, up):
        self.nodes[node].monitor.ask("set_link", name=network, up=up)

    def pause(self, node):
        """The whole machine stands still; what is sent to it is lost."""
        self.nodes[node].pause()

    def resume(self, node):
        self.nodes[node].resume()


def comma_safe(path):
    """QEMU's options are lists; a comma in a value is written twice."""
    return os.fspath(path).replace(",", ",,")
