"""`hwsigner list`: its output as JSON, as lines and as a table."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import certs
from backends.contract import ENVIRONMENT
from backends.pkcs11.tokens import remove_tokens
from emulators import InProcessSoftHSM
from hwsigner._uri import KeyURI
from hwsigner.errors import BackendUnavailableError
from hwsigner.key.listing import ListedObject, ListedToken
from scene import Outcome

ROOT = Path(__file__).parents[2]
ODD_LABEL = "[red]evil\x1b]0;title\x07\u202e"


@pytest.fixture(scope="module")
def hsm(softhsm: InProcessSoftHSM) -> Iterator[InProcessSoftHSM]:
    """A token with keys, a certificate, and a label with terminal control characters; and an empty token."""
    token = softhsm.label
    softhsm.add_token("empty")
    softhsm.label = token
    for label, key_id, kind in (("web", b"\x01", "EC:prime256v1"), ("rsa", b"\x02", "rsa:2048")):
        softhsm.generate(label, key_id, kind)
    softhsm.generate(ODD_LABEL, b"\x0a\xff", "EC:secp384r1")
    leaf = certs.issue(certs.make_ca(), softhsm.public_key(b"\x01"))
    softhsm.write_certificate(leaf.public_bytes(Encoding.DER), "web", b"\x01")
    yield softhsm
    remove_tokens(softhsm, token, "empty")


@pytest.fixture
def uri(hsm: InProcessSoftHSM) -> str:
    return f"pkcs11:token={hsm.label}"


@pytest.fixture
def run(hsm: InProcessSoftHSM, call: Callable[..., Outcome]) -> Callable[..., Outcome]:
    return lambda *arguments: call("list", *arguments, "--pkcs11-lib", hsm.module)


def tokens(outcome: Outcome) -> list[dict[str, Any]]:
    assert (outcome.status, outcome.err) == (0, "")
    listed: list[dict[str, Any]] = json.loads(outcome.out)["tokens"]
    return listed


def test_json_shows_hidden_keys_without_a_login(run: Callable[..., Outcome], hsm: InProcessSoftHSM, uri: str) -> None:
    (token,) = tokens(run(uri, "--json"))
    assert (token["label"], token["pinState"]) == (hsm.label, "good")
    assert os.path.samefile(token["module"], hsm.module)
    assert (token["wantsLogin"], token["pinPad"]) == (True, False)
    keys = {key["id"]: key for key in token["keys"]}
    assert {key_id: key["algorithm"] for key_id, key in keys.items()} == {
        "01": "EC P-256",
        "02": "RSA 2048",
        "0aff": "EC P-384",
    }
    assert all(key["hiddenUntilLogin"] for key in keys.values())
    assert keys["0aff"]["label"] == ODD_LABEL
    (certificate,) = token["certificates"]
    assert (certificate["label"], certificate["id"], certificate["algorithm"]) == ("web", "01", "EC P-256")
    assert certificate["subject"].startswith("CN=bamboo-01")


def test_json_shows_all_keys_after_a_login(run: Callable[..., Outcome], uri: str) -> None:
    (token,) = tokens(run(f"{uri}?pin-value=1234", "--json", "--login", "--strict=false"))
    assert len(token["keys"]) == 3
    assert not any(key["hiddenUntilLogin"] for key in token["keys"])


def test_pin_state_is_that_after_the_login(run: Callable[..., Outcome], uri: str) -> None:
    assert run(f"{uri}?pin-value=4711", "--login").status == 3
    (token,) = tokens(run(uri, "--json"))
    assert token["pinState"] == "an earlier try failed"
    (token,) = tokens(run(f"{uri}?pin-value=1234", "--json", "--login", "--allow-final-pin-try"))
    assert token["pinState"] == "good"


def test_listed_uris_open_keys_and_certificates(
    run: Callable[..., Outcome], call: Callable[..., Outcome], uri: str
) -> None:
    (token,) = tokens(run(uri, "--json"))
    for key in token["keys"]:
        signed = call("sign-string", "--private-key", f"{key['uri']}&pin-value=1234")
        assert signed.status == 0, signed.err
    (certificate,) = token["certificates"]
    read = call("read-certificate-data", "--certificate", certificate["uri"])
    assert f"URI: {certificate['uri']}" in read.out
    (again,) = tokens(call("list", token["uri"], "--json"))
    assert again == token


def test_uri_narrows_the_list(run: Callable[..., Outcome], uri: str) -> None:
    (token,) = tokens(run(f"{uri};id=%02", "--json"))
    assert [key["label"] for key in token["keys"]] == ["rsa"]
    assert token["certificates"] == []
    assert {token["label"] for token in tokens(run("--json"))} >= {"empty", uri.partition("=")[2]}


def test_lines_are_fields_separated_by_tabs(run: Callable[..., Outcome], uri: str) -> None:
    rows = [line.split("\t") for line in run(uri).out.splitlines()]
    assert {len(row) for row in rows} == {8}
    assert rows[0] == ["KIND", "LABEL", "ALGORITHM", "ID", "EXPIRES", "LOGIN", "PIN", "URI"]
    by_kind = [row[0] for row in rows[1:]]
    assert by_kind == ["token", "key", "key", "key", "certificate"]
    assert rows[1][5:7] == ["needed", "good"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", rows[-1][4])


def test_message_on_stderr_says_that_no_token_matches(run: Callable[..., Outcome]) -> None:
    said = "hwsigner: no token matches pkcs11:token=nonesuch. Without a URI, list shows all\n"
    assert run("pkcs11:token=nonesuch") == Outcome(0, "", said)
    assert json.loads(run("pkcs11:token=nonesuch", "--json").out) == {"tokens": []}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("/etc/key.pem",), 2, "is neither a pkcs11: nor a tpm2: URI"),
        (("tpm",), 2, "Write tpm2: for the TPM"),
        (("pkcs11:token=a", "pkcs11:token=b"), 2, "unexpected argument"),
        (("tpm2:handle=1",), 2, "tpm2: URIs have no attribute 'handle'"),
        (("pkcs11:tokn=x",), 2, "'tokn'"),
        (("pkcs11:", "--login"), 3, "a PIN goes to one"),
        (("pkcs11:token=empty?pin-source=file:/nonexistent", "--login"), 3, "/nonexistent"),
    ],
)
def test_invalid_arguments_are_errors_with_their_exit_status(
    run: Callable[..., Outcome], arguments: tuple[str, ...], status: int, words: str
) -> None:
    outcome = run(*arguments)
    assert (outcome.status, outcome.out) == (status, "")
    assert words in outcome.err


def test_missing_module_is_an_error(call: Callable[..., Outcome]) -> None:
    outcome = call("list", "--pkcs11-lib", "/nowhere.so")
    assert (outcome.status, outcome.out) == (3, "")
    assert "/nowhere.so does not exist" in outcome.err


def test_pin_is_in_no_output(run: Callable[..., Outcome], uri: str) -> None:
    for flags in ((), ("--json",), ("--login",), ("--login", "--json")):
        outcome = run(f"{uri}?pin-value=1234&pin-source=file:/nonexistent", *flags)
        assert outcome.status == 0
        assert "pin-" not in outcome.out + outcome.err


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_control_characters_are_escaped_in_the_output(
    run: Callable[..., Outcome], uri: str, flags: tuple[str, ...]
) -> None:
    outcome = run(uri, *flags)
    assert outcome.out.replace("\n", "").replace("\t", "").isprintable()
    assert "evil\\x1b]0;title\\x07\\u202e" in outcome.out.replace("\\u001b", "\\x1b").replace("\\u0007", "\\x07")


def test_list_ends_quietly_when_its_reader_has_gone(hsm: InProcessSoftHSM) -> None:
    for flags in ((), ("--json",)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "hwsigner", "list", *flags, "--pkcs11-lib", hsm.module]
        environment = {**ENVIRONMENT, **hsm.env, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, b"")


def test_key_that_two_modules_see_is_listed_once(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]) -> None:
    def token(module: str, *publics: bytes) -> ListedToken:
        keys = tuple(ListedObject("key", "web", one, f"{module}:{one.hex()}", public_key=one) for one in publics)
        return ListedToken(module, "t", "m", "m", "1", 0, f"pkcs11:{module}", True, False, "good", keys)

    listed = [token("a", b"1", b"1"), token("a", b"1"), token("b", b"1"), token("b", b"1", b"2"), token("b")]
    monkeypatch.setattr("hwsigner._cli.list.list_tokens", lambda *_, **__: iter(listed))
    rows = [line.split("\t") for line in call("list", "pkcs11:").out.splitlines()[1:]]
    uris = ["pkcs11:a", "a:31", "a:31", "pkcs11:a", "a:31", "pkcs11:b", "b:32", "pkcs11:b"]
    assert [row[-1] for row in rows] == uris


@pytest.mark.parametrize(
    ("label", "manufacturer", "slot"),
    [("YubiKey PIV #1", "Yubico (www.yubico.com)", "9c"), ("Jo Doe", "piv_II", "9c"), ("piano", "m", None)],
)
def test_slot_of_a_piv_card_is_named(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome], label: str, manufacturer: str, slot: str | None
) -> None:
    key = ListedObject("key", "web", b"\x02", "pkcs11:x")
    token = ListedToken("/m.so", label, manufacturer, "m", "1", 0, "pkcs11:t", True, False, "good", (key,))
    monkeypatch.setattr("hwsigner._cli.list.list_tokens", lambda *_, **__: iter([token]))
    assert call("list", "pkcs11:").out.splitlines()[2].split("\t")[1] == ("web (slot 9c)" if slot else "web")
    assert json.loads(call("list", "pkcs11:", "--json").out)["tokens"][0]["keys"][0]["pivSlot"] == slot


def test_module_that_can_not_be_used_is_a_warning_when_a_tpm_is_listed(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]
) -> None:
    tpm = ListedToken("device:/dev/tpmrm0", "TPM", "", "TPM 2.0", "", 0, "tpm2:", False, False, "not set")

    def find(uri: KeyURI, *_: object, **__: object) -> Iterator[ListedToken]:
        if uri.scheme == "pkcs11":
            raise BackendUnavailableError("PKCS #11 module /m.so can't be used", "Install it again")
        yield tpm

    monkeypatch.setattr("hwsigner._cli.list.list_tokens", find)
    outcome = call("list", "--json")
    assert outcome.status == 0
    assert [token["label"] for token in json.loads(outcome.out)["tokens"]] == ["TPM"]
    assert outcome.err == "hwsigner: warning: PKCS #11 module /m.so can't be used. Install it again\n"


def on_a_terminal(hsm: InProcessSoftHSM, *arguments: str) -> str:
    """Return the output of the command on a terminal with 100 columns."""
    leader, follower = pty.openpty()
    environment = {
        **ENVIRONMENT,
        **hsm.env,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }
    command = [sys.executable, "-m", "hwsigner", "list", *arguments, "--pkcs11-lib", hsm.module]
    with subprocess.Popen(command, env=environment, stdout=follower, stderr=subprocess.PIPE) as process:
        os.close(follower)
        written = b""
        try:
            while block := os.read(leader, 65536):
                written += block
        except OSError:
            pass  # The command has closed the terminal.
        assert process.stderr is not None
        assert (process.wait(30), process.stderr.read()) == (0, b"")
    os.close(leader)
    return written.decode()


def test_terminal_gets_a_table_and_each_uri_on_a_line(hsm: InProcessSoftHSM, uri: str) -> None:
    written = on_a_terminal(hsm, uri)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert plain.replace("\r\n", "").isprintable()
    assert "[red]evil\\x1b]0;title\\x07\\u202e" in plain
    assert re.match(rf"{hsm.label} · SoftHSM v2 · serial [0-9a-f]+ · login needed · PIN good\r\n", plain)
    assert "│ 4 │ certificate │" in plain
    assert "Expires" in plain
    assert "Expires" not in re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(hsm, f"{uri};id=%02"))  # It would be empty.
    uris = [line.partition("pkcs11:")[2] for line in plain.splitlines() if "pkcs11:" in line]
    assert len(uris) == 5
    assert all(one.endswith(f"?module-path={hsm.module}") for one in uris)


def test_table_library_is_loaded_only_for_a_terminal(hsm: InProcessSoftHSM) -> None:
    code = "import sys; from hwsigner._cli import main; main(sys.argv[1:]); print('rich' in sys.modules)"
    environment = {**ENVIRONMENT, **hsm.env, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "list", "--pkcs11-lib", hsm.module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("certificate", [b"", b"no DER", b"\x30\x00"])
def test_unreadable_certificate_is_listed(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome], certificate: bytes
) -> None:
    found = ListedObject("certificate", "broken", b"\x01", "pkcs11:x", public_key=b"no key", certificate=certificate)
    token = ListedToken("/m.so", "t", "m", "m", "1", 0, "pkcs11:token=t", True, True, "locked", (found,))
    monkeypatch.setattr("hwsigner._cli.list.list_tokens", lambda *_, **__: iter([token]))
    rows = [line.split("\t") for line in call("list").out.splitlines()]
    assert rows[1][5:7] == ["needed, PIN pad", "locked"]
    assert rows[2] == ["certificate", "broken", "unknown", "01", "", "", "", "pkcs11:x"]
    (shown,) = json.loads(call("list", "--json").out)["tokens"][0]["certificates"]
    assert (shown["subject"], shown["notAfter"]) == (None, None)


def test_expiry_and_serial_number_are_those_of_the_certificate(
    run: Callable[..., Outcome], call: Callable[..., Outcome], uri: str
) -> None:
    (certificate,) = tokens(run(uri, "--json"))[0]["certificates"]
    data = json.loads(call("list", certificate["uri"], "--json").out)["tokens"][0]["certificates"][0]
    parsed = x509.load_pem_x509_certificate(
        subprocess.run(["p11tool", "--export", certificate["uri"]], capture_output=True, check=True, timeout=60).stdout
    )
    assert data["notAfter"] == parsed.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert data["serialNumber"] == str(parsed.serial_number)


def tpm(**instead: Any) -> ListedToken:
    key = ListedObject("key", "", b"", "tpm2:handle=0x81000100", notes=("policy", "noDA"))
    srk = ListedObject("key", "storage root key (SRK)", b"", "tpm2:handle=0x81000001", "RSA", notes=("restricted",))
    found = ListedToken(
        "device:/dev/tpmrm0", "TPM", "INTC", "TPM 2.0", "", 0, "tpm2:", False, False, "good", (key,), (srk,)
    )
    return found._replace(**instead)


def test_keys_that_can_not_sign_are_told_apart(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]) -> None:
    monkeypatch.setattr("hwsigner._cli.list.list_tokens", lambda *_, **__: iter([tpm()]))
    rows = [line.split("\t") for line in call("list", "tpm2:").out.splitlines()]
    assert [(row[0], row[1], row[5]) for row in rows[1:]] == [
        ("token", "TPM", "not needed"),
        ("key", "", "policy, noDA"),
        ("other key", "storage root key (SRK)", "restricted"),
    ]
    (shown,) = json.loads(call("list", "tpm2:", "--json").out)["tokens"]
    assert [key["notes"] for key in shown["keys"]] == [["policy", "noDA"]]
    assert [key["label"] for key in shown["otherKeys"]] == ["storage root key (SRK)"]


def test_tpm_without_a_key_that_signs_is_listed(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]) -> None:
    monkeypatch.setattr("hwsigner._cli.list.list_tokens", lambda *_, **__: iter([tpm(objects=())]))
    assert len(call("list", "tpm2:").out.splitlines()) == 3


def test_certificate_in_a_tpm_is_listed_with_its_subject_and_its_keys_algorithm(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Outcome]
) -> None:
    der = certs.make_ca().certificate.public_bytes(Encoding.DER)
    found = ListedObject("certificate", "", b"", "tpm2:nv=0x01c20000", certificate=der)
    monkeypatch.setattr("hwsigner._cli.list.list_tokens", lambda *_, **__: iter([tpm(objects=(found,))]))
    row = call("list", "tpm2:").out.splitlines()[2].split("\t")
    assert row[1:3] == ["CN=Example CA,OU=devops,O=Example,C=DE", "EC P-256"]
