"""A trial of a TPM: what it asks, what it leaves, and what its report does not have."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tpm2.simulator import Simulator
from hwsigner import attestation
from hwsigner.errors import UsageError
from hwsigner.trial import Verdict
from hwsigner.trial.tpm.questions import END, QUESTIONS
from hwsigner.trial.tpm.trial import ASKS
from hwsigner.trial.tpm.writing import read_range
from pages import ROOT
from softhsm.command import run
from softhsm.tabrmd import ResourceManager
from softhsm.tpm import SoftTPM
from softhsm.vendor import TPMVendor
from tpm_proxy import TPMProxy, answer
from trial.tpms import OtherTPM, Trials, seen

HANDLES, INDICES = "0x81000200-0x8100020f", "0x01c20000-0x01c2000f"
WRITES = ("--write", HANDLES, "--write", INDICES)
GET_CAPABILITY, TEST_PARMS, CREATE_PRIMARY = 0x17A, 0x18A, 0x131
# Commands that leave a TPM as it is, once what they load is flushed (TPM 2.0 Library, part 2, 6.5.2).
HARMLESS = {
    *(0x131, 0x147, 0x148, 0x14E, 0x151, 0x153, 0x157, 0x158, 0x15C, 0x15D, 0x161, 0x162, 0x165, 0x169, 0x16B, 0x171),
    *(0x173, 0x176, 0x17A, 0x17D, 0x17E, 0x17F, 0x181, 0x186, 0x189, 0x18A, 0x13E),
}
VENDOR_IBM = b"IBM\0"


@pytest.fixture
def tpm(hardware: None, short_folder: Path) -> Iterator[SoftTPM]:
    """A TPM of this test's own."""
    with SoftTPM(short_folder) as tpm:
        yield tpm


@pytest.fixture
def trials(tpm: SoftTPM, tmp_path: Path) -> Trials:
    return Trials(tpm, tmp_path)


def _without_doubt(place: str) -> bool:
    """Return whether a place that an answer rests on exists."""
    file, _, name = place.partition(": ")
    page, _, anchor = file.partition("#")
    text = (ROOT / page).read_text()
    slugs = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in text.splitlines()}
    return (not name or re.search(rf"\b{re.escape(name)}\b", text) is not None) and (not anchor or anchor in slugs)


def test_questions_have_names_of_their_own_and_rest_on_what_there_is() -> None:
    assert len(QUESTIONS) >= 50
    assert [each.id for each in QUESTIONS if not each.text.endswith("?") or not each.expected] == []
    assert [place for each in QUESTIONS for place in each.rests_on if not _without_doubt(place)] == []
    assert [*ASKS, END.id] == [each.id for each in QUESTIONS]


@pytest.mark.slow
def test_trial_of_a_tpm_with_a_certificate_finds_what_is_expected_and_tells_nobody_which_chip(
    hardware: None, short_folder: Path, tmp_path: Path
) -> None:
    vendor = TPMVendor(tmp_path / "vendor")
    with vendor.make(short_folder) as tpm:
        before = seen(tpm)
        trials = Trials(tpm, tmp_path)
        status, output = trials.run("--roots", str(vendor.roots), *WRITES)
        assert (status, seen(tpm)) == (0, before), output
        report = trials.report()
        assert report.counts[Verdict.EXPECTED] == len(QUESTIONS) - len(trials.why())
        lacking = {"keys.rsa-4096", "owner.provisioned"}
        assert trials.why().keys() == {*lacking, "room.managed", "room.managed-sessions"}
        assert "to a root" in [each.answer for each in report.results]
        ek = attestation.endorsement_key(f"tpm2:?tcti={tpm.tcti}")
        run(["tpm2_nvread", "-C", "o", "-o", str(tmp_path / "ek.der"), "0x01c00016"], tpm.env)
    certificate = (tmp_path / "ek.der").read_bytes()
    secrets = [*_spelled(ek[-64:]), *_spelled(certificate[:200]), str(short_folder), str(tmp_path)]
    secrets += [socket.gethostname(), *re.findall(r"name: (\w+)", before["indices"])]
    for path in tmp_path.glob("trial-tpm-*"):
        text = path.read_text().lower()
        assert [secret for secret in secrets if secret.lower() in text] == []


def _spelled(data: bytes) -> list[str]:
    """Return how bytes may stand in a text: parts of them in hexadecimal, and in base64."""
    return [data[:16].hex(), data[16:32].hex(), *(base64.b64encode(data[start:]).decode()[:24] for start in range(3))]


@pytest.mark.slow
def test_trial_behind_a_resource_manager_finds_what_is_expected(tpm: SoftTPM, trials: Trials) -> None:
    with ResourceManager(tpm) as manager:
        before = seen(tpm)
        status, output = trials.run(*WRITES, tcti=manager.tcti, **manager.env)
        assert (status, seen(tpm)) == (0, before), output
    assert trials.report().target["resource manager"] == "yes"
    assert trials.report().target["reached by"] == "tabrmd"
    assert {"room.objects", "room.sessions", "sharing.stays"} <= trials.why().keys()
    assert "room.managed" not in trials.why()


@pytest.mark.slow
def test_trial_without_write_sends_nothing_that_changes_the_tpm_and_no_auth_value(
    tpm: SoftTPM, tmp_path: Path, short_folder: Path
) -> None:
    before = seen(tpm)
    with TPMProxy(tpm, short_folder) as proxy:
        status, output = Trials(tpm, tmp_path).run("--only", "[!k]*", "--only", "keys.p-*", tcti=proxy.tcti)
        assert status == 0, output
        assert {f"{code:#x}" for code in proxy.codes if code not in HARMLESS} == set()
        wrong = proxy.stream.count(b"wrong of the trial")
    assert wrong == 1
    assert seen(tpm) == before


@pytest.mark.slow
def test_trial_of_a_simulator_that_serves_one_process_at_a_time_finds_what_is_expected(
    tpm: SoftTPM, tmp_path: Path
) -> None:
    with Simulator(tpm) as simulator:
        status, output = Trials(tpm, tmp_path).run("--only", "[!ek]*", "--only", "keys.p-*", tcti=simulator.tcti)
    assert status == 0, output


def test_trial_does_nothing_unless_the_user_agrees(tpm: SoftTPM, tmp_path: Path, short_folder: Path) -> None:
    with TPMProxy(tpm, short_folder) as proxy:
        process = Trials(tpm, tmp_path).start(tcti=proxy.tcti)
        output, errors = process.communicate()
        assert set(proxy.codes) == {GET_CAPABILITY}
    assert process.returncode == 2
    assert "It writes nothing into the TPM" in output
    assert "Answer y, or add --yes" in errors
    assert list(tmp_path.glob("trial*")) == []


class TestAnotherTPM:
    """A TPM that was not seen before."""

    def test_what_a_tpm_lacks_is_not_asked(self, tpm: SoftTPM, tmp_path: Path, short_folder: Path) -> None:
        def change(command: bytes, reply: bytes) -> bytes:
            code, kind, curve = command[6:10], command[10:12], command[16:18]
            if int.from_bytes(code) == TEST_PARMS and (kind, curve) == (b"\0\x23", b"\0\4"):
                return answer(0x1E6)  # TPM_RC_CURVE of the first parameter.
            return reply.replace(VENDOR_IBM, b"NEW ")

        with OtherTPM(tpm, short_folder) as other:
            other.change = change
            trials = Trials(tpm, tmp_path)
            status, output = trials.run("--only", "basics.*", "--only", "keys.p-*", tcti=other.tcti)
        assert status == 0, output
        assert trials.report().target["vendor"] == "NEW"
        assert trials.why()["keys.p-384"] == "the TPM has no P-384"

    def test_what_a_tpm_does_otherwise_differs(self, tpm: SoftTPM, tmp_path: Path, short_folder: Path) -> None:
        def change(_: bytes, reply: bytes) -> bytes:
            return answer(0x98E) if reply == answer(0x9A2) else reply  # AUTH_FAIL in place of BAD_AUTH

        with OtherTPM(tpm, short_folder) as other:
            other.change = change
            trials = Trials(tpm, tmp_path)
            assert trials.run("--only", "auth.*", tcti=other.tcti)[0] == 1
        assert trials.differing() == {"auth.wrong": "TPM_RC_AUTH_FAIL, not counted"}

    def test_what_a_tpm_refuses_beside_the_question_differs(
        self, tpm: SoftTPM, tmp_path: Path, short_folder: Path
    ) -> None:
        with TPMProxy(tpm, short_folder) as proxy:
            proxy.decide = lambda command: 0x2E6 if int.from_bytes(command[6:10]) == CREATE_PRIMARY else "pass"
            trials = Trials(tpm, tmp_path)
            status, output = trials.run("--only", "*", *WRITES, tcti=proxy.tcti)
        assert status == 1
        assert "Traceback" not in output
        assert trials.differing().keys() >= {"keys.p-256", "endorsement.certify", "owner.key-file", "writing.taken"}
        assert {"basics.pcrs", "writing.index"}.isdisjoint({*trials.differing(), *trials.why()})
        assert trials.differing()["keys.p-256"] == "TPM_RC 0xa6"

    def test_a_tpm_without_a_list_of_algorithms_is_tried(
        self, tpm: SoftTPM, tmp_path: Path, short_folder: Path
    ) -> None:
        def change(command: bytes, reply: bytes) -> bytes:
            lists = int.from_bytes(command[6:10]) == GET_CAPABILITY and int.from_bytes(command[10:14]) == 0
            return answer(0x1C4) if lists or int.from_bytes(command[6:10]) == TEST_PARMS else reply

        with OtherTPM(tpm, short_folder) as other:
            other.change = change
            trials = Trials(tpm, tmp_path)
            status, output = trials.run("--only", "basics.[!t]*", "--only", "auth.*", tcti=other.tcti)
        assert status == 0, output
        assert trials.report().target["algorithms"] == "not told"


class TestATPMInUse:
    """A TPM whose owner has set it up in another way."""

    @pytest.mark.slow
    def test_questions_on_a_hierarchy_with_an_auth_value_are_asked_only_with_that(
        self, tpm: SoftTPM, trials: Trials
    ) -> None:
        for hierarchy in ("owner", "endorsement"):
            run(["tpm2_changeauth", "-c", hierarchy, f"{hierarchy}-4711"], tpm.env)
        before = seen(tpm)
        only = ("--only", "owner.key*", "--only", "endorsement.activate", "--only", "writing.persistent", *WRITES)
        status, output = trials.run(*only)
        assert (status, seen(tpm)) == (0, before), output
        assert "The owner hierarchy has an auth value" in output
        assert set(trials.why().values()) == {
            f"the {name} hierarchy has an auth value: give --{name}-pin-source file:/path"
            for name in ("owner", "endorsement")
        }
        given = ("--owner-pin-source", "env:OWNER", "--endorsement-pin-source", "env:ENDORSEMENT")
        auths = {"OWNER": "owner-4711", "ENDORSEMENT": "endorsement-4711"}
        status, output = trials.run(*only, *given, **auths)
        assert (status, seen(tpm), trials.why()) == (0, before, {}), output
        status, output = trials.run("--only", "owner.*", *given, OWNER="wrong", ENDORSEMENT="")
        assert seen(tpm) == before
        assert "owner.key-file" in trials.why()

    @pytest.mark.slow
    def test_a_tpm_in_lockout_is_tried_without_a_wrong_auth_value(self, tpm: SoftTPM, trials: Trials) -> None:
        run(["tpm2_dictionarylockout", "-s", "-n", "1", "-t", "1000", "-l", "1000"], tpm.env)
        tpm.persist(0x81000200, "ecc256", "right")
        with pytest.raises(Exception, match="tpm2_sign"):
            run(["tpm2_sign", "-c", "0x81000200", "-p", "wrong", "-o", "/dev/null", "/dev/null"], tpm.env)
        before = seen(tpm)
        assert "LOCKOUT_COUNTER: 0x1" in before["properties-variable"]
        status, output = trials.run("--only", "auth.*", "--only", "keys.p-256", "--only", "writing.*", *WRITES)
        assert (status, seen(tpm)) == (0, before), output
        assert trials.why() == {"auth.wrong": "the TPM is in lockout, or nearly so"}

    @pytest.mark.parametrize("enabled", ["shEnable", "ehEnable"])
    def test_questions_on_a_hierarchy_that_is_disabled_are_not_asked(
        self, tpm: SoftTPM, trials: Trials, enabled: str
    ) -> None:
        run(["tpm2_hierarchycontrol", "-C", "p", enabled, "clear"], tpm.env)
        before, only = seen(tpm), ("owner.key-file", "endorsement.certify", "keys.restricted", "writing.*")
        status, output = trials.run(*(flag for each in only for flag in ("--only", each)), *WRITES)
        assert (status, seen(tpm)) == (0, before), output
        asked = "owner" if enabled == "ehEnable" else "endorsement"
        assert {each.split(".")[0] for each in trials.why()} & {"owner", "endorsement"} == {
            "owner",
            "endorsement",
        } - {asked}

    @pytest.mark.slow
    def test_pcrs_of_another_bank_do_if_the_tpm_has_none_of_sha256(
        self, hardware: None, short_folder: Path, tmp_path: Path
    ) -> None:
        (short_folder / "state").mkdir()
        banks = ["--pcr-banks", "sha384"]
        run(["swtpm_setup", "--tpm2", "--tpmstate", str(short_folder / "state"), *banks], {})
        with SoftTPM(short_folder) as tpm:
            trials, before = Trials(tpm, tmp_path), seen(tpm)
            status, output = trials.run("--only", "policies.*", "--only", "basics.*", "--only", "*.quote")
            assert (status, seen(tpm)) == (0, before), output
        assert trials.why().keys() == {"basics.pcrs", "basics.pcrs-at-once"}

    def test_what_others_load_during_the_trial_stays_and_is_no_change(self, tpm: SoftTPM, trials: Trials) -> None:
        process = trials.start("--yes", "--only", "basics.*", "--only", "keys.p-256")
        assert process.stderr
        process.stderr.readline()
        run(["tpm2_createprimary", "-Q", "-G", "ecc"], tpm.env)
        output, errors = process.communicate()
        assert process.returncode == 0, output + errors
        # 0x80000000 or 0x80000001: the trial may have had a key in the first place at that moment.
        assert "- 0x8000000" in seen(tpm)["handles-transient"]

    def test_an_index_of_a_certificate_that_counts_wrong_auth_values_is_not_read(
        self, tpm: SoftTPM, trials: Trials
    ) -> None:
        attributes = ["-a", "ownerwrite|authwrite|authread"]
        run(["tpm2_nvdefine", "-Q", "0x01c0000a", "-s", "512", "-p", "index-4711", *attributes], tpm.env)
        run(
            ["tpm2_nvwrite", "-Q", "0x01c0000a", "-C", "0x01c0000a", "-P", "index-4711", "-i", "-"], tpm.env, b"0" * 512
        )
        before = seen(tpm)
        status, output = trials.run("--only", "endorsement.*")
        assert (status, seen(tpm)) == (0, before), output
        assert "NV index 0x01c0000a counts wrong auth values and may have an auth value, so it was not read" in output
        assert trials.why().keys() == {"endorsement.chain", "endorsement.certificate", "endorsement.whole"}

    @pytest.mark.slow
    def test_taken_handles_stay_as_they_are(self, tpm: SoftTPM, trials: Trials) -> None:
        tpm.persist(0x81000200, "ecc256")
        before = seen(tpm)
        status, output = trials.run("--only", "writing.persistent", "--write", "0x81000200-0x81000201")
        assert (status, seen(tpm), trials.why()) == (0, before, {}), output
        status, output = trials.run("--only", "writing.persistent", "--write", "0x81000200")
        assert (status, seen(tpm)) == (0, before), output
        assert trials.why() == {"writing.persistent": "no place in the range is free"}

    def test_a_tpm_whose_places_are_full_is_tried_as_far_as_possible(self, tpm: SoftTPM, trials: Trials) -> None:
        for _ in range(3):
            run(["tpm2_createprimary", "-Q"], tpm.env)
        before = seen(tpm)
        status, output = trials.run("--only", "basics.*", "--only", "keys.p-256")
        assert (status, seen(tpm)) == (0, before), output
        assert "most questions can't be asked" in output
        assert trials.why()["keys.p-256"] == "the TPM at (TCTI) has no free slot for key of the trial"


@pytest.mark.parametrize(
    "given",
    [
        *("0x81000001", "0x81010001", "0x81800000", "0x81000200-0x81010001", "0x81000210-0x81000200", "81"),
        *("0x01c00002", "0x01bfffff-0x01c10000", "0x01c20000-0x81000200", "web", ""),
    ],
)
def test_a_range_that_is_reserved_or_malformed_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        read_range(given)


@pytest.mark.parametrize("folder", ["absent", "file"])
def test_a_folder_that_can_t_have_the_report_is_refused_before_anything_is_asked(
    tpm: SoftTPM, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("")
    status, output = Trials(tpm, tmp_path / folder).run("--only", "basics.lockout")
    assert status == 2
    assert "Give --output FOLDER" in output
    assert "basics.lockout" not in output


@pytest.mark.parametrize("source", ["nonsense", "file:/absent"])
def test_a_pin_source_that_can_t_be_read_is_an_error_and_no_report(trials: Trials, tmp_path: Path, source: str) -> None:
    status, output = trials.run("--owner-pin-source", source, "--only", "owner.*")
    assert status == 3
    assert "owner.key-file" not in output
    assert list(tmp_path.glob("trial*")) == []


def test_a_tpm_that_does_not_answer_is_an_error_and_no_report(trials: Trials, tmp_path: Path) -> None:
    status, output = trials.run(tcti=f"swtpm:path={tmp_path / 'none'}")
    assert status == 3
    assert "does not answer" in output
    assert list(tmp_path.glob("trial*")) == []
