"""Install the wheels in bare Debian roots, and run what is in them: `python tests/wheels/run.py DIST FOLDER [ROOT…]`.

FOLDER keeps the roots, which hold Debian's minimum and Python. The root's own pip chooses the wheel, which shows that
its name is right. Another architecture runs under QEMU's user emulation, without a change of this machine's kernel. The
wheels of tpm2-pytss make a key in a swtpm of this machine, one with the root's libtss2, one without it. For 32-bit ARM
there are no wheels, of cffi neither: there, the client of the agent runs.
Needs root, and the Python that has packaging/requirements/release.txt installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import NamedTuple

from roots import AUTHORITIES, ENTER, bootstrap, digest, extract

from softhsm.tpm import SoftTPM

LIBRARIES = Path(__file__).parents[2] / "packaging" / "requirements" / "demo.txt"
# The wheels of tpm2-pytss: pip prefers the first.
SYSTEM, BUNDLED = "+system", "+bundled"
KEY = "tpm2:path=/opt/key.tss2?tcti=swtpm:path%3D/tpm/socket"


class Root(NamedTuple):
    """A Debian root: what makes it, and what must be in it."""

    suite: str
    debian: str
    architecture: str
    python: str
    openssl: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a program of this root."""
        return () if self.architecture == "x86_64" else (f"/qemu-{self.architecture}",)

    @property
    def has_wheels(self) -> bool:
        """Whether there are wheels for its architecture."""
        return self.architecture != "arm"


ROOTS = {
    "debian-12": Root("bookworm", "amd64", "x86_64", "3.11", "3.0"),
    "debian-13": Root("trixie", "amd64", "x86_64", "3.13", "3.5"),
    "debian-13-arm64": Root("trixie", "arm64", "aarch64", "3.13", "3.5"),
    "debian-13-armhf": Root("trixie", "armhf", "arm", "3.13", "3.5"),
}
# An ELF file's e_type, its byte 16: ET_DYN.
POSITION_INDEPENDENT = 3
SIGN = """
import sys
from hwsigner.sigv4 import canonical, reference
request = "GET", "/a?b=c", [("Host", "h")], b"body" * 100_000, ("algorithm", "time", "scope"), False
assert canonical.IMPLEMENTATION == sys.argv[1]
assert canonical.request_to_sign(*request) == reference.request_to_sign(*request)
assert canonical.sign_hmac(*request, b"k" * 32) == reference.sign_hmac(*request, b"k" * 32)
"""
# Answer a client as an agent does.
AGENT = """
import os, socket, struct, threading
from hwsigner._cli import main
assert struct.calcsize("l") == 4
ANSWER = b'{"AccessKeyId": "ASIAEXAMPLE"}\\n'
os.environ["XDG_RUNTIME_DIR"] = "/run/user"
os.makedirs("/run/user/hwsigner", mode=0o700, exist_ok=True)
def answer():
    connection = listener.accept()[0]
    assert connection.recv(100) == b"1 get web notes\\n"
    connection.sendall(b"1 ok %d\\n%s" % (len(ANSWER), ANSWER))
with socket.socket(socket.AF_UNIX) as listener:
    if os.path.exists("/run/user/hwsigner/agent.sock"):
        os.unlink("/run/user/hwsigner/agent.sock")
    listener.bind("/run/user/hwsigner/agent.sock")
    listener.listen()
    threading.Thread(target=answer, daemon=True).start()
    assert main(["credential-process", "--profile", "web"]) == 0
"""


def main(dist: str, folder: str, *names: str) -> int:
    """Test the wheels in the roots of these names, or in all, and return the exit status."""
    for name in names or ROOTS:
        print(f"== {name}", flush=True)
        root = ROOTS[name]
        base = _base(Path(folder).resolve(), name, root)
        if root.prefix:
            shutil.copy(Path("/usr/bin") / root.prefix[0].lstrip("/"), base)
        if root.has_wheels:
            _install(base, root, Path(dist).resolve())
            _check(base, root)
            _check_tpm(base, root)
        else:
            _unpack(base, Path(dist).resolve())
            _check_without_wheels(base, root)
    return 0


def _base(folder: Path, name: str, root: Root) -> Path:
    """Return a folder with a bare root, made at the first call."""
    packages = ("ca-certificates", "python3", "python3-venv", *(("tpm2-tools",) if root.has_wheels else ()))
    path = folder / f"{name}-{digest(' '.join(packages))}"
    if not path.exists():
        new = folder / f"{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        # Unpacked only: the programs that configure packages need not run.
        bootstrap(root.suite, new, packages, "--variant=extract", f"--architectures={root.debian}")
        for name in ("bin", "lib", "lib64", "sbin"):
            if not (new / name).exists() and (new / "usr" / name).exists():
                (new / name).symlink_to(f"usr/{name}")
        (new / "proc").mkdir(exist_ok=True)
        # Debian's pip reads this file, which a package would write when it is configured, even if it asks no server.
        shutil.copy(AUTHORITIES, new / AUTHORITIES.relative_to("/"))
        new.rename(path)
    return path


def _install(base: Path, root: Root, dist: Path) -> None:
    """Install hwsigner into /opt/hwsigner of a root, from the wheels in a folder and those of its libraries.

    The other wheel of tpm2-pytss goes into /opt/bundled.
    """
    for made in ("wheels", "opt"):
        shutil.rmtree(base / made, ignore_errors=True)
    wheels = base / "wheels"
    wheels.mkdir()
    # Those of tpm2-pytss are ours.
    pins = wheels / "pins.txt"
    pins.write_text(re.sub(r"^tpm2-pytss==.*(\\\n.*)+\n", "", LIBRARIES.read_text(), flags=re.MULTILINE))
    platforms = [f"--platform=manylinux_{version}_{root.architecture}" for version in ("2_17", "2_28", "2_34")]
    options = ("--quiet", "--only-binary=:all:", f"--python-version={root.python}", *platforms)
    hashed = ("--require-hashes", "--no-deps")
    _run(sys.executable, "-m", "pip", "download", *options, *hashed, f"--dest={wheels}", f"--requirement={pins}")
    for wheel in dist.glob("*.whl"):
        shutil.copy(wheel, wheels)
    (pip,) = (base / "usr/share/python-wheels").glob("pip-*.whl")
    command = (
        f"/{pip.relative_to(base)}/pip",
        "install",
        "--quiet",
        "--no-compile",
        "--root-user-action=ignore",
        "--no-cache-dir",
        "--no-index",
        "--find-links=/wheels",
    )
    if not list(dist.glob(f"tpm2_pytss-*{BUNDLED}-*_{root.architecture}.whl")):
        raise SystemExit(f"{dist} has no wheels of tpm2-pytss for {root.architecture}: run make tpm-wheels")
    _python(base, root, *command, "--target=/opt/hwsigner", "hwsigner[tpm2]")
    (installed,) = base.glob("opt/hwsigner/tpm2_pytss-*.dist-info")
    version = installed.name.removeprefix("tpm2_pytss-").removesuffix(f"{SYSTEM}.dist-info")
    _python(base, root, *command, "--no-deps", "--target=/opt/bundled", f"tpm2-pytss=={version}{BUNDLED}")


def _unpack(base: Path, dist: Path) -> None:
    """Unpack the source distribution into /opt of a root, and link /opt/hwsigner to it."""
    (source,) = dist.glob("hwsigner-*[0-9].tar.gz")  # Not those of a release's man pages.
    shutil.rmtree(base / "opt", ignore_errors=True)
    extract(source, base / "opt")
    (base / "opt" / "hwsigner").symlink_to(source.name.removesuffix(".tar.gz"))


def _check_without_wheels(base: Path, root: Root) -> None:
    """Check what needs no library: the canonicalisation, and that a client reaches an agent."""
    _python(base, root, "-c", SIGN, "python")
    assert _python(base, root, "-c", AGENT) == '{"AccessKeyId": "ASIAEXAMPLE"}\n'
    print("The client in Python prints what an agent sends.", flush=True)


def _check(base: Path, root: Root) -> None:
    """Check that the extension runs with the root's libcrypto, and that the program starts."""
    version = _python(base, root, "-m", "hwsigner", "version", "--verbose")
    print(version, flush=True)
    assert f"OpenSSL {root.openssl}." in version, version
    assert "canonicalisation: native (/opt/hwsigner/hwsigner/_native.abi3.so" in version, version
    _python(base, root, "-c", SIGN, "native")
    _check_without_libcrypto(base, root)
    # Without an agent, the program becomes `hwsigner`. Only the kernel can do that, and it can't emulate.
    program = ("/opt/hwsigner/bin/hwsigner-credentials", "--profile", "none")
    status, wanted = (1, "can't run /opt/hwsigner/bin/hwsigner") if root.prefix else (2, "there is no profile 'none'")
    done = subprocess.run(_chroot(base, *root.prefix, *program), check=False, capture_output=True, text=True)
    assert (done.returncode, wanted in done.stderr) == (status, True), done
    content = (base / program[0].lstrip("/")).read_bytes()
    assert content[16] == POSITION_INDEPENDENT
    print(f"hwsigner-credentials: {len(content)} bytes", flush=True)


def _check_without_libcrypto(base: Path, root: Root) -> None:
    """Check what a Python does that has OpenSSL linked into it, where the system has none."""
    with _hidden(base, "libcrypto.so.3"):
        version = _python(base, root, "-m", "hwsigner", "version", "--verbose")
        assert "canonicalisation: python (libcrypto.so.3: cannot open shared object file: " in version, version
        _python(base, root, "-c", SIGN, "python")
        (base / "opt" / "key.pem").unlink(missing_ok=True)
        _python(base, root, "-m", "hwsigner", "keygen", "/opt/key.pem")
        _request(base, root, "/opt/key.pem")


def _check_tpm(base: Path, root: Root) -> None:
    """Check the wheels of tpm2-pytss: one with the root's libraries; the other without them and without libcrypto."""
    shutil.rmtree(base / "tpm", ignore_errors=True)
    # The path of a Unix socket is short.
    with chdir(base), SoftTPM(Path("tpm")):
        _make_key(base, root)
        with _hidden(base, "libtss2-*", "libcrypto.so.3"):
            assert "Install the system's package that has libtss2-" in _failure(base, root, KEY)
            _make_key(base, root, "/opt/bundled")
            for tcti in ("device:/dev/none", "mssim:host=127.0.0.1,port=1"):
                said = _failure(base, root, f"handle:0x81000100?tcti={tcti.replace('=', '%3D')}", "/opt/bundled")
                assert tcti.partition(",")[0].removeprefix("device:") in said, said
                assert "can't be loaded" not in said, said
    print("Both wheels of tpm2-pytss make keys in a TPM.", flush=True)


def _make_key(base: Path, root: Root, *folders: str) -> None:
    """Make a key in the TPM, and sign with it."""
    (base / "opt" / "key.tss2").unlink(missing_ok=True)
    _python(base, root, "-m", "hwsigner", "keygen", KEY, folders=folders)
    _request(base, root, KEY, *folders)


def _request(base: Path, root: Root, key: str, *folders: str) -> None:
    """Sign a certificate request, which OpenSSL of this machine verifies."""
    _python(base, root, "-m", "hwsigner", "csr", key, "--subject=CN=a", "--out=/opt/request.pem", folders=folders)
    _run("openssl", "req", "-verify", "-noout", "-in", str(base / "opt" / "request.pem"))
    (base / "opt" / "request.pem").unlink()


def _failure(base: Path, root: Root, key: str, *folders: str) -> str:
    """Return what csr says about a key that can't be used."""
    program = (*root.prefix, "/usr/bin/python3", "-m", "hwsigner", "csr", key, "--subject=CN=a")
    done = subprocess.run(_chroot(base, *program, folders=folders), check=False, capture_output=True, text=True)
    assert done.returncode == 3, done
    return done.stderr


@contextmanager
def _hidden(base: Path, *names: str) -> Iterator[None]:
    """Let a root not have libraries."""
    files = [file for name in names for file in base.glob(f"usr/lib/*/{name}")]
    assert files
    hidden = [file.rename(file.with_name(f"hidden-{file.name}")) for file in files]
    try:
        yield
    finally:
        for file, path in zip(hidden, files, strict=True):
            file.rename(path)


def _python(base: Path, root: Root, *arguments: str, folders: tuple[str, ...] = ()) -> str:
    return _run(*_chroot(base, *root.prefix, "/usr/bin/python3", *arguments, folders=folders))


def _chroot(base: Path, *command: str, folders: tuple[str, ...] = ()) -> tuple[str, ...]:
    # With a /proc of its own, and by this machine's env(1), since the root's may be of another architecture.
    path = ":".join([*folders, "/opt/hwsigner"])
    variables = ("PATH=/usr/sbin:/usr/bin", f"PYTHONPATH={path}", "HOME=/root")
    return ("/usr/bin/env", "-i", *variables, *ENTER, str(base), *command)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
