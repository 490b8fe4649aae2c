"""Keys with policies. tpm2-tools make the policies' digests and the keys, so they judge what is executed here."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

import judges
from backends.contract import openssl_verifies
from backends.tpm2.tpms import PASSWORD, Tools, sign_and_verify
from examples import scaled
from hwsigner._pins import PinSource
from hwsigner._uri import KeyURI
from hwsigner.backends.tpm2.encode import write_tss2
from hwsigner.backends.tpm2.key_file import AuthPolicy, PolicyCommand, TSS2Key, parse_tss2
from hwsigner.backends.tpm2.objects import LoadableObject, ParentAuth
from hwsigner.backends.tpm2.policy_commands import UnknownCommandError, read_command
from hwsigner.errors import PinRequiredError, SigningKeyError, UnsupportedKeyError, WrongPinError
from hwsigner.key import open_key
from softhsm.command import run

pytestmark = pytest.mark.usefixtures("refused_auth")

AUTHORIZE, AUTH_VALUE, OR, PCR, PASSWORD_COMMAND = 0x16A, 0x16B, 0x171, 0x17F, 0x18C
BY_POLICY = "fixedtpm|fixedparent|sensitivedataorigin|sign"
SHA256 = 0xB
RESETTABLE = 16  # Any program may extend and reset it (PC Client profile, 3.3.4).


class Policies:
    """Policies made with tpm2-tools, each as its digest in a file, and keys that have them."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools

    def run(self, *commands: tuple[str, ...], hash_name: str = "sha256") -> Path:
        """Return the file with the digest of a policy of these tpm2_policy… commands."""
        session, digest = self.tools.path("trial"), self.tools.path("trial-digest")
        self.tools.run("tpm2_startauthsession", "-S", str(session), "-g", hash_name, flush=False)
        for name, *arguments in commands:
            self.tools.run(f"tpm2_policy{name}", "-Q", "-S", str(session), "-L", str(digest), *arguments, flush=False)
        self.tools.run("tpm2_flushcontext", str(session))
        kept = self.tools.path(f"digest-{hashlib.sha256(repr(commands).encode()).hexdigest()[:8]}")
        kept.write_bytes(digest.read_bytes())
        return kept

    def key(
        self, digest: Path, *commands: PolicyCommand, auth: str = "", hash_name: str = "sha256", noda: bool = False
    ) -> TSS2Key:
        """Return the file of a key that has a policy with this digest, of these commands."""
        attributes = f"{BY_POLICY}|noda" if noda else BY_POLICY
        options = ["-L", str(digest), "-g", hash_name, "-a", attributes, *(["-p", auth] if auth else [])]
        self.tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", str(self.tools.path("primary")))
        parts = ["-u", str(self.tools.path("public")), "-r", str(self.tools.path("private"))]
        self.tools.run("tpm2_create", "-Q", "-C", str(self.tools.path("primary")), "-G", "ecc256", *parts, *options)
        return TSS2Key(not auth, 0x40000001, *self.tools.parts(), policy=commands)

    def signs(self, key: TSS2Key, pin: str | None = None) -> bool:
        """Return whether a key signs, twice while it is open and again when it is opened again."""
        uri, public = self.tools.tpm.uri(self.tools.write(key)), self.tools.public_key()
        with open_key(uri, pin) as opened:
            for message in (b"one", b"another"):
                assert openssl_verifies(self.tools.folder, public, opened.sign(message), message, "sha256")
        return sign_and_verify(uri, public, self.tools.folder, pin)


@pytest.fixture
def policies(tools: Tools) -> Iterator[Policies]:
    yield Policies(tools)
    tools.run("tpm2_pcrreset", str(RESETTABLE), "23")


def extend(tools: Tools, pcr: int) -> None:
    """Change a PCR."""
    tools.run("tpm2_pcrextend", f"{pcr}:sha256={'ab' * 32}")


def selection(*pcrs: int, bank: int = SHA256) -> bytes:
    """Return a TPML_PCR_SELECTION of one bank."""
    return struct.pack(">IHB", 1, bank, 3) + sum(1 << pcr for pcr in pcrs).to_bytes(3, "little")


def pcr_digest(tools: Tools, *pcrs: int, bank: str = "sha256", hash_name: str = "sha256") -> bytes:
    """Return the digest of the present values of PCRs."""
    values = tools.path("values")
    tools.run("tpm2_pcrread", "-Q", f"{bank}:{','.join(map(str, pcrs))}", "-o", str(values))
    return hashlib.new(hash_name, values.read_bytes()).digest()


def as_drafted(selected: bytes, digest: bytes) -> PolicyCommand:
    """Return a PolicyPCR as the draft has it, and ssh-tpm-agent and others: the command's parameters."""
    return PolicyCommand(PCR, struct.pack(">H", len(digest)) + digest + selected)


def as_by_the_engine(selected: bytes, digest: bytes) -> PolicyCommand:
    """Return a PolicyPCR as openssl_tpm2_engine writes it."""
    return PolicyCommand(PCR, selected + digest)


def or_command(*digests: Path) -> PolicyCommand:
    """Return a PolicyOR."""
    marshalled = [struct.pack(">H", 32) + digest.read_bytes() for digest in digests]
    return PolicyCommand(OR, struct.pack(">I", len(digests)) + b"".join(marshalled))


class TestPCR:
    @pytest.mark.parametrize("write", [as_drafted, as_by_the_engine])
    @pytest.mark.parametrize("pcrs", [(16,), (0, 7), pytest.param(tuple(range(24)), marks=judges.needs_tpm2_tools)])
    def test_key_signs_while_the_pcrs_are_the_same(
        self, policies: Policies, write: Callable[[bytes, bytes], PolicyCommand], pcrs: tuple[int, ...]
    ) -> None:
        names = f"sha256:{','.join(map(str, pcrs))}"
        digest = policies.run(("pcr", "-l", names))
        assert policies.signs(policies.key(digest, write(selection(*pcrs), pcr_digest(policies.tools, *pcrs))))

    @pytest.mark.parametrize("bank", ["sha1", "sha384"])
    def test_key_signs_with_pcrs_of_other_banks_and_a_policy_of_another_hash(
        self, policies: Policies, bank: str
    ) -> None:
        number, hash_name = {"sha1": (4, "sha384"), "sha384": (0xC, "sha512")}[bank]
        digest = policies.run(("pcr", "-l", f"{bank}:1,2"), hash_name=hash_name)
        wanted = pcr_digest(policies.tools, 1, 2, bank=bank, hash_name=hash_name)
        command = as_drafted(selection(1, 2, bank=number), wanted)
        assert policies.signs(policies.key(digest, command, hash_name=hash_name))

    def test_policy_is_not_satisfied_when_the_tpm_lacks_the_bank(self, policies: Policies) -> None:
        command = as_drafted(selection(7, bank=0x12), bytes(32))
        digest = policies.tools.path("digest")
        digest.write_bytes(hashlib.sha256(bytes(32) + struct.pack(">I", PCR) + command.body[34:] + bytes(32)).digest())
        uri = policies.tools.tpm.uri(policies.tools.write(policies.key(digest, command)))
        with open_key(uri) as opened, pytest.raises(SigningKeyError, match="this TPM lacks a bank of PCR sm3_256:7"):
            opened.sign(b"message")

    def test_policy_without_a_digest_is_checked_at_the_signature(self, policies: Policies) -> None:
        """The TPM takes the PCRs as they are; only at the signature it compares them with what the key wants."""
        tools = policies.tools
        digest = policies.run(("pcr", "-l", "sha256:16"))
        key = policies.key(digest, as_drafted(selection(16), b""))
        assert policies.signs(key)
        extend(tools, 16)
        with (
            open_key(tools.tpm.uri(tools.write(key))) as opened,
            pytest.raises(
                SigningKeyError, match=r"policy of key .*written\.pem is not satisfied: the TPM does not say why"
            ),
        ):
            opened.sign(b"message")

    def test_auth_value_is_not_asked_for_when_the_policy_does_not_want_it(self, policies: Policies) -> None:
        digest = policies.run(("pcr", "-l", "sha256:16"))
        key = policies.key(digest, as_drafted(selection(16), pcr_digest(policies.tools, 16)), auth=PASSWORD)
        assert policies.signs(key)  # Nobody is asked for it.


class TestPCRsThatDiffer:
    @pytest.fixture
    def key(self, policies: Policies) -> TSS2Key:
        """A key that wants PCRs 7, 16 and 23 as they are, after 16 was extended."""
        extend(policies.tools, 16)
        digest = policies.run(("pcr", "-l", "sha256:7,16,23"))
        return policies.key(digest, as_drafted(selection(7, 16, 23), pcr_digest(policies.tools, 7, 16, 23)))

    def refusal(self, policies: Policies, key: TSS2Key) -> str:
        uri = policies.tools.tpm.uri(policies.tools.write(key))
        with open_key(uri) as opened, pytest.raises(SigningKeyError, match=r"key .*written\.pem is not sat") as caught:
            opened.sign(b"message")
        assert policies.tools.left_over() == ""
        assert caught.value.hint.startswith("Restore that state of the machine")
        return caught.value.message.partition("satisfied: ")[2]

    def test_error_names_the_selected_pcrs(self, policies: Policies, key: TSS2Key) -> None:
        extend(policies.tools, 23)
        selected = "sha256:7, sha256:16, sha256:23"
        told = self.refusal(policies, key)
        assert told == f"PCR {selected}: at least one has another value than the policy wants"

    def test_error_names_a_single_pcr(self, policies: Policies) -> None:
        extend(policies.tools, 16)
        digest = policies.run(("pcr", "-l", "sha256:16"))
        key = policies.key(digest, as_drafted(selection(16), pcr_digest(policies.tools, 16)))
        extend(policies.tools, 16)
        assert self.refusal(policies, key) == "PCR sha256:16 has another value than the policy wants"

    def test_open_key_signs_again_when_the_pcr_is_restored(self, policies: Policies, key: TSS2Key) -> None:
        tools = policies.tools
        with open_key(tools.tpm.uri(tools.write(key))) as opened:
            assert opened.sign(b"message")
            extend(tools, 23)
            for _ in range(2):
                with pytest.raises(SigningKeyError, match="PCR sha256:7, sha256:16, sha256:23"):
                    opened.sign(b"message")
            tools.run("tpm2_pcrreset", "23")
            assert opened.sign(b"message")


class TestAuthValue:
    @pytest.mark.parametrize("name", ["authvalue", "password"])
    def test_auth_value_is_proven(self, policies: Policies, name: str) -> None:
        code = {"authvalue": AUTH_VALUE, "password": PASSWORD_COMMAND}[name]
        key = policies.key(policies.run((name,)), PolicyCommand(code), auth=PASSWORD)
        assert policies.signs(key, PASSWORD)
        uri = policies.tools.tpm.uri(policies.tools.path("written.pem"))
        with open_key(uri, "wrong") as opened, pytest.raises(WrongPinError, match="2 attempts are left"):
            opened.sign(b"message")
        with pytest.raises(PinRequiredError):
            open_key(uri)

    def test_wrong_auth_value_is_not_sent_when_a_pcr_before_it_differs(self, policies: Policies) -> None:
        tools = policies.tools
        digest = policies.run(("pcr", "-l", "sha256:16"), ("authvalue",))
        pcr = as_drafted(selection(16), pcr_digest(tools, 16))
        key = policies.key(digest, pcr, PolicyCommand(AUTH_VALUE), auth=PASSWORD)
        assert policies.signs(key, PASSWORD)
        extend(tools, 16)
        uri = tools.tpm.uri(tools.path("written.pem"))
        with open_key(uri, "wrong") as opened, pytest.raises(SigningKeyError, match="PCR sha256:16"):
            opened.sign(b"message")
        assert tools.counted_failures() == 0

    def test_policy_of_the_auth_value_need_not_be_listed(self, policies: Policies) -> None:
        """tpm2_encodeobject lists no policy, and a handle can't."""
        key = policies.key(policies.run(("authvalue",)), auth=PASSWORD)
        assert policies.signs(key, PASSWORD)
        with policies.tools.persisted() as handle:
            uri = policies.tools.tpm.uri(handle)
            assert sign_and_verify(uri, policies.tools.public_key(), policies.tools.folder, PASSWORD)


class TestOR:
    @pytest.fixture
    def branches(self, policies: Policies) -> tuple[Path, Path]:
        """The digests of a policy of a PCR, and of one of an auth value."""
        return policies.run(("pcr", "-l", "sha256:16")), policies.run(("authvalue",))

    @pytest.fixture
    def key(self, policies: Policies, branches: tuple[Path, Path]) -> TSS2Key:
        """A key with both branches, which lists none before its PolicyOR."""
        digest = policies.run(("or", "-l", f"sha256:{branches[0]},{branches[1]}"))
        return policies.key(digest, or_command(*branches), auth=PASSWORD)

    @pytest.fixture
    def pcr(self, tools: Tools) -> PolicyCommand:
        return as_drafted(selection(16), pcr_digest(tools, 16))

    def test_key_signs_with_the_branch_that_is_listed_before_the_or(
        self, policies: Policies, key: TSS2Key, pcr: PolicyCommand
    ) -> None:
        assert policies.signs(key._replace(policy=(pcr, *key.policy)))
        assert policies.signs(key._replace(policy=(PolicyCommand(AUTH_VALUE), *key.policy)), PASSWORD)

    def test_key_signs_with_the_branch_that_is_satisfied(
        self, policies: Policies, key: TSS2Key, pcr: PolicyCommand
    ) -> None:
        auth_value, of_pcr = AuthPolicy((PolicyCommand(AUTH_VALUE),), "password"), AuthPolicy((pcr,), "boot")
        both = key._replace(auth_policies=(auth_value, of_pcr))
        assert policies.signs(both)  # The auth value is not asked for, nor sent.
        extend(policies.tools, 16)
        assert policies.signs(both, PASSWORD)
        with (
            open_key(policies.tools.tpm.uri(policies.tools.path("written.pem"))) as opened,
            pytest.raises(SigningKeyError, match=r"boot: PCR sha256:16.*; password: it takes the key's auth value"),
        ):
            opened.sign(b"message")
        assert policies.tools.counted_failures() == 0

    def test_key_signs_when_all_branches_are_listed_before_the_or(
        self, policies: Policies, key: TSS2Key, pcr: PolicyCommand
    ) -> None:
        listed = key._replace(policy=(PolicyCommand(AUTH_VALUE), pcr, *key.policy))
        assert policies.signs(listed)
        extend(policies.tools, 16)
        assert policies.signs(listed, PASSWORD)

    def test_or_without_a_branch_is_refused(self, policies: Policies, key: TSS2Key) -> None:
        with pytest.raises(UnsupportedKeyError, match="is not its key's"):
            policies.signs(key)


class TestAuthorize:
    """Policies that the holder of a key has signed."""

    REFERENCE = b"for web"

    @pytest.fixture(params=["rsa", "ecc"])
    def holder(self, tools: Tools, request: pytest.FixtureRequest) -> Path:
        """The private key that signs policies."""
        kinds = {"rsa": ["RSA"], "ecc": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]}
        path, public, context = tools.path("holder.pem"), tools.path("holder.pub"), str(tools.path("holder.ctx"))
        run(["openssl", "genpkey", "-quiet", "-algorithm", *kinds[request.param], "-out", str(path)], {})
        run(["openssl", "pkey", "-in", str(path), "-pubout", "-out", str(public)], {})
        name = ["-n", str(tools.path("holder.name"))]
        tools.run(
            "tpm2_loadexternal",
            "-Q",
            "-C",
            "o",
            "-G",
            request.param,
            "-u",
            str(public),
            "-c",
            context,
            *name,
            flush=False,
        )
        tools.run("tpm2_readpublic", "-Q", "-c", context, "-o", str(tools.path("holder.tss")))
        return path

    def authorize(self, tools: Tools, signature: bytes = b"\0\x10") -> PolicyCommand:
        """Return a PolicyAuthorize, with an empty signature unless one is given."""
        reference = struct.pack(">H", len(self.REFERENCE)) + self.REFERENCE
        return PolicyCommand(AUTHORIZE, tools.path("holder.tss").read_bytes() + reference + signature)

    def signed(self, tools: Tools, holder: Path, policy: Path) -> PolicyCommand:
        """Return a PolicyAuthorize with the holder's signature of a policy."""
        message = tools.path("approved")
        message.write_bytes(policy.read_bytes() + self.REFERENCE)
        signature = run(["openssl", "dgst", "-sha256", "-sign", str(holder), str(message)], {})
        if len(signature) == 256:  # RSA-2048, and not DER of an ECDSA signature.
            marshalled = struct.pack(">HHH", 0x14, SHA256, len(signature)) + signature
        else:
            halves = [number.to_bytes(32, "big") for number in decode_dss_signature(signature)]
            marshalled = struct.pack(">HH", 0x18, SHA256) + b"".join(struct.pack(">H", 32) + half for half in halves)
        return self.authorize(tools, marshalled)

    @pytest.fixture
    def pcr(self, policies: Policies, holder: Path) -> Path:
        """The digest of the policy of a PCR."""
        return policies.run(("pcr", "-l", "sha256:16"))

    @pytest.fixture
    def key(self, policies: Policies, holder: Path, pcr: Path) -> TSS2Key:
        """A key that wants a signed policy."""
        tools = policies.tools
        tools.path("reference").write_bytes(self.REFERENCE)
        names = ["-n", str(tools.path("holder.name")), "-q", str(tools.path("reference"))]
        digest = policies.run(("authorize", "-i", str(pcr), *names))
        return policies.key(digest, self.authorize(tools))

    def boot(self, tools: Tools, holder: Path, pcr: Path, name: str = "boot") -> AuthPolicy:
        """Return the signed policy of a PCR as it is now."""
        command = as_drafted(selection(16), pcr_digest(tools, 16))
        return AuthPolicy((command, self.signed(tools, holder, pcr)), name)

    def test_key_signs_while_its_signed_policy_is_satisfied(
        self, policies: Policies, key: TSS2Key, holder: Path, pcr: Path
    ) -> None:
        signed = key._replace(auth_policies=(self.boot(policies.tools, holder, pcr),))
        assert policies.signs(signed)
        extend(policies.tools, 16)
        uri = policies.tools.tpm.uri(policies.tools.path("written.pem"))
        with open_key(uri) as opened, pytest.raises(SigningKeyError, match="boot: PCR sha256:16"):
            opened.sign(b"message")

    def test_key_signs_with_the_first_signed_policy_that_is_satisfied(
        self, policies: Policies, key: TSS2Key, holder: Path, pcr: Path
    ) -> None:
        tools = policies.tools
        old = self.boot(tools, holder, pcr, "old")
        extend(tools, 16)
        new = self.boot(tools, holder, policies.run(("pcr", "-l", "sha256:16")), "new")
        both = key._replace(auth_policies=(old, new))
        assert policies.signs(both)
        tools.run("tpm2_pcrreset", "16")
        assert policies.signs(both)
        extend(tools, 16)
        extend(tools, 16)
        uri = tools.tpm.uri(tools.path("written.pem"))
        with open_key(uri) as opened, pytest.raises(SigningKeyError, match=r"old: PCR sha256:16.*; new: PCR sha256:16"):
            opened.sign(b"message")

    def test_key_signs_when_the_signature_is_in_the_policy_itself(
        self, policies: Policies, key: TSS2Key, holder: Path, pcr: Path
    ) -> None:
        assert policies.signs(key._replace(policy=self.boot(policies.tools, holder, pcr).commands))

    def test_key_signs_with_a_signed_policy_and_its_auth_value(
        self, policies: Policies, key: TSS2Key, holder: Path, pcr: Path
    ) -> None:
        tools = policies.tools
        names = ["-n", str(tools.path("holder.name")), "-q", str(tools.path("reference"))]
        digest = policies.run(("authorize", "-i", str(pcr), *names), ("authvalue",))
        both = policies.key(digest, self.authorize(tools), PolicyCommand(AUTH_VALUE), auth=PASSWORD)
        assert policies.signs(both._replace(auth_policies=(self.boot(tools, holder, pcr),)), PASSWORD)

    def test_signature_of_another_policy_is_refused(
        self, policies: Policies, key: TSS2Key, holder: Path, pcr: Path
    ) -> None:
        tools = policies.tools
        wrong = AuthPolicy((PolicyCommand(AUTH_VALUE), self.signed(tools, holder, pcr)), "wrong")
        uri = tools.tpm.uri(tools.write(key._replace(auth_policies=(wrong,))))
        with (
            open_key(uri, "") as opened,
            pytest.raises(SigningKeyError, match="wrong: its signature is not of this policy"),
        ):
            opened.sign(b"message")
        assert tools.left_over() == ""

    def test_policy_with_another_reference_is_refused(
        self, policies: Policies, key: TSS2Key, holder: Path, pcr: Path
    ) -> None:
        command = self.signed(policies.tools, holder, pcr)
        other = command._replace(body=command.body.replace(self.REFERENCE, b"for www"))
        with pytest.raises(UnsupportedKeyError, match="is not its key's"):
            policies.signs(key._replace(policy=(other,)))

    def test_key_without_a_signed_policy_is_refused(self, policies: Policies, key: TSS2Key) -> None:
        with pytest.raises(UnsupportedKeyError, match=r"written\.pem needs a signed policy, and its file has none"):
            policies.signs(key)


UNKNOWN = {
    0x149: "PolicyNV",
    0x151: "PolicySecret",
    0x160: "PolicySigned",
    0x16C: "PolicyCommandCode",
    0x16D: "PolicyCounterTimer",
    0x16F: "PolicyLocality",
    0x172: "PolicyTicket",
    0x192: "PolicyAuthorizeNV",
    0x5000: "the unknown command 0x5000",
}


class TestRefusedPolicies:
    def test_unknown_command_is_refused_by_name(self, policies: Policies) -> None:
        key = policies.key(policies.run(("authvalue",)))
        for code, name in UNKNOWN.items():
            path = policies.tools.write(key._replace(policy=(PolicyCommand(AUTH_VALUE), PolicyCommand(code, b"?"))))
            # No TPM is asked: there is none at this TCTI.
            with pytest.raises(UnsupportedKeyError) as caught:
                open_key(f"tpm2:path={path}?tcti=swtpm:path=/hwsigner-none")
            assert caught.value.message == f"key {path} has a policy with {name}"
            assert "PolicyPCR" in caught.value.hint

    def test_branch_with_an_unknown_command_is_skipped(self, policies: Policies) -> None:
        digest = policies.run(("authvalue",))
        unknown, known = AuthPolicy((PolicyCommand(0x151),)), AuthPolicy((PolicyCommand(AUTH_VALUE),))
        branches = policies.run(("or", "-l", f"sha256:{digest},{digest}"))
        key = policies.key(branches, or_command(digest, digest), auth=PASSWORD)
        assert policies.signs(key._replace(auth_policies=(unknown, known)), PASSWORD)

    @pytest.mark.parametrize(
        "command",
        [
            PolicyCommand(PCR),
            PolicyCommand(PCR, b"\0\x20" + bytes(31)),
            PolicyCommand(PCR, selection(7)[:-1]),
            PolicyCommand(PCR, struct.pack(">I", 0xFFFFFFFF)),
            PolicyCommand(OR, b"\0\0\0\xff"),
            PolicyCommand(OR, struct.pack(">IHB", 1, 1, 0) + b"?"),
            PolicyCommand(AUTHORIZE),
            PolicyCommand(AUTHORIZE, b"\0\x04abcd"),
        ],
    )
    def test_damaged_parameters_are_refused(self, policies: Policies, command: PolicyCommand) -> None:
        path = policies.tools.write(policies.key(policies.run(("authvalue",)), command))
        with pytest.raises(UnsupportedKeyError, match=f"policy of key {path} can't be read|in file {path} is not its"):
            open_key(f"tpm2:path={path}?tcti=swtpm:path=/hwsigner-none")

    def test_policy_of_another_key_is_refused(self, policies: Policies) -> None:
        key = policies.key(policies.run(("pcr", "-l", "sha256:7")), as_drafted(selection(7), bytes(32)))
        path = policies.tools.write(key)
        with pytest.raises(UnsupportedKeyError, match=f"the policy in file {path} is not its key's"):
            open_key(f"tpm2:path={path}?tcti=swtpm:path=/hwsigner-none")

    def test_policy_that_is_not_listed_is_refused(self, policies: Policies) -> None:
        key = policies.key(policies.run(("pcr", "-l", "sha256:7")))
        path = policies.tools.write(key)
        with pytest.raises(UnsupportedKeyError, match=f"key {path} has a policy that its file does not list"):
            open_key(f"tpm2:path={path}?tcti=swtpm:path=/hwsigner-none")

    def test_policy_of_a_handle_is_refused(self, policies: Policies) -> None:
        policies.key(policies.run(("pcr", "-l", "sha256:7")))
        with (
            policies.tools.persisted() as handle,
            pytest.raises(UnsupportedKeyError, match=f"key handle:{handle:#x} has a policy.*Name its TSS2 key file"),
        ):
            open_key(policies.tools.tpm.uri(handle))

    def test_policy_is_not_executed_when_the_auth_value_suffices(self, policies: Policies) -> None:
        """A key with userWithAuth: its policy is an alternative that is not needed."""
        tools = policies.tools
        tools.key_file(auth=PASSWORD)
        key = TSS2Key(False, 0x40000001, *tools.parts(), policy=(PolicyCommand(0x151),))
        assert policies.signs(key, PASSWORD)


# A P-256 key's public area with a policy.
PUBLIC = bytes.fromhex("00760023000b000400320020") + bytes(32) + bytes.fromhex("0010001000030010")
PUBLIC += b"\0\x20" + b"x" * 32 + b"\0\x20" + b"y" * 32
NO_PARENT_AUTH = ParentAuth(KeyURI.parse("tpm2:path=k.pem"), PinSource())


def test_policy_of_an_unknown_hash_is_refused() -> None:
    public = PUBLIC.replace(b"\0\x0b", b"\0\x12", 1)
    with pytest.raises(UnsupportedKeyError, match=r"key k\.pem has a policy with the hash sm3_256"):
        LoadableObject(TSS2Key(True, 0x40000001, public, b"\0\4abcd"), "k.pem", NO_PARENT_AUTH)


class TestAnyBytes:
    """Any content of a file is read or refused by name; no TPM is asked."""

    @given(
        code=st.sampled_from([AUTHORIZE, AUTH_VALUE, OR, PCR, PASSWORD_COMMAND]) | st.integers(0, 1 << 64),
        body=st.binary(max_size=120),
    )
    def test_any_command_is_read_or_refused(self, code: int, body: bytes) -> None:
        with contextlib.suppress(ValueError, UnknownCommandError):
            assert read_command(PolicyCommand(code, body)).extended(bytes(32), "sha256") != b""

    @pytest.mark.parametrize(
        "command",
        [
            as_drafted(selection(7), bytes(32)),
            PolicyCommand(OR, struct.pack(">IH", 1, 32) + bytes(32)),
            PolicyCommand(AUTHORIZE, PUBLIC + b"\0\0" + struct.pack(">HHH", 0x14, SHA256, 1) + b"s"),
        ],
    )
    def test_command_with_too_many_parameters_is_refused(self, command: PolicyCommand) -> None:
        read_command(command)
        with pytest.raises(ValueError, match=r"too many parameters|cut short"):
            read_command(command._replace(body=command.body + b"?"))

    def test_selection_of_too_many_pcrs_is_refused(self) -> None:
        with pytest.raises(ValueError, match="TPML_PCR_SELECTION can't be read"):
            read_command(PolicyCommand(PCR, bytes(2) + struct.pack(">IHB", 1, SHA256, 5) + bytes(5)))

    @given(pcrs=st.sets(st.integers(0, 23)), digest=st.binary(min_size=32, max_size=32))
    def test_both_forms_of_a_pcr_command_mean_the_same(self, pcrs: set[int], digest: bytes) -> None:
        selected = selection(*pcrs)
        forms = [read_command(write(selected, digest)) for write in (as_drafted, as_by_the_engine)]
        expected = hashlib.sha256(bytes(32) + struct.pack(">I", PCR) + selected + digest).digest()
        assert [form.extended(bytes(32), "sha256") for form in forms] == [expected] * 2

    @settings(max_examples=scaled(300))
    @given(data=st.data())
    def test_damaged_file_is_read_or_refused(self, data: st.DataObject) -> None:
        pcr = as_drafted(selection(7), bytes(32))
        reference = PolicyCommand(AUTHORIZE, PUBLIC + b"\0\2ab\0\x10")
        commands = (pcr, PolicyCommand(AUTH_VALUE), PolicyCommand(OR, struct.pack(">IH", 1, 32) + bytes(32)), reference)
        whole = write_tss2(
            TSS2Key(True, 0x40000001, PUBLIC, b"\0\4abcd", policy=commands, auth_policies=(AuthPolicy(commands),))
        )
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(UnsupportedKeyError):
            LoadableObject(parse_tss2(bytes(damaged), "k.pem"), "k.pem", NO_PARENT_AUTH)
