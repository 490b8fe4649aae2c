"""Settings: profiles and command lines with the same flags mean the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import certs
from hwsigner._cli.parser import Arguments, Parser
from hwsigner._config import flags, settings
from hwsigner._config import profiles as config
from hwsigner._config.flags import AGENT, EXCLUSIVE, IDENTITY, IN_PROFILES, SESSION, Flag
from hwsigner._config.settings import Settings
from hwsigner._identity.certificate import Certificate
from hwsigner._pins import PinRequest
from hwsigner._uri import KeyURI
from hwsigner.backends import BACKENDS
from hwsigner.errors import (
    AmbiguousCertificateError,
    CertificateError,
    ConfigError,
    HwsignerError,
    UnsafeKeyWarning,
    UsageError,
)

REQUEST = PinRequest("user PIN", "token 'alpha'")
ARN = "arn:aws:rolesanywhere:eu-central-1:123456789012"
UUID = "00000000-0000-0000-0000-000000000000"
ANCHOR, PROFILE = f"{ARN}:trust-anchor/{UUID}", f"{ARN}:profile/{UUID}"
ROLE = "arn:aws:iam::123456789012:role/web"


def values(**given: Any) -> Settings:
    """Return settings, some of them given."""
    arns = {"trust_anchor_arn": ANCHOR, "profile_arn": PROFILE, "role_arn": ROLE}
    assert given.keys() <= Settings.__annotations__.keys()
    return Settings({**arns, **given})


def write_profile(folder: Path, content: str) -> dict[str, str]:
    """Write the profile `web` and return the environment that has it."""
    path = folder / "hwsigner" / "config.toml"
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    path.write_text(f"[profile.web]\n{content}\n")
    return {"XDG_CONFIG_HOME": str(folder)}


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SYSTEM_FILE", str(tmp_path / "none.toml"))


class TestSettings:
    def test_settings_have_an_attribute_for_each_flag_and_the_profile_s_name(self) -> None:
        attributes = [flag.attribute for flag in IN_PROFILES.values()]
        assert list(Settings.__annotations__) == ["profile_name", "prompts", "trace", *attributes]

    @pytest.mark.parametrize("name", IN_PROFILES)
    def test_setting_has_the_type_and_the_default_of_its_flag(self, name: str) -> None:
        flag = IN_PROFILES[name]
        declared, default = get_type_hints(Settings)[flag.attribute], getattr(Settings, flag.attribute)
        kinds: dict[Any, type] = {flags.boolean: bool, flags.seconds: float, flags.session_duration: int}
        kind = kinds.get(flag.convert, tuple[str, str] if flag.convert is flags.instance_property else str)
        if flag.many:
            assert (declared, default) == (Sequence[kind], ())  # type: ignore[valid-type]
        else:
            assert declared == (kind if flag.default is not None else kind | None)
            assert default == flag.default

    @pytest.mark.parametrize("scheme", BACKENDS)
    def test_flag_of_a_backend_is_a_setting(self, scheme: str) -> None:
        backend = BACKENDS[scheme]
        assert {*backend.query_flags.values(), *filter(None, [backend.password_flag])} <= IN_PROFILES.keys()

    @given(chosen=st.dictionaries(st.sampled_from([*IN_PROFILES.values()]), st.text()))
    def test_settings_are_what_is_said_or_the_default(self, chosen: dict[Flag, str]) -> None:
        found = Settings({flag.attribute: text for flag, text in chosen.items()})
        for flag in IN_PROFILES.values():
            expected = chosen.get(flag, () if flag.many else flag.default)
            assert getattr(found, flag.attribute) == expected


class TestReadProfile:
    @given(chosen=st.sets(st.sampled_from(IDENTITY + SESSION)))
    def test_profile_means_the_same_as_on_the_command_line(
        self, chosen: set[Any], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        lines = []
        for flag in chosen:
            text = "true" if not flag.metavar else '["a=b"]' if flag.many else '"1000"'
            lines.append(f"{flag.name} = {text}")
        environ = write_profile(tmp_path_factory.getbasetemp(), "\n".join(lines))
        parser = Parser("test", "for tests")
        parser.add_flags(flags.PROFILE, IDENTITY, SESSION, AGENT)
        names = {flag.name for flag in chosen}
        given = Arguments(profile="web")
        if any(names.issuperset(pair) for pair in EXCLUSIVE):
            with pytest.raises(ConfigError, match="exclude"):
                settings.read_profile("web", environ)
            return
        assert vars(settings.read_profile("web", environ)) == vars(parser.complete(given, environ).settings)

    def test_profile_has_defaults(self, tmp_path: Path) -> None:
        environ = write_profile(tmp_path, 'region = "eu-west-1"')
        found = settings.read_profile("web", environ)
        assert vars(found) == {"region": "eu-west-1", "profile_name": "web"}
        assert (found.session_duration, found.private_key, found.allow_users) == (3600, None, ())

    def test_overrides_take_precedence_over_the_profile(self, tmp_path: Path) -> None:
        environ = write_profile(tmp_path, 'region = "eu-west-1"\ncert-selector = "x"\nsession-duration = 1000')
        overrides = {"session_duration": 900, "certificate": "/c.pem", "instance_property": {"rack": "7"}}
        found = settings.read_profile("web", environ, overrides)
        assert (found.region, found.session_duration, found.certificate) == ("eu-west-1", 900, "/c.pem")
        assert (found.cert_selector, found.instance_property) == (None, [("rack", "7")])

    @pytest.mark.parametrize(
        ("overrides", "words"),
        [
            ({"session-duration": 900}, "no flag for 'session-duration'"),
            ({"profile": "x"}, "no flag for 'profile'"),
            ({"session_duraton": 900}, r"no flag for 'session_duraton'\. Did you mean session_duration"),
            ({"session_duration": 60}, "session-duration with an invalid value"),
            ({"certificate": 1.0, "cert_selector": "x"}, "exclude each other"),
            ({"role_arn": None}, "role-arn with a value of the wrong type"),
        ],
    )
    def test_invalid_override_is_a_usage_error(self, tmp_path: Path, overrides: dict[str, Any], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            settings.read_profile("web", write_profile(tmp_path, ""), overrides)

    def test_secret_in_a_profile_that_others_can_read_is_warned_of(self, tmp_path: Path) -> None:
        environ = write_profile(tmp_path, 'private-key = "handle:0x81000001?pin-value=hunter2"')
        path = tmp_path / "hwsigner" / "config.toml"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            settings.read_profile("web", environ)
        path.chmod(0o640)
        with pytest.warns(UnsafeKeyWarning, match=f"pin-value in --private-key in {path}") as caught:
            settings.read_profile("web", environ)
        assert "hunter2" not in str(caught[0].message)


class TestPinSource:
    @pytest.mark.parametrize(
        ("uri", "given", "pin"),
        [
            ("/k.pem", {"pkcs8_password": "p"}, "p"),
            ("/k.pem", {"tpm_key_password": "t"}, None),
            ("handle:0x81000001", {"tpm_key_password": "t"}, "t"),
            ("handle:0x81000001", {"pkcs8_password": "p"}, None),
            ("handle:0x81000001", {"no_tpm_key_password": True}, ""),
            ("pkcs11:token=a", {"pkcs8_password": "p", "tpm_key_password": "t"}, None),
        ],
    )
    def test_password_flag_is_for_keys_of_its_backend(self, uri: str, given: dict[str, Any], pin: str | None) -> None:
        key = KeyURI.parse(uri)
        assert settings.pin_source(values(**given), key, None).stored(key, REQUEST) == pin

    def test_pin_source_has_the_callable_and_the_permissions(self) -> None:
        key = KeyURI.parse("pkcs11:token=a")
        pins = settings.pin_source(values(reuse_pin=True, allow_final_pin_try=True), key, lambda _: "typed")
        assert pins.get(key, REQUEST) == "typed"
        assert (pins.reuse, pins.allow_final_try) == (True, True)


class TestIdentitySource:
    def test_identity_source_has_the_flags_values(self) -> None:
        source = settings.identity_source(
            values(
                certificate="pkcs11:object=c",
                private_key="handle:0x81000001",
                intermediates="/i.pem",
                pkcs11_lib="/m.so",
                use_latest_expiring_certificate=True,
            ),
            None,
        )
        assert source.certificate == KeyURI.parse("pkcs11:object=c?module-path=/m.so")
        assert source.private_key == KeyURI.parse("handle:0x81000001")
        assert source.intermediates == KeyURI.parse("/i.pem")
        assert source.latest

    @pytest.mark.parametrize(("check", "no_preflight"), [(True, True), (True, False), (False, False)])
    def test_leaf_is_checked_unless_a_flag_or_the_caller_is_against_it(self, check: bool, no_preflight: bool) -> None:
        found = settings.identity_source(values(certificate="/c", no_preflight=no_preflight), None, check=check)
        assert found.check is (check and not no_preflight)

    def test_missing_certificate_is_a_usage_error(self) -> None:
        with pytest.raises(UsageError, match="no certificate is named"):
            settings.identity_source(values(private_key="/k"), None)

    def test_missing_certificate_of_a_profile_is_an_error_that_names_the_commands(self) -> None:
        with pytest.raises(UsageError, match=r"install-certificate .* --profile web, or hwsigner enroll web"):
            settings.identity_source(values(private_key="/k", profile_name="web"), None)

    @pytest.mark.parametrize(
        ("number", "kind", "message"),
        [
            (0, CertificateError, "matches no certificate"),
            (2, AmbiguousCertificateError, "matches 2 certificates: a, a"),
        ],
    )
    def test_selector_that_does_not_match_one_certificate_is_an_error(
        self, number: int, kind: type[HwsignerError], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = Certificate(certs.make_ca().certificate, "a")
        monkeypatch.setattr("hwsigner._identity.selector.select", lambda *_: [one] * number)
        with pytest.raises(kind, match=message):
            settings.identity_source(values(cert_selector="Key=x509Subject,Value=CN=a"))


class TestSession:
    def test_session_request_has_the_flags_values(self) -> None:
        request = settings.session_request(
            values(session_duration=900, role_session_name="a@b", instance_property=[("rack", "7"), ("rack", "8")])
        )
        assert (request.trust_anchor_arn, request.profile_arn, request.role_arn) == (ANCHOR, PROFILE, ROLE)
        assert (request.duration, request.session_name, request.instance_properties) == (900, "a@b", {"rack": "8"})

    @pytest.mark.parametrize("name", ["a", "", "a b", "ä" * 3, "x" * 65])
    def test_invalid_session_name_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="--role-session-name"):
            settings.session_request(values(role_session_name=name))

    def test_fifty_first_instance_property_is_refused(self) -> None:
        properties = [(str(number), "x") for number in range(51)]
        assert len(settings.session_request(values(instance_property=properties[:50])).instance_properties) == 50
        with pytest.raises(UsageError, match="51 times"):
            settings.session_request(values(instance_property=properties))

    def test_service_has_the_flags_values(self) -> None:
        given = values(endpoint="https://x.test", connect_timeout=1.0, read_timeout=2.0, timeout=3.0)
        found = settings.service(given, {"AWS_MAX_ATTEMPTS": "7"})
        assert (found.region, found.endpoint.host, found.max_attempts) == ("eu-central-1", "x.test", 7)
        assert (found.transport.connect_timeout, found.transport.read_timeout, found.timeout) == (1.0, 2.0, 3.0)
        assert found.transport.verify
        assert found.trace is None

    def test_invalid_arn_is_refused(self) -> None:
        with pytest.raises(UsageError, match="--role-arn"):
            settings.service(values(role_arn="arn:aws:iam::1:user/x"), {})


class TestTPM:
    """Flags that say which TPM to use and to trust complete a TPM's key URIs, and no others."""

    @pytest.mark.parametrize(
        ("flag", "query"),
        [
            ({"srk_name": "000b"}, "srk-name=000b"),
            ({"accept_new_srk": True}, "accept-new-srk=true"),
            ({"accept_new_srk": False}, ""),
            ({"srk_name": "000b", "tcti": "tabrmd"}, "srk-name=000b&tcti=tabrmd"),
        ],
    )
    def test_tpm_flags_complete_only_a_tpms_uri(self, flag: dict[str, Any], query: str) -> None:
        assert settings.key_uri(values(**flag), "handle:0x81000001") == KeyURI.parse(f"handle:0x81000001?{query}")
        for other in ("/etc/pki/key.pem", "pkcs11:token=a"):
            assert settings.key_uri(values(**flag), other) == KeyURI.parse(other)

    def test_tpm_uri_takes_precedence_over_flags(self) -> None:
        uri = "handle:0x81000001?srk-name=000c&accept-new-srk=false"
        assert settings.key_uri(values(srk_name="000b", accept_new_srk=True), uri) == KeyURI.parse(uri)
