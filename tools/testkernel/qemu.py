# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own kernel on a machine with two processors: QEMU, on the host's files by 9p.

The kernel is that of Debian 13, whatever release this host has: the first stable one with tcx. Its package is
unpacked into build/testkernel, once, and not installed; apt gets it with lists of its own. The first file system is a
busybox and the modules without which the kernel does not reach the host's files.
"""

from __future__ import annotations

import argparse
import fcntl
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

from guest import PARAMETERS, Command, GuestFailed, Kernel, own_directory

MEMORY = "2G"
BUILD = Path(__file__).resolve().parents[2] / "build/testkernel"
PROCESSORS = 2
SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FIRST_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p")
# Files are cached in the guest as on a disk of its own: what the host changes meanwhile may not be seen there.
CACHED, UNCACHED = "cache=loose", "cache=none"
NINEP = "trans=virtio,version=9p2000.L,msize=512000"
FIRST = f"""\
#!/bin/busybox sh
for module in $(/bin/busybox cat /modules); do /bin/busybox insmod /lib/$module; done
/bin/busybox mount -t 9p -o {NINEP},{CACHED} root /root &&
    /bin/busybox mount -t devtmpfs dev /root/dev &&
    /bin/busybox mount -t tmpfs run /root/run &&
    /bin/busybox mkdir /root/run/job &&
    /bin/busybox mount -t 9p -o {NINEP},{UNCACHED} job /root/run/job &&
    exec /bin/busybox switch_root /root /bin/sh /run/job/init
"""


def find(_wanted: str | None) -> Kernel:
    """The kernel and its modules, fetched where they are not there yet."""
    for program in ("qemu-system-x86_64", "busybox", "modprobe"):
        if not shutil.which(program):
            raise GuestFailed(f"no {program}: run tools/setup smp, or install qemu-system-x86, busybox and kmod")
    BUILD.mkdir(parents=True, exist_ok=True)
    with alone():
        if not (BUILD / SUITE).exists():
            fetch()
    (file,) = (BUILD / SUITE / "boot").glob("vmlinuz-*")
    return Kernel(file, BUILD / SUITE / "lib/modules", "/dev/hvc0", "9p")


@contextmanager
def alone():
    """Only one process at a time makes what is in the build folder."""
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch() -> None:
    """Unpack the kernel's package, and make its first file system."""
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        place = Path(name)
        apt = own_lists(place / "apt")
        run("apt-get", *apt, "update")
        depends = run("apt-cache", *apt, "depends", "linux-image-amd64")
        image = re.search(r"Depends: (linux-image-[\w.+-]+-amd64)$", depends, re.MULTILINE)
        if not image:
            raise GuestFailed(f"apt knows no linux-image-amd64 of {SUITE}")
        run("apt-get", *apt, "download", image[1], cwd=place)
        (package,) = place.glob("*.deb")
        tree = place / "tree"
        run("dpkg", "-x", str(package), str(tree))
        if not (tree / "lib/modules").exists():
            (tree / "lib").symlink_to("usr/lib")  # newer packages have their modules there
        (release,) = os.listdir(tree / "lib/modules")
        run("depmod", "-b", str(tree), release)
        make_first(tree, release, place / "first")
        tree.rename(BUILD / SUITE)


def own_lists(place: Path) -> tuple[str, ...]:
    """The options of apt for lists of SUITE alone, in a directory of its own: this host's lists stay as they are."""
    for directory in ("lists/partial", "cache/archives/partial"):
        (place / directory).mkdir(parents=True)
    known = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True)
    mirrors = [line for line in known.stdout.splitlines() if re.search(r"/debian/?$", line)]
    if not mirrors:
        raise GuestFailed("apt gets nothing from Debian, whose kernel this is: add a mirror of Debian to apt's sources")
    (place / "list").write_text(f"deb [signed-by={KEYRING}] {mirrors[0]} {SUITE} main\n")
    own = {
        "Dir::Etc::SourceList": place / "list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": place / "lists",
        "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    return ("-qq", *(word for name, value in own.items() for word in ("-o", f"{name}={value}")))


def make_first(tree: Path, release: str, place: Path) -> None:
    """Make the first file system: busybox with its libraries, and the modules that read the host's files."""
    for directory in ("bin", "lib", "root"):
        (place / directory).mkdir(parents=True)
    busybox = shutil.which("busybox")
    shutil.copy(str(busybox), place / "bin/busybox")
    libraries = subprocess.run(["ldd", str(busybox)], capture_output=True, text=True).stdout  # none where it is static
    for library in re.findall(r"(/\S+) \(0x", libraries):
        (place / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place / library[1:])
    shown = run("modprobe", "-d", str(tree), "-S", release, "--show-depends", "-a", *FIRST_MODULES)
    files = [Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod ")]
    modules = list(dict.fromkeys(files))
    for module in modules:
        data = module.read_bytes()
        (place / "lib" / module.name).write_bytes(lzma.decompress(data) if module.suffix == ".xz" else data)
    (place / "modules").write_text("".join(f"{module.name}\n" for module in modules))
    (place / "init").write_text(FIRST)
    (place / "init").chmod(0o755)
    archive = 'find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$1"'
    run("sh", "-c", archive, "sh", str(tree / "boot/first"), cwd=place)


# One thread for both processors: with one for each, QEMU 7.2 may execute a stale translation of code that the kernel
# patches, and the kernel dies of a breakpoint that is no longer there ("Oops: int3", in tc_run).
TRANSLATION = "tcg,thread=single"


def accelerator(kernel: Kernel) -> str:
    """KVM where a kernel has been seen to run by it since this machine was started: it can be there, and hang."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TRANSLATION
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    seen = BUILD / "kvm"
    with alone():
        if not seen.exists() or seen.read_text().split()[0] != boot:
            seen.write_text(f"{boot} {'runs' if kvm_runs(kernel) else 'hangs'}\n")
    return "kvm" if seen.read_text().split()[1] == "runs" else TRANSLATION


def kvm_runs(kernel: Kernel) -> bool:
    """Whether a kernel without a root file system gets as far as its panic, within 10 seconds."""
    probe = [*machine(kernel, "kvm", 256 << 20), "-append", "panic=-1 quiet"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run(probe, timeout=10, **quiet).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def machine(kernel: Kernel, accel: str, memory: int) -> list[str]:
    """A machine with nothing but processors, memory and this kernel."""
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-net", "none"),
        *("-accel", accel, "-cpu", "max", "-smp", str(PROCESSORS), "-m", f"{memory >> 20}M"),
        *("-kernel", str(kernel.file)),
    ]


def command(kernel: Kernel, job: Path, output: int, options: argparse.Namespace) -> Command:
    """The command that is the guest."""
    parameters = "console=ttyS0 quiet printk.time=0 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check"
    model = "passthrough" if os.geteuid() == 0 else "none"
    shared = {"root": options.root, "job": job, "modules": kernel.modules, "directory": own_directory(options)}
    words = machine(kernel, accelerator(kernel), options.mem)
    for name, path in shared.items():
        if path:
            share = f"local,path={str(path).replace(',', ',,')},mount_tag={name},security_model={model},multidevs=remap"
            words += ["-virtfs", share]
    words += ["-initrd", str(kernel.file.parent / "first"), "-append", " ".join((parameters, *PARAMETERS))]
    words += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    words += ["-device", "virtio-serial", "-chardev", f"file,id=output,path=/dev/fd/{output}"]
    return [*words, "-device", "virtconsole,chardev=output"], {}


def run(*words: str, cwd: Path | None = None) -> str:
    """What a command prints; its last line as our failure where it fails."""
    done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or str(done.returncode)).splitlines()[-1]
        raise GuestFailed(f"{' '.join(words[:3])}: {last}")
    return done.stdout
