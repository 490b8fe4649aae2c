"""Faults of an enrolment and of a renewal: the old certificate and key stay in use, and one line says what to do."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import certs
from enrolments import Enrolment, refused, succeeds
from hwsigner.emulator import Fault
from hwsigner.key import find_certificates
from pkcs11_shim import CREATE_OBJECT, Shim, loaded_shim, shim, shim_library
from scene import Outcome
from softhsm.command import ToolError, run
from softhsm.tpm import SoftTPM

pytestmark = pytest.mark.slow

__all__ = ["loaded_shim", "shim", "shim_library"]

DEVICE_MEMORY = 0x31
SIGN = "openssl x509 -req -CA {ca} -CAkey {key} -copy_extensions copy"


def enroll_again(enrolment: Enrolment, issuer: str) -> Outcome:
    return enrolment.again("--subject=CN=bamboo-02", f"--issuer-command={issuer}")


@pytest.fixture(params=[enroll_again, Enrolment.renewal_by], ids=["enroll", "renew"])
def again(request: pytest.FixtureRequest) -> Callable[[Enrolment, str], Outcome]:
    """A function that has another certificate issued for an enrolled profile, by a command."""
    found: Callable[[Enrolment, str], Outcome] = request.param
    return found


@pytest.fixture
def enrolled(enrolment: Enrolment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Enrolment:
    """A profile that was enrolled, with a key and a certificate in files."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    succeeds(enrolment.run(f"--issuer-command={enrolment.issuer(days='1')}"))
    return enrolment


@pytest.mark.parametrize(
    ("text", "status", "parts"),
    [
        ("echo busy >&2; exit 1", 5, ("status 1: busy", "Run it by hand")),
        ("cat {ca}", 4, ("is for another key", "The issuer's settings must change")),
        (f"{SIGN} -days 2 -subj /CN=other", 4, ("has another subject", "it lacks", "Ask for the names")),
        (f"{SIGN} -days 2; cat {{other}}", 4, ("the chain from the issuer does not fit", "settings must change")),
        (f"{SIGN} -not_before 20990101000000Z -not_after 20990102000000Z", 4, ("is not valid before", "clock")),
        (f"{SIGN} -not_before 20190101000000Z -not_after 20190102000000Z", 4, ("expired", "clock")),
        (f"{SIGN} -days 2 | head -c 300", 4, ("certificate",)),
    ],
    ids=["down", "other key", "other name", "chain", "not yet", "expired", "cut off"],
)
def test_old_pair_stays_when_an_issuer_s_answer_does_not_fit(
    enrolled: Enrolment, again: Callable[[Enrolment, str], Outcome], text: str, status: int, parts: tuple[str, ...]
) -> None:
    other = enrolled.scene.write("other.pem", certs.make_ca().pem)  # Of the same name.
    issuer = text.format(ca=enrolled.home / "ca.pem", key=enrolled.home / "ca.key", other=other)
    files = [Path(enrolled.key), enrolled.certificate]
    before, profile = [file.read_bytes() for file in files], enrolled.profile()
    refused(again(enrolled, shlex.join(["sh", "-c", issuer])), status, *parts)
    assert [file.read_bytes() for file in files] == before
    assert {**enrolled.profile(), "issuer-command": ""} == {**profile, "issuer-command": ""}
    assert enrolled.gets_credentials()


def test_renewal_goes_on_when_the_issuer_is_back(enrolled: Enrolment) -> None:
    old = enrolled.leaf()
    here = enrolled.home / "here"
    issuer = enrolled.issuer(before=f"test -e {here} || exit 1", days="2")
    refused(enrolled.renewal_by(issuer), 5, "exited with status 1")
    assert enrolled.leaf() == old
    here.touch()
    succeeds(enrolled.scene.call("renew", "web"))
    assert enrolled.leaf().serial_number != old.serial_number
    assert enrolled.gets_credentials()


class TestRollover:
    """The issuer's CA changes. The trust anchor has the old one alone, then both, then the new one alone."""

    def test_pair_stays_until_the_trust_anchor_has_the_new_ca(
        self, enrolled: Enrolment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        emulator, old, key = enrolled.scene.emulator, enrolled.leaf(), Path(enrolled.key).read_bytes()
        anchor = emulator.world.trust_anchors[emulator.trust_anchor_arn]
        new = certs.make_ca("Next CA")
        (enrolled.home / "ca.pem").write_bytes(new.pem)
        certs.write_key(enrolled.home / "ca.key", new.key)
        refused(enrolled.renewal_by(enrolled.issuer()), 5, "the old one stays in use", "trust anchor")
        assert enrolled.leaf() == old
        assert enrolled.gets_credentials()
        monkeypatch.setattr(anchor, "certificates", [enrolled.scene.ca.certificate, new.certificate])
        assert enrolled.gets_credentials()
        succeeds(enrolled.scene.call("renew", "web"))
        monkeypatch.setattr(anchor, "certificates", [new.certificate])
        assert enrolled.gets_credentials()
        assert enrolled.leaf().issuer == new.certificate.subject
        assert Path(enrolled.key).read_bytes() == key


@pytest.mark.parametrize(("seconds", "words"), [(3600, "60 minutes behind"), (-3600, "60 minutes ahead")])
def test_wrong_clock_is_named_and_changes_nothing(enrolled: Enrolment, seconds: int, words: str) -> None:
    old = enrolled.leaf()
    enrolled.scene.emulator.misbehave(Fault("wrong-clock", seconds=seconds))
    refused(enrolled.renewal_by(enrolled.issuer()), 5, "the old one stays in use", words, "fix the clock")
    assert enrolled.leaf() == old
    assert enrolled.gets_credentials()


@pytest.mark.parametrize("command", [("enroll", "web"), ("renew", "web")], ids=["enroll", "renew"])
def test_next_run_deletes_the_former_certificate_that_a_kill_left_on_a_token(
    enrolled: Enrolment, shim: Shim, command: tuple[str, ...]
) -> None:
    pin = enrolled.scene.write("pin", shim.hsm.pin.encode())
    label, number = f"twice-{command[0]}", command[0][:1].encode()
    enrolled.key = f"{shim.uri(f'{label};id={number.decode()}')}&pin-source=file:{pin}"
    succeeds(enrolled.run(f"--issuer-command={enrolled.issuer(days='2')}"))
    (old,) = find_certificates(enrolled.profile()["certificate"], allow_modules=True)
    succeeds(enrolled.renewal_by(enrolled.issuer(days="3")))
    (new,) = find_certificates(enrolled.profile()["certificate"], allow_modules=True)
    shim.hsm.write_certificate(old.der, label, number, "one")
    enrolled.config.write_text(enrolled.config.read_text().replace("-days 3", "-days 4"))
    succeeds(enrolled.scene.call(*command))
    assert enrolled.gets_credentials()
    (left,) = find_certificates(enrolled.profile()["certificate"], allow_modules=True)
    assert (left.der == new.der) == (command[0] == "enroll")


class TestFull:
    def test_full_token_keeps_its_certificate(self, enrolled: Enrolment, shim: Shim) -> None:
        pin = enrolled.scene.write("pin", shim.hsm.pin.encode())
        enrolled.key = f"{shim.uri('enroll')}&pin-source=file:{pin}"
        succeeds(enrolled.run(f"--issuer-command={enrolled.issuer(days='2')}"))
        for again in (enroll_again, Enrolment.renewal_by):
            shim.fail(CREATE_OBJECT, DEVICE_MEMORY)
            refused(again(enrolled, enrolled.issuer(days="3")), 3, "the token is full", "Delete keys or certificates")
            shim.fail(CREATE_OBJECT, 0)
            assert enrolled.gets_credentials()
        succeeds(enrolled.scene.call("renew", "web"))
        assert enrolled.gets_credentials()

    def test_full_tpm_keeps_its_certificate(self, enrolled: Enrolment, cleaned_tpm: SoftTPM) -> None:
        enrolled.key = "handle:0x81000ded"
        tpm = (f"--tcti={cleaned_tpm.tcti}", "--nv-index=0x01500ded")
        succeeds(enrolled.run(*tpm, f"--issuer-command={enrolled.issuer(days='1')}"))
        fill(cleaned_tpm)
        more = ("--subject=CN=bamboo-02", "--nv-index=0x01500dec")
        refused(enrolled.again(*more), 3, "has no room for an NV index", "Remove an index")
        assert enrolled.gets_credentials()

    @pytest.mark.parametrize("new_key", [False, True])
    def test_renewal_keeps_the_old_pair_on_a_full_disk(self, enrolled: Enrolment, new_key: bool) -> None:
        more = [f"--new-key={enrolled.home / 'keys' / 'next.key'}"] if new_key else []
        next_days(enrolled)
        ran = on_full_disk(enrolled, Path(enrolled.key).parent, "renew", "web", *more)
        assert (ran.returncode, ran.stdout) == (3, ""), ran.stderr
        assert "No space left on device" in ran.stderr
        assert ran.stderr.count("\n") == 1
        assert enrolled.gets_credentials()

    def test_new_pair_is_not_in_use_when_the_profile_can_t_be_written(self, enrolled: Enrolment) -> None:
        next_days(enrolled)
        before = enrolled.profile()
        new = enrolled.home / "keys" / "next.key"
        ran = on_full_disk(enrolled, enrolled.config.parent, "renew", "web", f"--new-key={new}")
        assert (ran.returncode, ran.stdout) == (1, ""), ran.stderr
        assert "config.toml: No space left on device. The file was not changed\n" in ran.stderr
        assert enrolled.profile() == before
        assert enrolled.gets_credentials()
        made = new.read_bytes()
        succeeds(enrolled.scene.call("renew", "web", f"--new-key={new}"))
        assert new.read_bytes() == made
        assert enrolled.gets_credentials()


FULL = """
set -e
folder=$1 old=$2; shift 2
mount -t tmpfs -o size=16k tmpfs "$folder"
cp -a "$old"/. "$folder"
dd if=/dev/zero of="$folder/full" 2> /dev/null || true
status=0; "$@" || status=$?
for file in "$old"/*; do cmp "$file" "$folder/${file##*/}"; done
exit $status
"""


def on_full_disk(enrolled: Enrolment, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command while a folder is on a disk without room. Fails if a file in it changes."""
    copy = enrolled.home / "copy"
    shutil.copytree(folder, copy)
    command = [sys.executable, "-m", "hwsigner", *arguments]
    unshare = ["unshare", "--mount", "--map-root-user", "sh", "-c", FULL, "sh", str(folder), str(copy)]
    return subprocess.run([*unshare, *command], capture_output=True, text=True)


def fill(tpm: SoftTPM) -> None:
    """Define NV indices until the TPM has no room for another small one."""
    number = 0x01400000
    for size in (2048, 1024, 512, 256, 64):
        with suppress(ToolError):
            while True:
                index = f"{number:#010x}"
                run(["tpm2_nvdefine", "-Q", index, "-C", "o", "-s", str(size), "-a", "ownerwrite|authread"], tpm.env)
                number += 1


def next_days(enrolled: Enrolment) -> None:
    """Let the next certificate last longer, whatever the second."""
    enrolled.config.write_text(
        enrolled.config.read_text().replace("'-days' '1'", "-days 2").replace("-days 1", "-days 2")
    )


@pytest.mark.parametrize("command", [("renew", "web"), ("enroll", "web")], ids=["renewals", "with an enrolment"])
def test_two_at_once_leave_one_pair_that_works(enrolled: Enrolment, command: tuple[str, ...]) -> None:
    # Each one lasts longer than the one before it.
    count = enrolled.home / "issued"
    next_days(enrolled)
    enrolled.config.write_text(enrolled.config.read_text().replace("-days 2", f"-days $(($(wc -c < {count}) + 1))"))
    programs = [[sys.executable, "-m", "hwsigner", *one] for one in (("renew", "web"), command)]
    both = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in programs]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert enrolled.issued == (3 if command[0] == "renew" else 2)
    assert enrolled.gets_credentials()
