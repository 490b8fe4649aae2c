"""The auth values of a key's parent, and of the hierarchy of its primary key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tpm2.test_faults import uri_through
from backends.tpm2.tpms import NODA, PASSWORD, SIGNING, Tools, read_der, sign_and_verify
from hwsigner._pins import PinRequest, PinSource
from hwsigner.errors import PinError, PinLockedError, PinRequiredError, UsageError, WrongPinError
from hwsigner.key import open_key
from softhsm.command import run
from softhsm.tpm import SoftTPM
from tpm_proxy import TPMProxy

SECRET = "parent-4711"
HANDLE = "0x81004713"


class Asked:
    """Answers requests for PINs by their kind, and records the requests."""

    def __init__(self, **answers: str) -> None:
        self.requests: list[PinRequest] = []
        self._answers = answers

    def __call__(self, request: PinRequest) -> str | None:
        self.requests.append(request)
        return self._answers.get(request.kind.removeprefix("TPM ").removesuffix("auth value").strip() or "key")


@pytest.fixture
def key_under(tools: Tools, persistent_parent: str) -> Path:
    """A key file under a persistent parent with the auth value SECRET; the key's own is PASSWORD."""
    tools.set_lockout(5)
    parts = ["-u", str(tools.path("public")), "-r", str(tools.path("private"))]
    make = ["tpm2_create", "-Q", "-C", persistent_parent, "-P", SECRET, "-G", "ecc256", "-p", PASSWORD]
    tools.run(*make, "-a", f"{SIGNING}|noda", *parts)
    return tools.encode(persistent_parent, tools.path("key.pem"), "-P", SECRET, is_empty=False)


@pytest.fixture
def secret_file(tools: Tools) -> str:
    path = tools.path("parent-pin")
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return f"file:{path}"


@pytest.mark.parametrize("persistent_parent", [SECRET], indirect=True)
class TestParent:
    def test_parent_s_auth_value_has_a_source_of_its_own(self, tools: Tools, key_under: Path, secret_file: str) -> None:
        uri = f"{tools.tpm.uri(key_under)}&parent-pin-source={secret_file}"
        assert sign_and_verify(uri, tools.public_key(), tools.folder, PASSWORD)
        assert tools.counted_failures() == 0  # The empty one was not tried.

    def test_no_auth_value_is_sent_unless_the_session_is_plain(
        self, tools: Tools, proxy: TPMProxy, key_under: Path, secret_file: str
    ) -> None:
        uri = uri_through(proxy, key_under, f"&parent-pin-source={secret_file}")
        for query, is_seen in (("", False), ("&session=plain", True)):
            with open_key(uri + query, PASSWORD) as key:
                assert key.sign(b"message")
            for secret in (SECRET, PASSWORD):
                assert (secret.encode() in proxy.stream) is is_seen

    def test_parent_s_auth_value_is_asked_for_once(self, tools: Tools, key_under: Path) -> None:
        asked = Asked(parent=SECRET, key=PASSWORD)
        with open_key(tools.tpm.uri(key_under), asked) as key:
            assert key.sign(b"message")
            assert key.sign(b"message")
        assert asked.requests == [
            PinRequest("TPM parent auth value", HANDLE),
            PinRequest("TPM auth value", str(key_under)),
        ]
        assert tools.counted_failures() == 1  # The empty one was tried first.

    def test_empty_auth_value_is_not_tried_again_by_the_next_process(self, tools: Tools, key_under: Path) -> None:
        for state in ("", "an earlier try failed", "an earlier try failed"):
            asked = Asked(parent=SECRET, key=PASSWORD)
            open_key(tools.tpm.uri(key_under), asked).close()
            assert asked.requests[0] == PinRequest("TPM parent auth value", HANDLE, state)
        assert tools.counted_failures() == 1

    def test_key_s_auth_value_is_not_sent_to_its_parent(self, tools: Tools, proxy: TPMProxy, key_under: Path) -> None:
        with pytest.raises(
            PinRequiredError,
            match=rf"{HANDLE} needs its TPM parent auth value, and none was given.*parent-pin-source",
        ):
            open_key(uri_through(proxy, key_under, "&session=plain&pin-value=mine"), "mine")
        assert b"mine" not in proxy.stream

    def test_wrong_auth_value_is_sent_once(self, tools: Tools, key_under: Path, secret_file: str) -> None:
        Path(secret_file.removeprefix("file:")).write_text("wrong")
        uri = f"{tools.tpm.uri(key_under)}&parent-pin-source={secret_file}"
        with pytest.raises(WrongPinError, match=f"wrong TPM parent auth value for {HANDLE}: 4 attempts are left"):
            open_key(uri, PASSWORD)
        for _ in range(2):
            with pytest.raises(PinLockedError, match="an earlier TPM parent auth value"):
                open_key(uri, PASSWORD)
        with pytest.raises(WrongPinError):
            open_key(tools.tpm.uri(key_under), Asked(parent="wrong"))
        assert tools.counted_failures() == 2

    def test_auth_value_that_may_lock_the_tpm_is_not_sent(
        self, tools: Tools, key_under: Path, secret_file: str
    ) -> None:
        tools.set_lockout(1)
        uri = tools.tpm.uri(key_under)
        for given in (uri, f"{uri}&parent-pin-source={secret_file}"):
            with pytest.raises(PinLockedError, match=r"locks at 1, so none was sent for 0x.*--allow-final-pin-try"):
                open_key(given, Asked(parent=SECRET, key=PASSWORD))
        assert tools.counted_failures() == 0
        pins = PinSource(PASSWORD, allow_final_try=True)
        open_key(f"{uri}&parent-pin-source={secret_file}", pins).close()

    def test_other_keys_sign_while_the_user_is_asked(self, tools: Tools, key_under: Path) -> None:
        other = tools.tpm.folder / "other.pem"
        tools.tpm.create_key_file(other, "EC:P-256")
        signatures = []

        def answer(request: PinRequest) -> str:
            with open_key(tools.tpm.uri(other)) as key:
                signatures.append(key.sign(b"message"))
            return SECRET if "parent" in request.kind else PASSWORD

        open_key(tools.tpm.uri(key_under), answer).close()
        assert len(signatures) == 2


@pytest.fixture
def owned(swtpm: SoftTPM, tools: Tools) -> Iterator[Path]:
    """A key file under a primary key of the owner hierarchy, which has the auth value SECRET."""
    path = tools.key_file(attributes=f"{SIGNING}|noda", primary=("-G", "ecc", *NODA), auth=PASSWORD)
    tools.run("tpm2_changeauth", "-Q", "-c", "owner", SECRET)
    yield path
    tools.run("tpm2_changeauth", "-Q", "-c", "owner", "-p", SECRET)


class TestOwner:
    def test_owner_s_auth_value_is_never_sent(
        self, tools: Tools, proxy: TPMProxy, owned: Path, secret_file: str
    ) -> None:
        uri = uri_through(proxy, owned, f"&owner-pin-source={secret_file}")
        with open_key(uri, PASSWORD) as key:
            for _ in range(3):
                assert key.sign(b"message")
        assert SECRET.encode() not in proxy.stream
        assert PASSWORD.encode() not in proxy.stream

    def test_wrong_auth_value_is_asked_for_once(self, tools: Tools, owned: Path) -> None:
        asked = Asked(owner="wrong", key=PASSWORD)
        with pytest.raises(WrongPinError, match="wrong TPM owner auth value for the owner hierarchy"):
            open_key(tools.tpm.uri(owned), asked)
        assert len(asked.requests) == 1
        assert tools.counted_failures() == 0

    def test_owner_s_auth_value_is_not_asked_for_again_after_a_restart_of_the_tpm(
        self, tools: Tools, owned: Path, proxy: TPMProxy
    ) -> None:
        asked = Asked(owner=SECRET, key=PASSWORD)
        with open_key(uri_through(proxy, owned), asked) as key:
            assert key.sign(b"message")
            proxy.at(0, 0x1DF)  # As after a reset, the saved context is of no use.
            assert key.sign(b"message")
        assert len(asked.requests) == 2


@pytest.mark.parametrize(("hierarchy", "handle"), [("owner", 1), ("endorsement", 0xB), ("platform", 0xC)])
class TestHierarchy:
    @pytest.fixture
    def uri(self, tools: Tools, hierarchy: str, handle: int) -> Iterator[str]:
        """A key under a hierarchy that gets an auth value."""
        path = tools.key_file(primary=("-C", hierarchy, "-G", "ecc"))
        path.write_bytes(
            read_der(path).replace(bytes.fromhex("020440000001"), bytes.fromhex(f"02044000{handle:04x}"), 1)
        )
        tools.run("tpm2_changeauth", "-c", hierarchy, SECRET)
        yield tools.tpm.uri(path)
        run(["tpm2_changeauth", "-c", hierarchy, "-p", SECRET], tools.tpm.env)

    def test_hierarchy_s_auth_value_has_a_source_of_its_own(
        self, tools: Tools, hierarchy: str, uri: str, secret_file: str
    ) -> None:
        whole = f"{uri}&{hierarchy}-pin-source={secret_file}"
        assert sign_and_verify(whole, tools.public_key(), tools.folder)

    def test_hierarchy_s_auth_value_is_asked_for(self, tools: Tools, hierarchy: str, uri: str) -> None:
        asked = Asked(**{hierarchy: SECRET})
        with open_key(uri, asked) as key:
            assert key.sign(b"message")
        assert asked.requests == [PinRequest(f"TPM {hierarchy} auth value", f"the {hierarchy} hierarchy")]

    def test_wrong_or_missing_auth_value_of_a_hierarchy_does_not_count(
        self, tools: Tools, hierarchy: str, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WRONG", "wrong")
        with pytest.raises(WrongPinError, match=f"wrong TPM {hierarchy} auth value for the {hierarchy} hierarchy"):
            open_key(f"{uri}&{hierarchy}-pin-source=env:WRONG")
        with pytest.raises(PinError, match=f"{hierarchy} auth value"):
            open_key(uri)
        assert tools.counted_failures() == 0


def test_source_that_can_not_be_read_is_an_error(tools: Tools, ec_file: Path) -> None:
    path = tools.key_file(attributes=f"{SIGNING}|noda", primary=("-G", "ecc", *NODA))
    with pytest.raises(PinError, match="/nowhere"):
        open_key(f"{tools.tpm.uri(path)}&owner-pin-source=file:/nowhere", "")
    with pytest.raises(UsageError, match="grandparent-pin-source"):
        open_key(f"{tools.tpm.uri(path)}&grandparent-pin-source=file:/nowhere", "")
