"""`hwsigner tpm2 encode`: files of keys that tpm2-tools made. Those who read them judge: hwsigner, tpm2-openssl."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from backends.conftest import refused_auth, tools
from backends.tpms import NODA, PASSWORD, Tools, openssl_signs
from scene import Outcome, Scene

__all__ = ["refused_auth", "tools"]

Call = Callable[..., Outcome]


@pytest.fixture
def encode(call: Call, tools: Tools) -> Call:
    """Encode the key that was made last, into a file if all goes well."""

    def run(*flags: str) -> Outcome:
        parts = ["--public", str(tools.path("public")), "--private", str(tools.path("private"))]
        outcome = call("tpm2", "encode", *parts, *flags)
        if outcome.status == 0:
            tools.path("key.pem").write_text(outcome.out)
        return outcome

    return run


@pytest.fixture
def sign(call: Call, tools: Tools) -> Callable[..., int]:
    """Return the status of sign-string with the encoded file."""

    def run(*flags: str) -> int:
        return call("sign-string", "--private-key", tools.path("key.pem"), "--tcti", tools.tpm.tcti, *flags).status

    return run


def create_by_policy(tools: Tools, *commands: tuple[str, ...]) -> None:
    """Create a key with a policy of these tpm2_policy… commands and no other authorization."""
    session, digest = str(tools.path("session")), str(tools.path("digest"))
    tools.run("tpm2_startauthsession", "-S", session, flush=False)
    for name, *arguments in commands:
        tools.run(f"tpm2_policy{name}", "-Q", "-S", session, "-L", digest, *arguments, flush=False)
    tools.run("tpm2_flushcontext", session)
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|sign"
    tools.key_file(attributes=attributes, auth=PASSWORD, policy=digest)


@pytest.mark.parametrize("auth", ["", PASSWORD])
def test_a_key_of_tpm2_create(tools: Tools, encode: Call, sign: Callable[..., int], auth: str) -> None:
    tools.key_file(auth=auth, primary=("-G", "ecc", *NODA))
    assert encode(*(["--auth"] if auth else [])).status == 0
    flags = ["--tpm-key-password", auth] if auth else []
    assert sign(*flags) == 0
    assert openssl_signs(tools, tools.path("key.pem"), auth)


def test_a_key_of_tpm2_duplicate(tools: Tools, encode: Call, sign: Callable[..., int]) -> None:
    context, parent = str(tools.path("parent.ctx")), tools.path("parent.pub")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", context, *NODA)
    tools.run("tpm2_readpublic", "-Q", "-c", context, "-o", str(parent))
    tools.duplicated(parent)
    assert encode("--seed", str(tools.path("seed"))).status == 0
    assert sign() == 0


@pytest.mark.parametrize("parent", ["null", "0x81004721"])
def test_its_parent(tools: Tools, encode: Call, sign: Callable[..., int], parent: str) -> None:
    tools.key_file(primary=("-G", "ecc", "-C", "n" if parent == "null" else "o"))
    if parent != "null":
        tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", str(tools.path("primary")), parent)
    try:
        assert encode("--parent", parent, "--description", "of ours").status == 0
        assert sign() == 0
    finally:
        if parent != "null":
            tools.run("tpm2_evictcontrol", "-Q", "-C", "o", "-c", parent)


def test_its_policy(tools: Tools, encode: Call, sign: Callable[..., int]) -> None:
    create_by_policy(tools, ("pcr", "-l", "sha256:0,16,23"), ("authvalue",))
    steps = ("--policy", "pcr:sha256:23,0,16", "--policy", "auth-value", "--auth", "--tcti", tools.tpm.tcti)
    assert encode(*steps).status == 0
    assert sign("--tpm-key-password", PASSWORD) == 0


@pytest.mark.parametrize(
    ("steps", "status", "fault"),
    [
        ((), 3, "has a policy that its file does not list"),
        (("pcr:sha256:0,16",), 3, "is not that of its key"),
        (("pcr:sha256:0,16,23",), 3, "is not that of its key"),
        (("auth-value", "pcr:sha256:0,16,23"), 3, "is not that of its key"),
        (("pcr:sha256:24",), 2, "the step 'pcr:sha256:24'"),
        (("pcr:md5:0",), 2, "the step 'pcr:md5:0'"),
        (("pcr:sha256:",), 2, "the step 'pcr:sha256:'"),
        (("signed",), 2, "the step 'signed'"),
    ],
)
def test_a_policy_that_is_not_the_key_s(
    tools: Tools, encode: Call, steps: tuple[str, ...], status: int, fault: str
) -> None:
    create_by_policy(tools, ("pcr", "-l", "sha256:0,16,23"), ("authvalue",))
    flags = [part for step in steps for part in ("--policy", step)]
    outcome = encode(*flags, "--tcti", tools.tpm.tcti)
    assert (outcome.status, outcome.out) == (status, "")
    assert fault in outcome.err


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["encode"], "no --public is given"),
        (["encode", "--public", "/dev/null"], "no --private is given"),
        (
            ["encode", "--public", "/hwsigner-none", "--private", "/dev/null"],
            "can't read the --public file /hwsigner-none",
        ),
        (["decode"], "tpm2 has no action 'decode'"),
    ],
)
def test_usage(call: Call, flags: list[str], fault: str) -> None:
    outcome = call("tpm2", *flags)
    assert (outcome.status, outcome.out) == (2, "")
    assert fault in outcome.err


@pytest.mark.parametrize("parent", ["lockout", "0x80000001", "0x82000000", "81000001", "0x8100000"])
def test_a_parent_that_can_not_be(tools: Tools, encode: Call, parent: str) -> None:
    tools.key_file()
    outcome = encode("--parent", parent)
    assert (outcome.status, outcome.out) == (2, "")
    assert f"the parent is {parent!r}" in outcome.err


@pytest.mark.parametrize("part", ["public", "private", "seed"])
def test_a_part_that_is_damaged(tools: Tools, encode: Call, part: str) -> None:
    tools.key_file()
    path = tools.path(part)
    path.write_bytes(path.read_bytes() + b"?" if path.exists() else b"?")
    outcome = encode(*(["--seed", str(path)] if part == "seed" else []))
    assert (outcome.status, outcome.out) == (3, "")
    assert "is damaged" in outcome.err


def test_certificate_and_key_in_one_tpm(scene: Scene, tools: Tools) -> None:
    """What `hwsigner tpm2 encode` is for in the end. `--tcti` is for both URIs."""
    tools.key_file()
    certificate = certs.issue(scene.ca, tools.public_key()).public_bytes(Encoding.DER)
    path = tools.path("leaf.der")
    path.write_bytes(certificate)
    tools.run(
        "tpm2_nvdefine", "-Q", "0x1c10000", "-C", "o", "-s", str(len(certificate) + 9), "-a", "ownerwrite|authread"
    )
    tools.run("tpm2_nvwrite", "0x1c10000", "-C", "o", "-i", str(path))
    try:
        names: dict[str, str | Path | None] = {"certificate": "tpm2:nv=0x1c10000", "private_key": tools.path("key.pem")}
        assert scene.credentials("--tcti", tools.tpm.tcti, **names).status == 0
        read = scene.call("read-certificate-data", "--certificate", "tpm2:nv=0x1c10000", "--tcti", tools.tpm.tcti)
        assert json.loads(read.out)["certificateData"] == base64.b64encode(certificate).decode()
        alone = scene.credentials("--tcti", tools.tpm.tcti, certificate="tpm2:nv=0x1c10000", private_key=None)
        assert alone.status == 2
        assert "names a certificate and no key" in alone.err
    finally:
        tools.run("tpm2_nvundefine", "-C", "o", "0x1c10000")
