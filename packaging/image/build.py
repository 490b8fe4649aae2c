"""Build the container images, without a registry: `python packaging/image/build.py DIST FOLDER`.

- hwsigner: the files of those Debian packages that it needs, by mmdebstrap, and the wheel with its libraries in
  /opt/hwsigner. There is no shell in it.
- hwsigner-credentials: that program and its licences.

DIST has the wheels of `make wheels`, and gets an OCI archive for each image. FOLDER keeps what is slow to make: the
Debian root and the wheels of the libraries. Needs root, Debian 13 and its Python. Two runs write the same bytes if
FOLDER is kept; SOURCE_DATE_EPOCH dates the files.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from roots import ENTER, PYTHON, digest, wheels

SUITE = "trixie"
MIRRORS = (
    f"deb http://deb.debian.org/debian {SUITE} main",
    f"deb http://deb.debian.org/debian {SUITE}-updates main",
    f"deb http://deb.debian.org/debian-security {SUITE}-security main",
)
LIBRARY = "usr/lib/python3.13"
EXTRAS = ("pkcs11", "tpm2", "serve", "pods")
PACKAGES = (
    "base-files",
    "ca-certificates",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-fapi1t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-policy0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "libtss2-tcti-spi-helper0t64",
    "libtss2-tcti-swtpm0t64",
    "libtss2-tctildr0t64",
    "netbase",
    "p11-kit-modules",
    "python3",
)
# What these packages depend on for their installation, or for what hwsigner does not do.
UNUSED = {"debconf", "dpkg", "libdb5.3t64", "mawk", "media-types", "tpm-udev", "tzdata"}
# Files that no package owns, because their installation makes them.
MADE = ("etc/group", "etc/ld.so.cache", "etc/nsswitch.conf", "etc/passwd", "etc/ssl/certs")
WITHOUT = ("usr/lib/x86_64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/gconv", f"{LIBRARY}/test")
# The agent trusts its own user, so hwsigner's is one that no other image has. Not 65534, which stands for every user
# that a user namespace does not map.
UID = 29912
CLIENT_UID = 65532
USER = f"hwsigner:x:{UID}:{UID}:hwsigner:/:/usr/sbin/nologin\n"
ABOUT = "AWS credentials from an X.509 certificate whose key stays in a TPM 2.0, a PKCS #11 token or a file"
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315619200"))  # Without the variable 1980, as in the wheels.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MACHINE = platform.machine()
CLEAN = {"PATH": "/usr/sbin:/usr/bin", "PYTHONPATH": "", "SOURCE_DATE_EPOCH": str(EPOCH)}


def main(dist: str, folder: str) -> int:
    """Build both images and return the exit status."""
    os.umask(0o022)  # The image has the modes of the files that are made here.
    found = sorted(Path(dist).resolve().glob(f"hwsigner-*-manylinux_*_{MACHINE}.whl"))
    if len(found) != 1:
        raise SystemExit(f"{dist} must have one wheel for {MACHINE}: run make wheels first")
    (wheel,) = found
    kept = Path(folder).resolve()
    kept.mkdir(parents=True, exist_ok=True)
    base = _base(kept)
    _install(base, wheel, wheels(kept, "machine"))
    version = wheel.name.split("-")[1]
    files = _layer((base / name, name) for name in sorted(_selection(base)))
    _write(Path(dist), "hwsigner", version, files, entry="/opt/hwsigner/bin/hwsigner", about=ABOUT)
    name = "hwsigner-credentials"
    licences = sorted((base / "opt/hwsigner").glob("lib/python3*/site-packages/hwsigner-*.dist-info/licenses/*"))
    files = _layer((path, path.name) for path in (base / "opt/hwsigner/bin" / name, *licences))
    _write(Path(dist), name, version, files, entry=f"/{name}", about="Client of the agent of hwsigner")
    return 0


def _base(kept: Path) -> Path:
    """Return a folder with a Debian root, made at the first call."""
    path = kept / f"root-{digest(repr((PACKAGES, MIRRORS)))}"
    if not path.exists():
        print("Making the Debian root …", flush=True)
        new = kept / "root.new"
        shutil.rmtree(new, ignore_errors=True)
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
        options = ("--quiet", "--variant=essential", "--aptopt=Acquire::Retries 10", *excluded)
        licences = "--dpkgopt=path-include=/usr/share/doc/*/copyright"
        _run("mmdebstrap", *options, licences, f"--include={','.join(PACKAGES)}", SUITE, new, *MIRRORS)
        new.rename(path)
    path.chmod(0o700)  # It has programs that run as root, and gets no security updates.
    return path


def _install(base: Path, wheel: Path, libraries: Path) -> None:
    """Install hwsigner with its libraries into /opt/hwsigner of the root, by this machine's pip."""
    for made in ("wheels", "opt/hwsigner"):
        shutil.rmtree(base / made, ignore_errors=True)
    shutil.copytree(libraries, base / "wheels")
    shutil.copy(wheel, base / "wheels")
    (pip,) = Path("/usr/share/python-wheels").glob("pip-*.whl")
    shutil.copy(pip, base / "wheels")
    enter = (*ENTER, base)
    _run(*enter, PYTHON, "-m", "venv", "--without-pip", "/opt/hwsigner")
    options = ("--quiet", "--no-compile", "--no-cache-dir", "--no-index", "--find-links=/wheels")
    names = f"hwsigner[{','.join(EXTRAS)}]"
    _run(*enter, "/opt/hwsigner/bin/python", f"/wheels/{pip.name}/pip", "install", *options, names)
    # The libraries' wheels have symbols for debuggers: 28 MB.
    _run("strip", "--strip-unneeded", *(base / "opt/hwsigner/lib").rglob("*.so"))
    # Python can't write them in a read-only image. Unchecked: the dates of the sources change.
    compileall = ("compileall", "-q", "-f", "--invalidation-mode=unchecked-hash")
    _run(*enter, PYTHON, "-m", *compileall, f"/{LIBRARY}", "/opt/hwsigner/lib")
    print(_run(*enter, "/opt/hwsigner/bin/hwsigner", "version", "--verbose"), flush=True)
    shutil.rmtree(base / "wheels")


def _selection(base: Path) -> set[str]:
    """Return the paths that go into the image, relative to the root."""
    packages = _needed(base)
    _describe(base, packages)
    paths = {"var/lib/dpkg/status", "tmp", *MADE}
    for package in packages:
        for suffix in ("", f":{ARCHITECTURES[MACHINE]}"):
            listed = base / f"var/lib/dpkg/info/{package}{suffix}.list"
            if listed.exists():
                paths.update(line.lstrip("/") for line in listed.read_text().splitlines()[1:])
    for folder in ("opt/hwsigner", LIBRARY, "etc/ssl/certs"):
        paths.update(str(path.relative_to(base)) for path in (base / folder).rglob("*"))
    paths.update(str(parent) for path in set(paths) for parent in Path(path).parents if parent.name)
    return {path for path in paths if os.path.lexists(base / path) and not path.startswith(WITHOUT)}


def _needed(base: Path) -> set[str]:
    """Return PACKAGES and those that they depend on, but for UNUSED."""
    table = _run("dpkg-query", "--root", base, "--show", "--showformat", "${Package}\t${Pre-Depends}, ${Depends}\n")
    depends = {}
    for line in table.splitlines():
        name, _, needs = line.partition("\t")
        depends[name] = re.findall(r"(?:^|[,|]) *([a-z0-9][a-z0-9+.-]*)", needs)
    found: set[str] = set()
    waiting = list(PACKAGES)
    while waiting:
        name = waiting.pop()
        if name in depends and name not in found | UNUSED:
            found.add(name)
            waiting.extend(depends[name])
    return found


def _describe(base: Path, packages: set[str]) -> None:
    """Let dpkg's status name the packages of the image alone, for programs that look for known flaws; add the user."""
    status = base / "var/lib/dpkg/status"
    whole = base / "var/lib/dpkg/status-all"
    if not whole.exists():
        shutil.copy(status, whole)
    paragraphs = whole.read_text().split("\n\n")
    kept = [text for text in paragraphs if text.removeprefix("Package: ").partition("\n")[0] in packages]
    status.write_text("\n\n".join(kept) + "\n")
    for name, line in (("passwd", USER), ("group", f"hwsigner:x:{UID}:\n")):
        file = base / "etc" / name
        lines = [each for each in file.read_text().splitlines(keepends=True) if not each.startswith("hwsigner:")]
        file.write_text("".join([*lines, line]))


def _layer(files: Iterable[tuple[Path, str]]) -> bytes:
    """Return a tar file. Everything in it belongs to root."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, name in files:
            info = tar.gettarinfo(path, name)
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = EPOCH
            info.mode &= ~0o6000
            if info.isreg():
                with path.open("rb") as file:
                    tar.addfile(info, file)
            else:
                tar.addfile(info)
    return data.getvalue()


def _write(dist: Path, name: str, version: str, layer: bytes, *, entry: str, about: str) -> None:
    """Write an image of one layer as an OCI archive (image-spec 1.1)."""
    packed = gzip.compress(layer, mtime=0)
    created = datetime.fromtimestamp(EPOCH, UTC).isoformat().replace("+00:00", "Z")
    labels = {"title": name, "description": about, "version": version, "licenses": "Apache-2.0", "created": created}
    uid = UID if name == "hwsigner" else CLIENT_UID
    config = {
        "created": created,
        "architecture": ARCHITECTURES[MACHINE],
        "os": "linux",
        "config": {
            "User": f"{uid}:{uid}",
            "Env": ["PATH=/opt/hwsigner/bin:/usr/bin", "LANG=C.UTF-8"],
            "Entrypoint": [entry],
            "WorkingDir": "/",
            "Labels": {f"org.opencontainers.image.{key}": value for key, value in labels.items()},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": created, "created_by": "packaging/image/build.py"}],
    }
    blobs = dict(_blobs(packed, config, f"localhost/{name}:{version}"))
    path = dist / f"{name}-{version}-{ARCHITECTURES[MACHINE]}.oci.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for member, content in blobs.items():
            info = tarfile.TarInfo(member)
            info.size, info.mtime = len(content), EPOCH
            tar.addfile(info, io.BytesIO(content))
    print(f"{path.name}: {len(layer):,} bytes, {path.stat().st_size:,} compressed", flush=True)


def _blobs(layer: bytes, config: dict[str, Any], reference: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of an OCI layout."""

    def describe(content: bytes, kind: str) -> dict[str, Any]:
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}

    settings = json.dumps(config).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe(settings, "config.v1+json"),
            "layers": [describe(layer, "layer.v1.tar+gzip")],
        }
    ).encode()
    # The name of the image, for podman and for containerd.
    names = {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference}
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**describe(manifest, "manifest.v1+json"), "annotations": names}],
    }
    yield "oci-layout", b'{"imageLayoutVersion": "1.0.0"}'
    yield "index.json", json.dumps(index).encode()
    for content in (manifest, settings, layer):
        yield f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content


def _run(*command: str | Path) -> str:
    words = [str(part) for part in command]
    environment = {**os.environ, **CLEAN}
    done = subprocess.run(
        words, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
