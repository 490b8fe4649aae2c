"""Boot a virtual machine with systemd and a kernel TPM, install the wheel as the docs say, and test it there.

    python tests/machine/run.py FOLDER WHEEL [PACKAGE…]

With Debian packages, apt installs those in the machine, and only the tests use the wheel. FOLDER keeps what is slow to
make: the root file system and the wheels that hwsigner needs. The machine is Debian's own kernel and systemd under QEMU
(no KVM, no network), with a swtpm behind /dev/tpmrm0. The tests in `guest/` run inside it by pytest, once after the
first boot and once after a reboot; their output comes over the serial console. Needs root.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from roots import archive, call, wheels

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# What the docs tell an operator to install, and what the tests drive.
PACKAGES = [
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "kmod",
    "linux-image-amd64",
    "initramfs-tools",
    "ca-certificates",
    "python3",
    "python3-venv",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-fapi1t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tctildr0t64",
    "libtss2-policy0t64",
    "libtss2-tcti-device0t64",
    "libtss2-tcti-spi-helper0t64",
    "tpm-udev",
    "tpm2-tools",
    "tpm2-openssl",
    "pcscd",
    "polkitd",
    "ykcs11",
    "vsmartcard-vpcd",
    "openssl",
    "iproute2",
    "procps",
    "awscli",
]
EXTRAS = ("pkcs11", "tpm2", "serve")
# Where swtpm_setup keeps the CA that certifies the TPM's endorsement key.
TPM_VENDOR = Path("/var/lib/swtpm-localca")
PASSED = "The machine's tests passed."
SECONDS = 900


def main(folder: str, wheel: str, *packages: str) -> int:
    """Run the tests in a machine and return the exit status."""
    kept = Path(folder).resolve()
    kept.mkdir(parents=True, exist_ok=True)
    base = archive(kept, "root", "trixie", PACKAGES)
    libraries = wheels(kept, "machine")
    with tempfile.TemporaryDirectory(prefix="hwsigner-machine-") as temporary:
        work = Path(temporary)
        with _tpm(work) as tpm:
            disk = _disk(base, libraries, Path(wheel), packages, work)
            log = _boot(disk, tpm, work)
    if PASSED in log:
        print(PASSED)
        return 0
    print("The machine's tests failed, or it did not get through them: see above.", file=sys.stderr)
    return 1


def _disk(base: Path, libraries: Path, wheel: Path, packages: Sequence[str], work: Path) -> Path:
    """Return an image of the root file system with the tests, and with hwsigner or the packages that have it."""
    root = work / "root"
    root.mkdir()
    call("tar", "--extract", "--file", base, "--directory", root, "--numeric-owner")
    shutil.copytree(libraries, root / "wheels")
    shutil.copy(wheel, root / "wheels")
    shutil.copytree(HERE / "guest", root / "tests" / "machine" / "guest")
    shutil.copytree(ROOT / "softhsm", root / "tests" / "softhsm", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests" / "roots").mkdir()
    for name in ("issuercert.pem", "swtpm-localca-rootca-cert.pem"):
        shutil.copy(TPM_VENDOR / name, root / "tests" / "roots")
    # As docs/start/install.md has it. The wheels are here because the machine has no network.
    for venv, needs in (("/opt/pytest", ["pytest"]), *([] if packages else [("/opt/hwsigner", list[str]())])):
        _chroot(root, "python3", "-m", "venv", venv)
        install = ("-m", "pip", "--quiet", "install", "--no-index", "--find-links=/wheels", *needs)
        _chroot(root, f"{venv}/bin/python", *install, f"hwsigner[{','.join(EXTRAS)}]")
    for package in packages:
        (root / "packages").mkdir(exist_ok=True)
        shutil.copy(package, root / "packages")
    shutil.rmtree(root / "wheels")
    unit = root / "etc/systemd/system/machine-tests.service"
    shutil.copy(HERE / "machine-tests.service", unit)
    wants = root / "etc/systemd/system/graphical.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / unit.name).symlink_to(f"/etc/systemd/system/{unit.name}")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy((root / name).resolve() if (root / name).exists() else root / "boot" / name, work / name)
    disk = work / "disk"
    call("mkfs.ext4", "-q", "-d", root, "-L", "root", disk, "3G")
    shutil.rmtree(root)
    return disk


@contextmanager
def _tpm(work: Path) -> Iterator[Path]:
    """Start a TPM for QEMU and yield the path of its control socket."""
    state, control = work / "tpm", work / "tpm.sock"
    state.mkdir()
    call("swtpm_setup", "--tpm2", "--create-ek-cert", "--tpmstate", state)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={control}"]
    with subprocess.Popen(command) as process:
        try:
            yield control
        finally:
            process.terminate()


def _boot(disk: Path, tpm: Path, work: Path) -> str:
    """Run the machine until it powers off; show and return what comes over its serial console."""
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]
    command += ["-nographic", "-nic", "none", "-kernel", str(work / "vmlinuz"), "-initrd", str(work / "initrd.img")]
    # Under emulation on a busy machine, the kernel's check of its timer fails.
    quiet = "no_timer_check quiet systemd.show_status=0 systemd.mask=serial-getty@ttyS0.service"
    command += ["-append", f"root=/dev/vda rw console=ttyS0 {quiet}"]
    command += ["-drive", f"file={disk},if=virtio,format=raw,cache=unsafe"]
    command += ["-chardev", f"socket,id=tpm,path={tpm}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
    command += ["-device", "tpm-crb,tpmdev=tpm0"]
    lines = []
    command = ["timeout", str(SECONDS), *command]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
        for line in machine.stdout or ():
            lines.append(line.decode("utf-8", "replace"))
            print(lines[-1], end="", flush=True)
    return "".join(lines)


def _chroot(root: Path, *command: str) -> None:
    call("chroot", root, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", *command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
