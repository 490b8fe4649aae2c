"""credential-process from end to end: every kind of key, every flag and every variable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

import certs
from hwsigner._cli.credential_process import _only_profile
from hwsigner.emulator import Emulator, World
from scene import Scene

KINDS: dict[str, Any] = {
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "p-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}
PASSPHRASE = "correct horse"


def sent(scene: Scene) -> dict[str, Any]:
    """Return the body of the one request that reached the service."""
    (record,) = scene.emulator.requests
    body: dict[str, Any] = json.loads(record.body)
    return body


def encrypted(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSPHRASE.encode()))
    return pem


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"profile": "web"}, "web"),
        ({"config_profile": "web"}, "web"),
        ({"profile": "web", "config_profile": "web"}, "web"),
        ({"profile": "web", "config_profile": "db"}, None),
        ({"profile": "web", "region": "us-east-1"}, None),
        ({"profile": ""}, None),
        ({}, None),
    ],
)
def test_agent_is_asked_only_when_the_flags_name_one_profile_and_nothing_else(
    given: dict[str, str], name: str | None
) -> None:
    assert _only_profile(given) == name


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_gets_credentials(scene: Scene, kind: str) -> None:
    key = KINDS[kind]()
    outcome = scene.credentials(
        certificate=scene.issue(key.public_key()), private_key=certs.write_key(scene.folder / "other.key", key)
    )
    assert (outcome.status, outcome.err) == (0, "")
    printed = json.loads(outcome.out)
    assert list(printed) == ["Version", "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"]
    assert printed["Version"] == 1
    (record,) = scene.emulator.requests
    assert record.accepted
    assert record.findings == []


def test_credentials_last_as_long_as_requested(scene: Scene) -> None:
    printed = json.loads(scene.credentials("--session-duration", "900").out)
    left = datetime.fromisoformat(printed["Expiration"]) - datetime.now(UTC)
    assert timedelta(seconds=850) < left <= timedelta(seconds=901)


class TestCertificateFlags:
    def test_one_pem_file_may_hold_key_and_certificate(self, scene: Scene) -> None:
        both = scene.write("both.pem", scene.leaf.read_bytes() + scene.key.read_bytes())
        assert scene.credentials(certificate=both, private_key=None).status == 0

    def test_one_pkcs12_file_may_hold_key_and_certificate(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certs.issue(scene.ca, key.public_key())
        bundle = serialize_key_and_certificates(None, key, leaf, None, BestAvailableEncryption(PASSPHRASE.encode()))
        path = scene.write("both.p12", bundle)
        outcome = scene.credentials("--pkcs8-password", PASSPHRASE, certificate=path, private_key=None)
        assert outcome.status == 0
        assert PASSPHRASE not in outcome.err

    @pytest.mark.parametrize("where", ["separate", "fullchain", "reversed"])
    def test_chain_is_sent_in_order_from_any_file(self, scene: Scene, where: str) -> None:
        middle = certs.make_ca("Middle", issuer=scene.ca)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = certs.issue(middle, key.public_key())
        private_key = certs.write_key(scene.folder / "k", key)
        pems = {
            "separate": certs.pem(leaf),
            "fullchain": certs.pem(leaf, middle.certificate, scene.ca.certificate),
            "reversed": certs.pem(scene.ca.certificate, middle.certificate, leaf),
        }
        path = scene.write("chain.pem", pems[where])
        if where == "separate":
            # Without the flag the chain does not reach the trust anchor.
            alone = scene.credentials(certificate=path, private_key=private_key)
            assert alone.status == 5
            assert "missing intermediates" in alone.err
        extra = ["--intermediates", str(scene.write("middle.pem", middle.pem))] if where == "separate" else []
        assert scene.credentials(*extra, certificate=path, private_key=private_key).status == 0

    def test_latest_expiring_certificate_is_used_only_with_its_flag(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        early, late = (
            certs.issue(scene.ca, key.public_key(), certs.Shape(name, end=now + timedelta(days=days), serial=serial))
            for name, days, serial in (("early", 10, 1010), ("late", 20, 2020))
        )
        pem = certs.pem(early, late) + certs.write_key(scene.folder / "k", key).read_bytes()
        path = scene.write("two.pem", pem)
        ambiguous = scene.credentials(certificate=path, private_key=None)
        assert ambiguous.status == 4
        assert "--use-latest-expiring-certificate" in ambiguous.err
        outcome = scene.credentials("--use-latest-expiring-certificate", certificate=path, private_key=None)
        assert outcome.status == 0
        (record,) = scene.emulator.requests
        assert "Credential=2020/" in dict(record.headers)["Authorization"]

    def test_no_preflight_sends_an_unsuitable_certificate(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = scene.issue(key.public_key(), certs.Shape(digital_signature=False))
        private_key = certs.write_key(scene.folder / "k", key)
        refused = scene.credentials(certificate=leaf, private_key=private_key)
        assert (refused.status, scene.emulator.requests) == (4, [])
        assert scene.credentials("--no-preflight", certificate=leaf, private_key=private_key).status == 5
        assert len(scene.emulator.requests) == 1

    def test_system_store_name_takes_a_value_and_has_no_effect(self, scene: Scene) -> None:
        assert scene.credentials("--system-store-name", "MY").status == 0
        assert scene.credentials("--system-store-name").status == 2

    def test_missing_certificate_is_a_usage_error(self, scene: Scene) -> None:
        outcome = scene.credentials(certificate=None)
        assert outcome.status == 2
        assert "--certificate" in outcome.err


class TestPasswordFlags:
    def test_pkcs8_password_unlocks_the_key_with_a_warning(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = {"certificate": scene.issue(key.public_key()), "private_key": scene.write("k", encrypted(key))}
        assert scene.credentials(**names).status == 3
        outcome = scene.credentials("--pkcs8-password", PASSPHRASE, **names)
        assert outcome.status == 0
        assert "warning: --pkcs8-password" in outcome.err
        assert PASSPHRASE not in outcome.err

    def test_wrong_pkcs8_password_is_an_error_that_hides_it(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        names = {"certificate": scene.issue(key.public_key()), "private_key": scene.write("k", encrypted(key))}
        outcome = scene.credentials("--pkcs8-password", "wrong-one", **names)
        assert outcome.status == 3
        assert "wrong passphrase" in outcome.err
        assert "wrong-one" not in outcome.err

    @pytest.mark.parametrize("ending", ["", "\n"])
    def test_pin_source_unlocks_the_key(self, scene: Scene, ending: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        path = scene.write("k", encrypted(key))
        pin = scene.write("pin", (PASSPHRASE + ending).encode())
        uri = f"file:{path}?pin-source=file:{pin}"
        assert scene.credentials(certificate=scene.issue(key.public_key()), private_key=uri).status == 0

    def test_pin_value_unlocks_the_key_with_a_warning(self, scene: Scene) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        uri = f"file:{scene.write('k', encrypted(key))}?pin-value=correct%20horse"
        outcome = scene.credentials(certificate=scene.issue(key.public_key()), private_key=uri)
        assert outcome.status == 0
        assert "warning: pin-value" in outcome.err
        assert PASSPHRASE not in outcome.err

    def test_password_for_another_kind_of_key_has_no_effect(self, scene: Scene) -> None:
        assert scene.credentials("--tpm-key-password", "x").status == 0
        assert scene.credentials("--no-tpm-key-password").status == 0

    def test_strict_makes_warnings_errors(self, scene: Scene) -> None:
        scene.key.chmod(0o644)
        lax = scene.credentials()
        assert lax.status == 0
        assert "0644" in lax.err
        strict = scene.credentials("--strict")
        assert (strict.status, strict.out) == (3, "")
        assert "0644" in strict.err


class TestSessionFlags:
    def test_aliases_name_the_trust_anchor_and_the_profile(self, scene: Scene) -> None:
        world = scene.emulator.world
        (anchor,), (profile,) = world.trust_anchors.values(), world.profiles.values()
        anchor.alias, profile.alias = "production-ca", "edge/web_1"
        arns = {"trust_anchor_arn": anchor.alias_arn, "profile_arn": profile.alias_arn}
        assert scene.credentials(**arns).status == 0
        profile.alias = "edge/web_2"
        outcome = scene.credentials(**arns)
        assert (outcome.status, outcome.out) == (5, "")
        assert "Invalid or empty profile provided" in outcome.err

    def test_duration_and_session_name_are_sent(self, scene: Scene) -> None:
        scene.emulator.world.profiles[scene.emulator.profile_arn].accept_role_session_name = True
        flags = ("--session-duration=1800", "--role-session-name", "build-7")
        assert scene.credentials(*flags).status == 0
        assert sent(scene) == {"durationSeconds": 1800, "roleSessionName": "build-7"}

    def test_default_is_an_hour_and_no_session_name(self, scene: Scene) -> None:
        assert scene.credentials().status == 0
        assert sent(scene) == {"durationSeconds": 3600}

    def test_session_name_that_the_profile_does_not_accept_is_an_error_with_a_hint(self, scene: Scene) -> None:
        outcome = scene.credentials("--role-session-name", "build-7")
        assert outcome.status == 5
        assert "acceptRoleSessionName" in outcome.err

    @pytest.mark.parametrize("name", ["x", "a b", "a" * 65, "naïve"])
    def test_invalid_session_name_is_a_usage_error(self, scene: Scene, name: str) -> None:
        assert scene.credentials("--role-session-name", name).status == 2
        assert scene.emulator.requests == []

    def test_instance_properties_are_sent(self, scene: Scene) -> None:
        flags = ("--instance-property", "rack=7", "--instance-property=note=a=b")
        assert scene.credentials(*flags).status == 0
        assert sent(scene)["instanceProperties"] == {"rack": "7", "note": "a=b"}

    def test_more_than_50_instance_properties_are_a_usage_error(self, scene: Scene) -> None:
        assert scene.credentials(*(f"--instance-property=k{n}=v" for n in range(51))).status == 2

    def test_region_other_than_the_trust_anchors_is_a_usage_error(self, scene: Scene) -> None:
        assert scene.credentials("--region", "us-east-1").status == 0
        outcome = scene.credentials("--region", "eu-central-1")
        assert outcome.status == 2
        assert "eu-central-1" in outcome.err

    @pytest.mark.parametrize("flag", ["trust_anchor_arn", "profile_arn", "role_arn"])
    def test_missing_or_swapped_arn_is_a_usage_error(self, scene: Scene, flag: str) -> None:
        missing = scene.credentials(**{flag: None})
        assert missing.status == 2
        assert f"--{flag.replace('_', '-')}" in missing.err
        other = scene.emulator.role_arn if flag != "role_arn" else scene.emulator.profile_arn
        swapped = scene.credentials(**{flag: other})
        assert swapped.status == 2
        assert other in swapped.err
        assert scene.emulator.requests == []

    def test_unknown_arn_is_sent_unchanged(self, scene: Scene) -> None:
        for flag in ("trust_anchor_arn", "profile_arn", "role_arn"):
            arn = scene.flags()[
                [*scene.flags()].index(next(f for f in scene.flags() if f"--{flag}".replace("_", "-") in f))
            ]
            other = arn.partition("=")[2][:-4] + "abcd"
            assert scene.credentials(**{flag: other}).status == 5
            assert other.rpartition("/")[2] in scene.emulator.requests[-1].target

    @pytest.mark.parametrize("value", ["899", "43201", "1e3", "900.0", "-900", "", "９００", "9" * 40])
    def test_invalid_duration_is_a_usage_error(self, scene: Scene, value: str) -> None:
        outcome = scene.credentials("--session-duration", value)
        assert (outcome.status, outcome.out) == (2, "")
        assert "--session-duration" in outcome.err
        assert scene.emulator.requests == []


class TestDebug:
    def test_debug_shows_what_is_signed_and_no_secret(self, scene: Scene) -> None:
        outcome = scene.credentials("--debug")
        printed = json.loads(outcome.out)
        (record,) = scene.emulator.requests
        for line in (*record.canonical_request.splitlines(), *record.string_to_sign.splitlines()):
            assert line in outcome.err
        assert "AWS4-X509-ECDSA-SHA256" in outcome.err
        assert " ms" in outcome.err
        assert printed["SecretAccessKey"] not in outcome.err
        assert printed["SessionToken"] not in outcome.err

    def test_debug_false_shows_nothing(self, scene: Scene) -> None:
        assert scene.credentials("--debug=false").err == ""


class TestEndpoint:
    @pytest.fixture
    def second(self, scene: Scene) -> Iterator[Emulator]:
        with Emulator(World.simple(scene.ca.certificate)) as emulator:
            yield emulator

    def test_flag_and_variables_take_precedence_in_order(
        self, scene: Scene, second: Emulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = scene.emulator
        monkeypatch.setenv("AWS_ENDPOINT_URL", first.url)
        assert scene.credentials(endpoint=None).status == 0
        assert (len(first.requests), len(second.requests)) == (1, 0)
        monkeypatch.setenv("AWS_ENDPOINT_URL_ROLESANYWHERE", second.url)
        assert scene.credentials(endpoint=None).status == 0
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert scene.credentials(endpoint=first.url).status == 0
        assert (len(first.requests), len(second.requests)) == (2, 1)

    def test_host_header_follows_the_url(self, scene: Scene) -> None:
        url = scene.emulator.url.replace("127.0.0.1", "localhost")
        assert scene.credentials(endpoint=url).status == 0
        assert dict(scene.emulator.requests[0].headers)["Host"] == url.removeprefix("http://")

    def test_http_to_another_machine_is_a_usage_error(self, scene: Scene) -> None:
        outcome = scene.credentials(endpoint="http://192.0.2.1:1")
        assert outcome.status == 2
        assert "--no-verify-ssl" in outcome.err

    def test_no_verify_ssl_allows_http_with_a_warning(self, scene: Scene) -> None:
        outcome = scene.credentials("--no-verify-ssl", "--timeout=0.2", endpoint="http://192.0.2.1:1")
        assert outcome.status == 6
        assert "warning: --no-verify-ssl" in outcome.err

    @pytest.mark.parametrize("flags", [(), ("--strict",)])
    def test_session_that_is_shorter_than_asked_is_a_warning_and_no_failure(
        self, scene: Scene, flags: Sequence[str]
    ) -> None:
        outcome = scene.credentials("--session-duration=43200", *flags)
        assert (outcome.status, json.loads(outcome.out)["Version"]) == (0, 1)
        assert outcome.err == (
            f"hwsigner: warning: the session of {scene.emulator.role_arn} lasts 60 minutes, not 720 minutes: its Roles "
            "Anywhere profile allows no more. Raise the duration there, or set session-duration to what it allows\n"
        )
        assert scene.credentials("--session-duration=3600").err == ""

    @pytest.mark.parametrize("name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
    def test_fips_and_dual_stack_variables_choose_the_host(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        # The proxy does not exist, so no connection leaves this machine: only the host name matters.
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv(name, "true")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        outcome = scene.credentials("--debug", endpoint=None)
        host = {"FIPS": "rolesanywhere-fips.us-east-1.amazonaws.com", "DUAL": "rolesanywhere.us-east-1.api.aws"}
        assert outcome.status == 6
        assert f"https://{host[name[8:12]]}/sessions" in outcome.err
        flag = f"--{name[4:].lower().replace('_', '-')}"
        off = scene.credentials("--debug", f"{flag}=false", endpoint=None)
        assert "https://rolesanywhere.us-east-1.amazonaws.com/sessions" in off.err
        monkeypatch.delenv(name)
        (scene.folder / "config").write_text(f"[default]\n{flag[2:].replace('-', '_')} = true\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(scene.folder / "config"))
        for on in (scene.credentials("--debug", endpoint=None), scene.credentials("--debug", flag, endpoint=None)):
            assert f"https://{host[name[8:12]]}/sessions" in on.err
        assert scene.credentials(flag).status == 2  # Beside --endpoint.


class TestProfiles:
    @pytest.fixture(autouse=True)
    def home(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(scene.folder / "config"))

    @pytest.mark.parametrize("flag", ["--profile", "--config-profile"])
    def test_profile_gives_its_flags(self, scene: Scene, flag: str) -> None:
        added = scene.call("profile", "add", "web", *scene.flags(), "--instance-property", "rack=7", "--debug")
        assert added.status == 0
        outcome = scene.call("credential-process", flag, "web")
        assert outcome.status == 0
        assert sent(scene) == {"durationSeconds": 3600, "instanceProperties": {"rack": "7"}}
        assert "canonical request" in outcome.err
        assert "web" in scene.call("profile", "list").out

    def test_flag_takes_precedence_over_the_profile(self, scene: Scene) -> None:
        scene.call("profile", "add", "web", *scene.flags(), "--session-duration=900")
        assert scene.call("credential-process", "--profile", "web", "--session-duration", "1200").status == 0
        assert sent(scene) == {"durationSeconds": 1200}

    def test_unknown_key_of_a_profile_is_a_usage_error(self, scene: Scene) -> None:
        scene.call("profile", "add", "web", *scene.flags())
        file = scene.folder / "config" / "hwsigner" / "config.toml"
        file.write_text(file.read_text().replace("role-arn", "rolearn"))
        outcome = scene.call("credential-process", "--profile", "web")
        assert outcome.status == 2
        assert str(file) in outcome.err
        assert "'rolearn'" in outcome.err

    def test_credentials_are_printed_even_if_no_agent_can_be_started(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: object) -> None:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        monkeypatch.setattr("hwsigner._agent.relay.start_agent", fail)
        scene.call("profile", "add", "web", *scene.flags(), "--agent=auto")
        outcome = scene.call("credential-process", "--profile", "web")
        assert (outcome.status, outcome.err) == (0, "")
        assert json.loads(outcome.out)["Version"] == 1
