"""`hwsigner registrar` and its commands: the policy, the sealing keys, and the whole way with a TPM."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

import certs
from attestation.chips import Chip, Vendor, chip, chips, vendors
from attestation.piv_chains import old_chain
from enrolment.registrar import sites
from enrolment.registrar.sites import DNS, SUBJECT
from hwsigner._cli.registrar import serve
from hwsigner._identity.certificate_request import sign_certificate_request
from hwsigner.enrolment.registrar.policy import PUBLIC_KEY, TPM, YUBIKEY, Machine, read_policy
from hwsigner.enrolment.registrar.sealing import read_keys
from hwsigner.errors import ServiceError
from hwsigner.key import open_key
from loopback import ServerCA
from scene import Outcome, Scene
from softhsm.command import run
from softhsm.tpm import SoftTPM

__all__ = ["chip", "chips", "vendors"]

ONE, TWO = "1" * 64, "2" * 64
Call = Callable[..., Outcome]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "registrar.toml"


@pytest.fixture
def allow(call: Call, policy: Path) -> Call:
    """A function that runs `registrar allow` on the policy."""
    return lambda *arguments: call("registrar", "allow", *arguments, "--policy", policy)


# allow


def test_allow_adds_a_machine_by_the_digits_of_its_chip(allow: Call, policy: Path) -> None:
    done = allow(ONE, "--subject", SUBJECT, "--dns", DNS, "--uri", "spiffe://x/1")
    assert (done.status, done.out) == (0, f"web-01 added to {policy} with the chip {ONE}\n")
    machine = Machine("web-01", TPM, ONE, "", SUBJECT, (DNS,), ("spiffe://x/1",))
    assert read_policy(str(policy)).machines == {"web-01": machine}


def test_allow_again_changes_nothing(allow: Call, policy: Path) -> None:
    allow(ONE.upper(), "--subject", SUBJECT)
    before = policy.read_bytes()
    done = allow(ONE, "--subject", SUBJECT)
    assert (done.status, done.out) == (0, f"web-01 is in {policy} with the chip {ONE}\n")
    assert policy.read_bytes() == before


def test_allow_reads_what_attest_ek_printed(allow: Call, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "ek").write_text(f"{TWO}\n")
    assert allow(tmp_path / "ek", "--subject", SUBJECT, "--name", "first").status == 0
    assert read_policy(str(policy)).machines["first"].chip == TWO


def test_allow_replaces_a_swapped_board_only_if_asked(allow: Call, policy: Path) -> None:
    allow(ONE, "--subject", SUBJECT)
    refused = allow(TWO, "--subject", SUBJECT)
    assert (refused.status, refused.out) == (2, "")
    assert "--replace" in refused.err
    assert allow(TWO, "--subject", SUBJECT, "--replace").status == 0
    assert read_policy(str(policy)).machines["web-01"].chip == TWO


def test_allow_takes_serial_number_and_root_of_a_yubikeys_statement(
    allow: Call, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = old_chain()
    monkeypatch.setattr("hwsigner.attestation.chain.Trust.time", lambda self: chain.trust.now)
    roots = tmp_path / "roots"
    roots.mkdir()
    for name, one in (("a.der", old_chain().root), ("b.der", chain.root)):
        (roots / name).write_bytes(one.der)
    (tmp_path / "statement.json").write_text(chain.statement.to_json())
    done = allow(tmp_path / "statement.json", "--subject", SUBJECT, "--roots", roots)
    assert done.status == 0, done.err
    machine = Machine("web-01", YUBIKEY, sites.SERIAL, sites.sha256(chain.root.der), SUBJECT)
    assert read_policy(str(policy)).machines == {"web-01": machine}


def test_list_and_remove_say_which_chip_it_is(allow: Call, call: Call, policy: Path) -> None:
    allow(ONE, "--subject", SUBJECT, "--dns", DNS)
    allow(TWO, "--subject", "CN=db", "--name", "database")
    lines = [f"web-01    tpm {ONE}  {SUBJECT}  {DNS}", f"database  tpm {TWO}  CN=db"]
    assert call("registrar", "list", "--policy", policy).out.splitlines() == lines
    removed = call("registrar", "remove", "web-01", "--policy", policy)
    assert (removed.status, removed.err) == (0, "")
    assert removed.out.startswith(f"web-01 removed from {policy}, with the chip {ONE}. Its certificate stays")
    assert call("registrar", "list", "--policy", policy).out.splitlines() == lines[1:]
    again = call("registrar", "remove", "web-01", "--policy", policy)
    assert (again.status, again.out) == (2, "")
    assert f"hwsigner registrar list --policy {policy}" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ONE,), "no subject was given"),
        ((ONE, "--subject", "web-01"), "the subject 'web-01' is invalid"),
        ((ONE, "--subject", "OU=web"), "the subject has no CN to name the machine by"),
        ((ONE, "--subject", SUBJECT, "--dns", "a b"), "'a b' is not a DNS name"),
        ((ONE, "--subject", SUBJECT, "--name", "a b"), "has [machine.a b] that is invalid"),
        (("absent", "--subject", SUBJECT), "can't read absent"),
        ((ONE[:-1], "--subject", SUBJECT), "has 63 digits, and the hash of an endorsement key has 64"),
        (("garbage", "--subject", SUBJECT), "garbage has neither the hash"),
        (("object", "--subject", SUBJECT), "a statement counts only under the vendor's roots"),
        (("--subject", SUBJECT), "one of STATEMENT and --ek-public-key is needed"),
        (
            (ONE, "--ek-public-key", "garbage", "--subject", SUBJECT),
            "--ek-public-key can't be combined with a chip or STATEMENT",
        ),
        *(
            ((ONE, "--subject", SUBJECT, "--pcrs", value), f"--pcrs is '{value}', which is not a PCR and its value")
            for value in ("", "7", "7=", f"24={ONE}", f"07={ONE}", f"sha1:7={ONE}", f"7=0x{ONE}", f"7={ONE},")
        ),
        (("--ek-public-key", "garbage", "--subject", SUBJECT), "garbage has no public key that can be read"),
    ],
)
def test_allow_refuses_what_is_not_in_order_and_writes_nothing(
    arguments: tuple[str, ...],
    message: str,
    allow: Call,
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage").write_text(ONE[:-1])
    (tmp_path / "object").write_text("{}")
    done = allow(*arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not policy.exists()


def test_allow_marks_a_machine_whose_endorsement_key_the_administrator_certifies(
    allow: Call, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{TWO}\n".encode())))
    done = allow("--ek-public-key", "-", "--subject", SUBJECT)
    marked = f"web-01 added to {policy} with the chip {TWO}, whose endorsement key you certify\n"
    assert (done.status, done.out) == (0, marked)
    assert read_policy(str(policy)).machines["web-01"] == Machine("web-01", TPM, TWO, "", SUBJECT, ek=PUBLIC_KEY)
    assert "--replace" in allow(TWO, "--subject", SUBJECT).err  # It takes the mark away.
    assert allow(TWO, "--subject", SUBJECT, "--replace").status == 0
    assert read_policy(str(policy)).machines["web-01"] == Machine("web-01", TPM, TWO, "", SUBJECT)


def test_allow_writes_the_values_of_pcrs(allow: Call, policy: Path) -> None:
    assert allow(ONE, "--subject", SUBJECT, "--pcrs", f"7={ONE}", "--pcrs", f"sha256:14={'AB' * 32}").status == 0
    machine = read_policy(str(policy)).machines["web-01"]
    assert (machine.pcrs, machine.pcr_selection) == ((f"7={ONE}", f"14={'ab' * 32}"), "sha256:7,14")


def test_allow_warns_when_the_machine_that_it_replaces_had_pcrs(allow: Call, policy: Path) -> None:
    pcrs = ("--pcrs", f"7={ONE}")
    allow(ONE, "--subject", SUBJECT, *pcrs)
    assert allow(TWO, "--subject", SUBJECT, "--replace", *pcrs).err == ""
    done = allow(ONE, "--subject", SUBJECT, "--replace")
    assert done.err.startswith(f"hwsigner: warning: {policy} demanded PCRs of web-01, and demands none now. ")
    assert allow(TWO, "--subject", SUBJECT, "--replace").err == ""


def test_two_chips_with_one_subject_are_remarked_on(
    allow: Call, policy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert allow(ONE, "--subject", "CN=web,OU=web").err == ""
    done = allow(TWO, "--subject", "CN=web, OU=web", "--name", "other")
    assert (done.status, done.out) == (0, f"other added to {policy} with the chip {TWO}\n")
    assert done.err.startswith("hwsigner: warning: web, other have the same subject, CN=web,OU=web. ")
    assert allow("3" * 64, "--subject", "CN=third").err == ""
    serve._read_policy(str(policy))
    line = json.loads(capfd.readouterr().err)
    assert (line["decision"], line["reason"]) == ("noted", "web, other have the same subject, CN=web,OU=web")


# rotate-keys


def test_rotate_keys_prints_the_ids_and_no_key(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    outputs = [call("registrar", "rotate-keys", "--keys", path).out for _ in range(3)]
    keys = read_keys(str(path)).keys
    assert outputs[2] == f"valid sealing keys in {path}: {keys[0][0].hex()} {keys[1][0].hex()}\n"
    assert not any(key.hex() in output for output in outputs for _, key in keys)


# The service


def test_registrar_has_a_help_and_names_its_commands(call: Call) -> None:
    shown = call("registrar", "--help").out
    assert "--policy" in shown
    assert "rotate-keys makes a new sealing key" in " ".join(shown.split())
    assert "registrar allow" in call("--help").out


@pytest.fixture
def flags(tmp_path: Path, call: Call, allow: Call, ca: certs.Authority) -> list[str]:
    """Flags of a registrar whose issuer is a program, and its files."""
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "root.der").write_bytes(old_chain().root.der)
    call("registrar", "rotate-keys", "--keys", tmp_path / "keys")
    allow(ONE, "--subject", SUBJECT)
    values = {
        "policy": tmp_path / "registrar.toml",
        "keys": tmp_path / "keys",
        "roots": roots,
        "port": 0,
        "issuer-command": issuing_program(tmp_path, ca),
    }
    return [f"--{name}={value}" for name, value in values.items()]


def issuing_program(folder: Path, ca: certs.Authority) -> str:
    """Write a CA that is a program into a folder, and return its command."""
    folder = folder / "issuer"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(ca.pem)
    key = certs.write_key(folder / "ca.key", ca.key)
    program = folder / "issue"
    program.write_text(
        f"#!/bin/sh\nexec openssl x509 -req -CA {folder}/ca.pem -CAkey {key} -days 2 -copy_extensions copy\n"
    )
    program.chmod(0o755)
    return shlex.quote(str(program))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--policy=absent", "can't read absent"),
        ("--keys=absent", "can't read absent: No such file or directory. Make it with hwsigner registrar rotate-keys"),
        ("--roots=absent", "can't read the folder absent"),
        ("--issuer-command=", "no issuer was given"),
        ("--issuer=postman", "there is no issuer 'postman'"),
        ("--address=0.0.0.0", "other machines can reach the address, and there is no TLS"),
        ("--address=example.com", "other machines can reach the address, and there is no TLS"),
        ("--tls-key=x", "--tls-key is given without --tls-certificate"),
        ("--tls-certificate=absent", "--tls-certificate absent and its key can't be used"),
        ("--per-address=0", "--per-address is '0'"),
        ("--connections-per-address=65", "--connections-per-address is '65': write a whole number from 1 to 64"),
    ],
)
def test_registrar_does_not_start_with_a_flag_that_is_wrong(
    flag: str, message: str, flags: list[str], call: Call
) -> None:
    done = call("registrar", *flags, flag)
    assert (done.status, done.out) == (2, "")
    assert message in done.err


def test_registrar_warns_of_a_tls_key_that_other_users_can_read(flags: list[str], call: Call, tmp_path: Path) -> None:
    ServerCA(tmp_path).context("127.0.0.1")
    pair = tmp_path / "127.0.0.130.pem"
    pair.chmod(0o644)
    done = call("registrar", *flags, f"--tls-certificate={pair}", "--policy=absent")
    assert done.status == 2
    assert done.err.startswith(f"hwsigner: warning: private key file {pair} has mode 0644: other users can read")


@pytest.mark.slow
def test_registrar_starts_without_roots_when_it_is_to_trust_no_vendor(flags: list[str]) -> None:
    with running([*flags, "--roots=none"], []) as (_, url):
        assert url.startswith("http://127.0.0.1:")


@contextmanager
def running(flags: list[str], errors: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a registrar, and yield it with its URL. `errors` gets its lines."""
    command = [sys.executable, "-m", "hwsigner", "registrar", *flags]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.fullmatch(r"hwsigner: registrar on (\S+)\n", first)
        assert found, first + process.stderr.read()
        reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()))
        reader.start()
        try:
            yield process, found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            reader.join(60)


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "is_answered"), [([], False), (["--connections-per-address=20"], True)])
def test_load_balancer_gets_as_many_connections_as_the_flag_says(
    flag: list[str], is_answered: bool, flags: list[str]
) -> None:
    lines: list[str] = []
    with running([*flags, *flag], lines) as (_, url), ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        for _ in range(19):
            last = stack.enter_context(socket.create_connection(address, 30))
        with suppress(ConnectionError):
            last.sendall(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
            assert last.recv(100).startswith(b"HTTP/1.1 404") == is_answered
    decision = "refused" if is_answered else "limited"
    assert [json.loads(line)["decision"] for line in lines] == [decision]


def enrolled(url: str, key: str, ca_file: Path) -> x509.Certificate:
    with open_key(key) as opened:
        request = sign_certificate_request(opened, SUBJECT, dns_names=[DNS])
    return sites.enrolled(url, key, request, ca_file=str(ca_file))


def test_tpm_is_enrolled_over_tls_and_refused_once_it_is_taken_out(
    chip: Chip, vendors: tuple[Vendor, Vendor], call: Call, allow: Call, flags: list[str], policy: Path, tmp_path: Path
) -> None:
    server_ca = ServerCA(tmp_path)
    server_ca.context("127.0.0.1")
    ek = call("attest", "--ek", chip.key).out.strip()
    (tmp_path / "ek").write_text(ek)
    allow(tmp_path / "ek", "--subject", SUBJECT, "--dns", DNS, "--replace")
    tls = next(tmp_path.glob("127.0.0.1*.pem"))
    tls.chmod(0o600)
    own = [f"--roots={vendors[0].roots}", f"--tls-certificate={tls}"]
    lines: list[str] = []
    with running([*flags, *own], lines) as (process, url):
        assert url.startswith("https://")
        leaf = enrolled(url, chip.key, server_ca.path)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [DNS]
        policy.write_text("[machine")
        assert enrolled(url, chip.key, server_ca.path).subject == leaf.subject
        policy.write_text("")
        with pytest.raises(ServiceError, match="policy does not give this chip"):
            enrolled(url, chip.key, server_ca.path)
    assert process.returncode == 0
    audit = [facts for facts in map(json.loads, lines) if facts["decision"] not in ("received", "read")]
    one = ["challenged", "proven", "issued"]
    assert [facts["decision"] for facts in audit] == [*one, "kept", *one, "refused"]
    assert audit[2]["machine"] == "web-01"
    assert audit[2]["chip"] == ek
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", audit[0]["time"])
    assert "registrar.toml is not TOML" in audit[3]["reason"]


def test_enroll_takes_a_tpm_from_nothing_to_its_role_through_a_registrar(
    vendors: tuple[Vendor, Vendor],
    scene: Scene,
    call: Call,
    allow: Call,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws" / "config"))
    arns = scene.flags(certificate=None, private_key=None)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, vendors[0].make(Path(folder)) as tpm:
        allow(call("attest", "--ek", f"--tcti={tpm.tcti}").out.strip(), "--subject", SUBJECT, "--replace")
        key = ["--private-key", f"tpm2:path={folder}/web.tss2", "--tcti", tpm.tcti, "--subject", SUBJECT]
        with running([*flags, f"--roots={vendors[0].roots}"], lines) as (_, url):
            enrol = ("enroll", "web", *key, "--issuer", "registrar", "--issuer-url", url, *arns)
            other = call(*enrol, "--subject", "CN=web-02")
            assert other.status == 5
            assert "the registrar refused" in other.err
            done = call(*enrol)
            assert done.status == 0, done.err
        credentials = call("credential-process", "--profile", "web")
    assert json.loads(credentials.out)["AccessKeyId"].startswith("ASIA")
    decisions = [json.loads(line)["decision"] for line in lines]
    assert decisions == ["received", "refused", "received", "challenged", "received", "proven", "issued"]


@pytest.mark.slow
def test_machine_of_a_cloud_is_enrolled_and_not_renewed_once_it_boots_something_else(
    hardware: None,
    scene: Scene,
    call: Call,
    allow: Call,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws" / "config"))
    arns = scene.flags(certificate=None, private_key=None)
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder, SoftTPM(Path(folder)) as tpm:
        path, key = tmp_path / "ek.pem", f"tpm2:path={folder}/web.tss2?endorsement-key=L-2"
        run(["tpm2_createek", "-Q", "-G", "ecc", "-c", f"{folder}/ek", "-u", str(path), "-f", "pem"], tpm.env)
        run(["tpm2_flushcontext", "-t"], tpm.env)
        pcr = ("--pcrs", f"7={'0' * 64}")
        assert allow("--ek-public-key", path, "--subject", SUBJECT, "--replace", *pcr).status == 0
        with running([*flags, "--roots=none"], lines) as (_, url):
            own = ("--private-key", key, "--tcti", tpm.tcti, "--subject", SUBJECT)
            done = call("enroll", "web", *own, "--issuer", "registrar", "--issuer-url", url, *arns)
            assert done.status == 0, done.err
            run(["tpm2_pcrextend", f"7:sha256={ONE}"], tpm.env)
            refused = call("renew", "web")
        credentials = call("credential-process", "--profile", "web")
    assert (refused.status, refused.out) == (5, "")
    assert "the policy does not allow the values of PCR sha256:7. The machine booted something else" in refused.err
    assert json.loads(credentials.out)["AccessKeyId"].startswith("ASIA")
    audit = [facts for facts in map(json.loads, lines) if facts["decision"] != "received"]
    assert [facts["decision"] for facts in audit] == ["challenged", "proven", "issued", "challenged", "refused"]
    assert {facts["ek"] for facts in audit} == {"public-key"}


@pytest.mark.slow
def test_chip_stays_the_same_when_its_tpm_is_cleared_and_not_when_it_gets_a_new_seed(
    hardware: None, call: Call
) -> None:
    with tempfile.TemporaryDirectory() as folder, SoftTPM(Path(folder)) as tpm:
        chips = [call("attest", "--ek", f"--tcti={tpm.tcti}").out.strip()]
        for command in (["tpm2_clear", "-c", "p"], ["tpm2_changeeps"]):
            run(command, tpm.env)
            chips.append(call("attest", "--ek", f"--tcti={tpm.tcti}").out.strip())
    assert re.fullmatch("[0-9a-f]{64}", chips[0])
    assert chips[0] == chips[1] != chips[2]
