"""Bare Debian roots for builds and tests, and the wheels that go into them. They need root, and mmdebstrap."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A command's own mounts and processes, which end with it.
ENTER = ("/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--wd=/", "--root")
PYTHON = "/usr/bin/python3"  # Debian's, of this machine and in each root.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def bootstrap(suite: str, target: Path, packages: Sequence[str], *options: str) -> None:
    """Make a root of a Debian suite with its security updates, as a folder or, by the target's name, a tar file."""
    included = [f"--include={','.join(packages)}"] if packages else []
    for _ in range(3):
        with suppress(subprocess.CalledProcessError):
            call("mmdebstrap", "--quiet", "--aptopt=Acquire::Retries 10", *options, *included, suite, target)
            return
        shutil.rmtree(target, ignore_errors=True)  # mmdebstrap takes an empty folder only.
    raise SystemExit(
        f"mmdebstrap can't make a root of Debian's {suite} and says why above. If the mirror no longer has it, or one "
        "of the packages, name what came after it"
    )


def archive(folder: Path, name: str, suite: str, packages: Sequence[str], *options: str) -> Path:
    """Return a tar file of a minimal root with these packages, made anew when they or mmdebstrap's options change."""
    path = folder / f"{name}-{digest(' '.join([suite, *packages, *options]))}.tar"
    if not path.exists():
        print(f"Making the root {path.name} …", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new.tar")
        bootstrap(suite, new, packages, "--variant=minbase", *options)
        new.replace(path)
    return path


def unpack(path: Path, root: Path) -> None:
    """Unpack an archive into a new folder, as root, which keeps users and devices. Share this machine's network."""
    root.mkdir()
    call("tar", "--extract", "--file", path, "--directory", root, "--numeric-owner")
    for file in (Path("/etc/resolv.conf"), AUTHORITIES):
        copy = root / file.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        copy.write_bytes(file.read_bytes())


def entering(
    root: Path, *command: str | Path, variables: Mapping[str, str] | None = None, online: bool = True
) -> list[str]:
    """Return the command that runs another one in a root, as root, without this machine's environment."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **(variables or {})}
    settings = [f"{name}={value}" for name, value in environment.items()]
    enter = [ENTER[0], *([] if online else ["--net"]), *ENTER[1:]]
    return ["/usr/bin/env", "-i", *settings, *enter, str(root), *map(str, command)]


def wheels(folder: Path, name: str) -> Path:
    """Return a folder with the wheels that requirements/NAME.txt pins, for Debian's Python of this machine.

    It is in `folder`, made anew when their versions or that of Python change.
    """
    needs = ROOT / "packaging" / "requirements" / f"{name}.txt"
    version = subprocess.run([PYTHON, "--version"], check=True, capture_output=True, text=True).stdout
    path = folder / f"wheels-{digest(version + needs.read_text())}"
    if not path.exists():
        print(f"Making the wheels of {needs.name} …", flush=True)
        new = folder / "wheels.new"
        shutil.rmtree(new, ignore_errors=True)
        call(ROOT / ".ci" / "environment", folder / "builder", PYTHON, "build")
        pip = (folder / "builder" / "bin" / "python", "-m", "pip", "--quiet", "wheel", "--wheel-dir", new)
        call_thrice(*pip, "--require-hashes", "--no-deps", "--no-build-isolation", "--requirement", needs)
        new.rename(path)
    return path


def download(root: Path, pins: Path, folder: Path, kept: Path, *choices: str) -> None:
    """Put what a file pins by hash into a new folder of a root, as the root's pip downloads it.

    Args:
        root: the root, which has python3-pip.
        pins: the file of requirements, in the root.
        folder: the new folder, in the root.
        kept: the beginning of the name of a folder that keeps the files until the pins change.
        choices: options of pip, such as for another version of Python: one download for each. Without any, one
            download for the root's own Python.
    """
    store = kept.with_name(f"{kept.name}-{digest(' '.join([pins.read_text(), *choices]))}")
    if not store.exists():
        pip = (PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", "--retries=10", "download")
        options = ["--no-deps", "--require-hashes"]
        options += [f"--dest=/{folder.relative_to(root)}", f"--requirement=/{pins.relative_to(root)}"]
        for choice in choices or ("",):
            command = (*pip, *options, *choice.split())
            call_thrice(*entering(root, *command, variables={"PIP_CERT": str(AUTHORITIES)}))
        new = store.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(folder, new)
        new.rename(store)
    else:
        shutil.copytree(store, folder)


def digest(text: str) -> str:
    """Return a short digest of a text, for the name of a file that is made from it."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def call(*command: str | Path) -> None:
    """Run a command that must succeed."""
    words = [str(word) for word in command]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)


def call_thrice(*command: str | Path) -> None:
    """Run a command, again if it fails: mirrors and package indexes are away at times."""
    for _ in range(2):
        with suppress(subprocess.CalledProcessError):
            call(*command)
            return
    call(*command)


def extract(source: Path, folder: Path) -> None:
    """Unpack a source distribution."""
    with tarfile.open(source) as opened:
        opened.extractall(folder, filter="data")
