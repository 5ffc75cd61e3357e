# SPDX-License-Identifier: Apache-2.0
"""What a node boots: Debian's kernel, unpacked and never installed, and a file system in memory.

The kernel, the modules that the nodes load and the answer to "does a guest boot under KVM here"
are kept in a cache folder. The small file system is made anew each time, so it is never stale."""
import contextlib
import fcntl
import json
import lzma
import os
import pathlib
import platform
import shutil
import struct
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = HERE.parents[1] / "build" / "lab"

# Loaded in this order, each after what it depends on. rxe asks the crypto layer for crc32 by
# name, which no dependency says.
MODULES = (
    "virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "virtio_net",
    "crc32_generic", "rdma_rxe", "ib_uverbs", "rdma_ucm",
)
# Program, and the Debian package that has it.
PROGRAMS = (
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("rdma", "iproute2"),
    ("setpriv", "util-linux"),
)
KERNEL_PROGRAMS = (("apt-get", "apt"), ("apt-cache", "apt"), ("dpkg-deb", "dpkg"))
KERNEL_PACKAGE = "linux-image-amd64"
KVM_PROOF = "lab: a guest boots"
KVM_LIMIT_S = 8
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # where programs are that not every user's PATH has


class CannotRun(Exception):
    """This machine has no lab; the text says what is missing and how to get it."""


def program(name):
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{SBIN}")


def output_of(*arguments, **options):
    """What a command printed; its failure is a reason why there is no lab."""
    done = subprocess.run(
        arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CannotRun(f"{' '.join(map(str, arguments))} failed: {' '.join(said)}")
    return done.stdout


def missing_packages():
    """Packages to install, in the order of PROGRAMS."""
    missing = [package for name, package in PROGRAMS if not program(name)]
    # The package busybox has a program of the same name that needs the C library.
    if program("busybox") and b"ld-linux" in pathlib.Path(program("busybox")).read_bytes()[:4096]:
        missing.append("busybox-static")
    return list(dict.fromkeys(missing))


def install(packages):
    as_root = () if os.geteuid() == 0 else ("sudo",)
    output_of(*as_root, "apt-get", "update", "-q")
    if packages:
        output_of(
            *as_root, "env", "DEBIAN_FRONTEND=noninteractive",
            "apt-get", "install", "-q", "-y", "--no-install-recommends", *packages,
        )


def check_machine(may_install=False):
    if platform.machine() != "x86_64":
        raise CannotRun(f"needs an x86-64 machine; this one is {platform.machine()}")
    missing = missing_packages()
    if missing and may_install:
        install(missing)
        missing = missing_packages()
    for name, package in PROGRAMS:
        if package in missing:
            raise CannotRun(
                f"needs {name}: install the package {package} (tools/install-packages lab)"
            )


class Image:
    """A kernel, its modules, and whether KVM may be used; all files are in the cache folder."""

    def __init__(self, cache=None, may_install=False):
        check_machine(may_install)
        self.cache = pathlib.Path(cache or CACHE).resolve()
        self.kernel = self.cache / "vmlinux"
        self.modules = self.cache / "modules"
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            lock = (self.cache / "lock").open("w")
        except OSError as error:
            raise CannotRun(f"cannot write {self.cache}: {error.strerror}; use --cache") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_complete():
                if may_install:
                    install(())
                self._fetch_kernel()

    def _is_complete(self):
        wanted = self.cache / "complete"
        return wanted.is_file() and wanted.read_text() == " ".join(MODULES)

    def _fetch_kernel(self):
        for name, package in KERNEL_PROGRAMS:
            if not program(name):
                raise CannotRun(f"needs {name} of Debian ({package}) to fetch a kernel")
        with tempfile.TemporaryDirectory(dir=self.cache, prefix="unpacked.") as folder:
            root = pathlib.Path(folder)
            try:
                output_of("apt-get", "download", kernel_package(), cwd=root)
            except CannotRun as reason:
                hint = "run apt-get update, or tests/lab/run --install"
                raise CannotRun(f"no kernel: {reason}; {hint}") from reason
            (package,) = root.glob("*.deb")
            output_of("dpkg-deb", "-x", package, root)
            (version,) = (path.name for path in (root / "lib" / "modules").iterdir())
            output_of(program("depmod"), "-b", root, version)
            (self.cache / "complete").unlink(missing_ok=True)
            self.kernel.write_bytes(unpacked_kernel(root / "boot" / f"vmlinuz-{version}"))
            self._keep_modules(root, version)
        (self.cache / "complete").write_text(" ".join(MODULES))

    def _keep_modules(self, root, version):
        shutil.rmtree(self.modules, ignore_errors=True)
        self.modules.mkdir()
        files = []
        for name in MODULES:
            said = output_of(
                program("modprobe"), "-d", root, "-S", version, "--show-depends", name
            )
            # Lines are "insmod FILE" or "builtin NAME".
            files += [line.split()[1] for line in said.splitlines() if line.startswith("insmod")]
        for number, path in enumerate(dict.fromkeys(files)):
            shutil.copy(path, self.modules / f"{number:02}-{pathlib.Path(path).name}")

    def write_file_system(self, path):
        """An initramfs in the kernel's "newc" form of cpio."""
        archive = Archive()
        for folder in ("bin", "dev", "host", "modules", "new", "over", "proc", "sys"):
            archive.add(folder, 0o040755)
        archive.add("dev/console", 0o020600, device=(5, 1))
        archive.add("bin/busybox", 0o100755, pathlib.Path(program("busybox")).read_bytes())
        archive.add("init", 0o100755, (HERE / "init").read_bytes())
        archive.add("agent.py", 0o100644, (HERE / "agent.py").read_bytes())
        for module in sorted(self.modules.iterdir()):
            archive.add(f"modules/{module.name}", 0o100644, module.read_bytes())
        path.write_bytes(archive.end())

    def accelerator(self, wanted=None):
        """kvm or tcg. Having /dev/kvm does not mean that a guest gets anywhere under it."""
        if wanted in ("kvm", "tcg"):
            return wanted
        if wanted:
            raise CannotRun(f"accelerator {wanted}: must be kvm or tcg")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "tcg"
        key = f"{os.uname().release}, {output_of(program(PROGRAMS[0][0]), '--version')}"
        known = self.cache / "kvm.json"
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(OSError, ValueError):
                outcome = json.loads(known.read_text())
                if outcome["host"] == key:
                    return "kvm" if outcome["boots"] else "tcg"
            boots = self._boots_under_kvm()
            known.write_text(json.dumps({"host": key, "boots": boots}))
        return "kvm" if boots else "tcg"

    def _boots_under_kvm(self):
        with tempfile.TemporaryDirectory(prefix="kvxfer-lab.") as folder:
            file_system, console = pathlib.Path(folder) / "initramfs", pathlib.Path(folder) / "log"
            self.write_file_system(file_system)
            with console.open("wb") as log:
                guest = subprocess.Popen(
                    (
                        *qemu("kvm", 256), "-serial", "stdio", "-no-reboot",
                        "-kernel", self.kernel, "-initrd", file_system,
                        "-append", "console=ttyS0 quiet panic=-1 lab.probe",
                    ),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )
                try:
                    deadline = time.monotonic() + KVM_LIMIT_S
                    while guest.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.1)
                finally:
                    guest.kill()
                    guest.wait()
            return KVM_PROOF.encode() in console.read_bytes()


def qemu(accelerator, memory_mib):
    """How every machine begins. The kernel ends it with this process, however that ends."""
    machine = {
        "kvm": ("-accel", "kvm", "-cpu", "host"),
        "tcg": ("-accel", "tcg,thread=multi", "-cpu", "max"),
    }[accelerator]
    return (
        program("setpriv"), "--pdeathsig", "KILL", program("qemu-system-x86_64"),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "q35", *machine, "-m", f"{memory_mib}M",
    )


def kernel_package():
    """The package of today's kernel; the one it is asked for by depends on it."""
    for line in output_of("apt-cache", "depends", KERNEL_PACKAGE).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise CannotRun(f"apt does not know what {KERNEL_PACKAGE} depends on")


def unpacked_kernel(path):
    """The kernel inside its self-extracting file: an emulated machine takes seconds for that."""
    image = path.read_bytes()
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = 512 * (sectors + 1) + offset
    try:
        return lzma.LZMADecompressor().decompress(image[begin:begin + length])
    except lzma.LZMAError as error:
        raise CannotRun(f"{path.name} is not packed with xz: {error}") from error


class Archive:
    def __init__(self):
        self.data = bytearray()
        self.count = 0

    def add(self, name, mode, content=b"", device=(0, 0)):
        self.count += 1
        encoded = name.encode() + b"\0"
        # inode, mode, owner, group, links, time, size, 2 numbers of the file system, 2 of the
        # device, length of the name, check
        fields = (self.count, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        self.data += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self._align()
        self.data += content
        self._align()

    def _align(self):
        self.data += bytes(-len(self.data) % 4)

    def end(self):
        self.add("TRAILER!!!", 0)
        return self.data
