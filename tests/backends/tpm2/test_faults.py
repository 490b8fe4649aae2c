"""A TPM whose commands fail, one after the other, through a proxy between it and us: nothing stays in it."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from urllib.parse import quote

import pytest
from tpm2_pytss import ESAPI, ESYS_TR, TPM2_ALG, TPM2_SE, TPMT_SYM_DEF

from backends.tpm2.tpms import NODA, PASSWORD, SIGNING, Tools, flush_handles, handles_in
from hwsigner.backends.tpm2 import connection
from hwsigner.errors import BackendUnavailableError, HwsignerError, KeyNotFoundError, PinLockedError, SigningKeyError
from hwsigner.key import Key, open_key
from softhsm.command import run
from softhsm.tpm import SoftTPM
from tpm_proxy import Fault, TPMProxy

SIGN, FLUSH_CONTEXT = 0x15D, 0x165
FAILURE, HANDLE, RETRY, NV_RATE, YIELDED, TESTING = 0x101, 0x18B, 0x922, 0x920, 0x908, 0x90A


def uri_through(proxy: TPMProxy, path: Path, query: str = "") -> str:
    """Return the URI of a key file of the TPM behind a proxy."""
    return f"tpm2:path={quote(str(path))}?tcti={proxy.tcti}{query}"


@pytest.fixture
def free_file(tools: Tools) -> Path:
    """A key file without an auth value; wrong ones do not count."""
    return tools.key_file(attributes=f"{SIGNING}|noda", primary=("-G", "ecc", *NODA))


@pytest.fixture
def safe_file(tools: Tools) -> Path:
    """A key file with an auth value; wrong ones do not count."""
    return tools.key_file(attributes=f"{SIGNING}|noda", primary=("-G", "ecc", *NODA), auth=PASSWORD)


def use(uri: str, pin: str | None) -> int:
    """Open a key and sign three times; return how many signatures succeeded."""
    done = 0
    try:
        with open_key(uri, pin) as key:
            for _ in range(3):
                try:
                    done += bool(key.sign(b"message"))
                except HwsignerError:
                    continue
    except HwsignerError:
        pass
    return done


def each_command_fails(proxy: TPMProxy, tpm: SoftTPM, uri: str, pin: str | None, fault: Fault) -> list[int]:
    """Use a key while the first command fails, then the second one, and so on; return how often it signed each time.

    Nothing stays in the TPM, but for what was loaded if the very answer with its handle was lost.
    """
    done = []
    for number in count():
        proxy.exchanges.clear()
        proxy.lost.clear()
        proxy.at(number, fault)
        done.append(use(uri, pin))
        assert handles_in(tpm) == proxy.lost, f"{fault} at command {number} of {[hex(code) for code in proxy.codes]}"
        flush_handles(tpm, proxy.lost)
        if len(proxy.exchanges) <= number:
            return done
    raise AssertionError


class TestCleanUp:
    @pytest.mark.parametrize("fault", ["cut", "drop", "half", FAILURE, HANDLE])
    def test_nothing_is_left_of_a_key_with_an_auth_value(
        self, proxy: TPMProxy, tools: Tools, safe_file: Path, fault: Fault
    ) -> None:
        done = each_command_fails(proxy, tools.tpm, uri_through(proxy, safe_file), PASSWORD, fault)
        assert len(done) > 20
        assert done[-1] == 3
        if fault in ("cut", "drop", "half"):
            assert min(done) == 2  # The one signature that an auth value was sent for is not repeated.

    @pytest.mark.parametrize("fault", ["cut", "drop", "half"])
    def test_key_without_an_auth_value_signs_in_spite_of_a_broken_connection(
        self, proxy: TPMProxy, tools: Tools, free_file: Path, fault: Fault
    ) -> None:
        done = each_command_fails(proxy, tools.tpm, uri_through(proxy, free_file), None, fault)
        assert len(done) > 10
        assert set(done) == {3}

    def test_command_that_the_tpm_wants_again_is_repeated(self, proxy: TPMProxy, tools: Tools, safe_file: Path) -> None:
        assert set(each_command_fails(proxy, tools.tpm, uri_through(proxy, safe_file), PASSWORD, RETRY)) == {3}

    def test_nothing_is_left_when_the_connection_breaks_again_and_again(
        self, proxy: TPMProxy, tools: Tools, safe_file: Path
    ) -> None:
        proxy.loses_handles = False
        for period in range(2, 9):
            left = count()
            proxy.decide = lambda command: "drop" if next(left) % period == 0 else "pass"  # noqa: B023
            use(uri_through(proxy, safe_file), PASSWORD)
            proxy.decide = lambda command: "pass"
            with open_key(uri_through(proxy, safe_file), PASSWORD) as key:
                assert key.sign(b"message")
            assert handles_in(tools.tpm) == []

    @pytest.mark.parametrize("then", ["sign", "close"])
    def test_what_could_not_be_flushed_is_flushed_by_the_next_use_or_by_closing(
        self, proxy: TPMProxy, tools: Tools, free_file: Path, then: str
    ) -> None:
        key = open_key(uri_through(proxy, free_file))
        proxy.decide = lambda command: "cut" if int.from_bytes(command[6:10]) in (SIGN, FLUSH_CONTEXT) else "pass"
        with pytest.raises(BackendUnavailableError, match="does not answer"):
            key.sign(b"message")
        assert handles_in(tools.tpm) == ["0x80000000"]
        proxy.decide = lambda command: "pass"
        if then == "sign":
            assert key.sign(b"message")
            assert handles_in(tools.tpm) == []
        key.close()
        assert handles_in(tools.tpm) == []

    def test_objects_of_other_programs_stay(self, proxy: TPMProxy, tools: Tools, safe_file: Path) -> None:
        proxy.loses_handles = False
        esys = ESAPI(tools.tpm.tcti)
        primary = esys.create_primary(None, "ecc256:aes128cfb", ESYS_TR.RH_NULL)[0]
        no_cipher = TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL)
        session = esys.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC, no_cipher, TPM2_ALG.SHA256)
        theirs = handles_in(tools.tpm)
        assert len(theirs) == 2
        for number in range(0, 34, 3):
            proxy.at(number, "drop")
            use(uri_through(proxy, safe_file), PASSWORD)
            assert handles_in(tools.tpm) == theirs
        for handle in (primary, session):
            esys.flush_context(handle)
        esys.close()

    def test_full_tpm_is_an_error_that_says_how_to_make_room(
        self, proxy: TPMProxy, tools: Tools, free_file: Path
    ) -> None:
        """After three lost answers."""
        with open_key(uri_through(proxy, free_file)) as key:
            for _ in range(2):
                proxy.at(0, "drop")
                assert key.sign(b"message")
            proxy.at(0, "drop")
            with pytest.raises(BackendUnavailableError, match=r"no free slot.*Run tpm2_flushcontext -t"):
                key.sign(b"message")
            run(["tpm2_flushcontext", "-t"], tools.tpm.env)
            assert key.sign(b"message")


class TestPatience:
    def test_busy_tpm_is_an_error_after_a_while(
        self, proxy: TPMProxy, free_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "_PATIENCE_SECONDS", 0.05)
        with open_key(uri_through(proxy, free_file)) as key:
            proxy.decide = lambda command: RETRY if command[6:10] == SIGN.to_bytes(4) else "pass"
            with pytest.raises(BackendUnavailableError, match="is busy with its own work"):
                key.sign(b"message")
            proxy.decide = lambda command: "pass"
            assert key.sign(b"message")

    @pytest.mark.parametrize("code", [RETRY, NV_RATE, YIELDED, TESTING])
    def test_busy_tpm_is_asked_more_often_than_the_library_does(
        self, proxy: TPMProxy, free_file: Path, code: int
    ) -> None:
        with open_key(uri_through(proxy, free_file)) as key:
            left = [code] * 12
            proxy.decide = lambda command: left.pop() if left and command[6:10] == SIGN.to_bytes(4) else "pass"
            assert key.sign(b"message")
            assert left == []


class TestAuthIsNotSentAgain:
    """If the connection breaks in the middle of a signature, the TPM may have counted a wrong auth value or not."""

    @pytest.fixture
    def key(self, proxy: TPMProxy, locked_file: Path, tools: Tools) -> str:
        tools.set_lockout(5)
        return uri_through(proxy, locked_file)

    def sign_and_break(self, proxy: TPMProxy, key: Key, fault: Fault) -> None:
        proxy.exchanges.clear()
        proxy.decide = lambda command: fault if command[6:10] == SIGN.to_bytes(4) else "pass"
        with pytest.raises(BackendUnavailableError):
            key.sign(b"message")
        proxy.decide = lambda command: "pass"
        assert proxy.codes.count(SIGN) == 1

    @pytest.mark.parametrize("session", ["plain", "encrypted"])
    @pytest.mark.parametrize("fault", ["cut", "drop"])
    def test_key_signs_again_when_the_tpm_counts_no_more_than_before(
        self, proxy: TPMProxy, key: str, fault: Fault, session: str
    ) -> None:
        with open_key(f"{key}&session={session}", PASSWORD) as opened:
            self.sign_and_break(proxy, opened, fault)
            assert opened.sign(b"message")  # It was right, or the TPM did not see it.
            self.sign_and_break(proxy, opened, fault)
            assert opened.sign(b"message")

    @pytest.mark.parametrize("session", ["plain", "encrypted"])
    def test_auth_value_is_not_sent_again_when_the_tpm_counted_it(
        self, proxy: TPMProxy, tools: Tools, key: str, session: str
    ) -> None:
        key = f"{key}&session={session}"
        with open_key(key, lambda request: "wrong") as opened:
            self.sign_and_break(proxy, opened, "drop")
            for _ in range(2):
                with pytest.raises(PinLockedError, match=r"when the connection broke.*is not sent again"):
                    opened.sign(b"message")
        assert tools.counted_failures() == 1

    def test_stored_auth_value_is_not_sent_again_by_the_next_process(
        self, proxy: TPMProxy, tools: Tools, key: str
    ) -> None:
        with open_key(key, "wrong") as opened:
            self.sign_and_break(proxy, opened, "drop")
        with open_key(key, "wrong") as opened, pytest.raises(PinLockedError, match="an earlier TPM auth value"):
            opened.sign(b"message")
        assert tools.counted_failures() == 1

    def test_next_process_signs_when_the_tpm_never_saw_the_auth_value(
        self, proxy: TPMProxy, tools: Tools, key: str
    ) -> None:
        with open_key(key, PASSWORD) as opened:
            self.sign_and_break(proxy, opened, "cut")
        with open_key(key, PASSWORD) as opened:
            assert opened.sign(b"message")
        assert tools.counted_failures() == 0


def test_auth_value_is_not_sent_to_another_key_at_the_same_handle(proxy: TPMProxy, tools: Tools) -> None:
    handle = 0x81004730
    evict = ["tpm2_evictcontrol", "-Q", "-C", "o", "-c", hex(handle)]
    tools.tpm.persist(handle, "ecc256", PASSWORD)
    try:
        with open_key(f"handle:{handle:#x}?tcti={proxy.tcti}", PASSWORD) as key:
            assert key.sign(b"message")
            tools.run(*evict)
            tools.tpm.persist(handle, "ecc256", "another")
            proxy.exchanges.clear()
            proxy.at(0, "cut")  # The handle is looked up again on the new connection.
            with pytest.raises(KeyNotFoundError, match=f"another key at handle:{handle:#x} than before"):
                key.sign(b"message")
        assert SIGN not in proxy.codes
        assert tools.counted_failures() == 0
    finally:
        tools.run(*evict)


@pytest.mark.parametrize(("code", "words"), [(FAILURE, r"failed with key .*TPM failure"), (0x120, r"refused key .*")])
def test_unknown_refusal_is_quoted(proxy: TPMProxy, free_file: Path, code: int, words: str) -> None:
    with open_key(uri_through(proxy, free_file)) as key:
        proxy.decide = lambda command: code if command[6:10] == SIGN.to_bytes(4) else "pass"
        with pytest.raises(SigningKeyError, match=words):
            key.sign(b"message")
