"""Use the Debian packages or the RPMs: the client alone, hwsigner with three kinds of keys, what lies around it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from packages.root import Root
from pages import ROOT

PIN = "1234"
MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TPM = "swtpm:path=/tmp/tpm"
KEYS = {
    "file": "/etc/hwsigner/file.pem",
    "token": f"pkcs11:token=web;object=key?module-path={MODULE}&pin-value={PIN}",
    "tpm": "tpm2:path=/etc/hwsigner/tpm.tss2",
}
VARIABLES = {"TPM2_TCTI": TPM}
NEEDS = ("bash-completion", "fish", "libtss2-tcti-swtpm0", "man-db", "openssl", "softhsm2", "swtpm", "systemd", "zsh")
CA = ("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=CA")
CA_USAGE = ("-addext", "keyUsage=critical,keyCertSign", "-keyout", "/tmp/ca.key", "-out", "/tmp/ca.pem")
LEAF = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
# A root with nothing but the client and the agent's socket, as a container may be.
ONLY = """
mkdir -p /only/usr/bin /only/run/hwsigner
cp /usr/bin/hwsigner-credentials /only/usr/bin
mount --bind /run/hwsigner /only/run/hwsigner
exec chroot /only /usr/bin/hwsigner-credentials --profile file
"""


def use_client(root: Root) -> None:
    """Run the client alone: without an agent, it looks for hwsigner."""
    assert not root.has("usr/bin/python3")
    alone = root.try_to("hwsigner-credentials", "--profile=web")
    message = "no agent gave credentials, and can't run /usr/bin/hwsigner. Start the agent, or install hwsigner there"
    assert (alone.returncode, alone.stderr) == (1, f"hwsigner: {message}\n"), alone


def use(root: Root, libraries: str, hint: str, boto3: str) -> None:
    """Get credentials with keys in a file, a token and a TPM, and look at what lies around the program.

    Args:
        root: the root, in which both packages are.
        libraries: the folder of the Python libraries.
        hint: the command that errors name for boto3.
        boto3: the command that installs it here.
    """
    version = root.run("hwsigner", "version", "--verbose")
    print(version, end="", flush=True)
    assert f"\ncanonicalisation: native ({libraries}/" in version
    modules = list(root.path.glob(f"{libraries[1:]}/lib/python3*/site-packages/**/*.py"))
    assert modules
    assert [each for each in modules if not list((each.parent / "__pycache__").glob(f"{each.stem}.*.pyc"))] == []
    # As hwsigner starts an agent, and other processes of its own.
    assert root.run(f"{libraries}/bin/python3", "-I", "-m", "hwsigner", "version") in version
    # No unit runs or is enabled before there is a profile.
    assert not list(root.path.glob("etc/systemd/*/*.wants/hwsigner*"))
    root.apt("install", "--no-install-recommends", *NEEDS)
    _check_units(root)
    _check_help(root)
    root.run(*CA, *CA_USAGE)
    with root.running("hwsigner", "emulator", "--trust-anchor=/tmp/ca.pem") as emulator, _tpm(root):
        printed = dict(emulator.readline().strip().split("=", 1) for _ in range(6))
        flags = [f"--{name}={value}" for name, value in printed.items() if "key" not in name]
        root.run("softhsm2-util", "--init-token", "--free", "--label=web", f"--pin={PIN}", f"--so-pin={PIN}")
        for name, key in KEYS.items():
            _certify(root, name, key)
            command = ("hwsigner", "credential-process", f"--certificate=/tmp/{name}.pem", f"--private-key={key}")
            assert "SessionToken" in json.loads(root.run(*command, *flags, **VARIABLES)), name
        _check_agent(root, flags)
        _check_aws(root, printed, hint, boto3)
    print("Credentials from a file, a token, a TPM and the agent; a plan by boto3.", flush=True)


def _certify(root: Root, name: str, key: str) -> None:
    """Make a key, and have the CA certify it."""
    root.run("hwsigner", "keygen", key, **VARIABLES)
    root.run("hwsigner", "csr", key, f"--subject=CN={name}", f"--out=/tmp/{name}.csr", **VARIABLES)
    (root.path / "tmp/leaf").write_text(LEAF)
    ca = ("-CA", "/tmp/ca.pem", "-CAkey", "/tmp/ca.key", "-extfile", "/tmp/leaf")
    root.run("openssl", "x509", "-req", "-in", f"/tmp/{name}.csr", *ca, "-out", f"/tmp/{name}.pem")


def _check_agent(root: Root, flags: list[str]) -> None:
    """Run the agent as the unit does, and ask it from a root that has only the client."""
    names = ("--certificate=/tmp/file.pem", f"--private-key={KEYS['file']}")
    root.run("hwsigner", "profile", "add", "file", *names, *flags)
    root.run("mv", "/root/.config/hwsigner/config.toml", "/etc/hwsigner/")
    for command in (("chgrp", "hwsigner"), ("chmod", "0640")):
        root.run(*command, "/etc/hwsigner/config.toml", KEYS["file"])
    config = root.path / "etc/hwsigner/config.toml"
    config.write_text(config.read_text() + 'allow-users = ["root"]\n')
    root.run("install", "-d", "-o", "hwsigner", "/run/hwsigner")
    with root.running("runuser", "-u", "hwsigner", "--", "hwsigner", "agent", "--system"):
        _wait(lambda: root.has("run/hwsigner/agent.sock"))
        # On a busy machine the first answer may come too late for the client.
        _wait(lambda: root.try_to("sh", "-ec", ONLY).returncode == 0)
        assert "SessionToken" in json.loads(root.run("sh", "-ec", ONLY))


def _check_aws(root: Root, printed: Mapping[str, str], hint: str, boto3: str) -> None:
    """The commands that call AWS use Debian's boto3, once it is there."""
    command = ("hwsigner", "aws", "setup", "--ca=/tmp/ca.pem", "--role=web", "--match=CN=file", "--plan")
    missing = root.try_to(*command)
    assert missing.stderr == f"hwsigner: this needs boto3. Run {hint}\n", missing
    root.run("sh", "-ec", boto3)
    keys = {f"AWS_{name.upper().replace('-', '_')}": printed[name] for name in ("access-key-id", "secret-access-key")}
    # Debian 12's boto3 does not read the first variable by itself.
    service = {"AWS_ENDPOINT_URL": printed["endpoint"], "AWS_DEFAULT_REGION": "us-east-1"}
    assert "role: create 'web'" in root.run(*command, **service, **keys)


def _check_units(root: Root) -> None:
    """systemd finds nothing to warn of, and hwsigner does not write the units again."""
    for kind in ("system", "user"):
        folder = root.path / "usr/lib/systemd" / kind
        units = [f"/{unit.relative_to(root.path)}" for unit in folder.glob("hwsigner-*")]
        ours = {unit.name for unit in (ROOT / "hwsigner" / "_units" / kind).iterdir()}
        assert {Path(unit).name for unit in units} == ours
        named = [unit.replace("@.", "@web.") for unit in units]
        verified = root.try_to("systemd-analyze", f"--{kind}", "verify", *named, XDG_RUNTIME_DIR="/run")
        warnings = [line for line in verified.stderr.splitlines() if "hwsigner" in line]
        assert (verified.returncode, warnings) == (0, []), verified
    assert root.run("getent", "passwd", "hwsigner")
    refused = root.try_to("hwsigner", "systemd", "install", "--system")
    assert (refused.returncode, "a package has put the units" in refused.stderr) == (2, True), refused


def _check_help(root: Root) -> None:
    """Man pages, documentation and completions are where programs look for them."""
    for name in ("hwsigner", "hwsigner-aws-check", "hwsigner-credentials"):
        assert re.search(r"\bNAME\n +hwsigner", root.run("man", name, MANPAGER="cat")), name
    assert root.run("hwsigner", "help", "agent").count("\n") > 100
    assert root.run("ls", "/usr/share/doc/hwsigner/docs/how-to/agent.md")
    # The loader of Debian 13, or that of Debian 12.
    load = "{ _comp_load hwsigner || _completion_loader hwsigner; } 2>/dev/null || true"
    source = "source /usr/share/bash-completion/bash_completion"
    assert "-F" in root.run("bash", "-c", f"{source}; {load}; complete -p hwsigner")
    for shell, command in {
        "zsh": "autoload -Uz compinit && compinit -D && echo $_comps[hwsigner]",
        "fish": "complete --do-complete 'hwsigner credential-p'",
    }.items():
        found = root.run(shell, "-c", command)
        assert "hwsigner" in found or "credential-process" in found, (shell, found)


@contextmanager
def _tpm(root: Root) -> Iterator[None]:
    """Run an emulated TPM."""
    (root.path / "tmp/state").mkdir()
    sockets = ("--server", "type=unixio,path=/tmp/tpm", "--ctrl", "type=unixio,path=/tmp/tpm.ctrl")
    options = ("--tpm2", "--tpmstate", "dir=/tmp/state", "--flags", "not-need-init,startup-clear")
    with root.running("swtpm", "socket", *options, *sockets):
        _wait(lambda: root.has("tmp/tpm"))
        yield


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.1)
