"""Settings of the SDKs' config file: botocore finds the same ones, and the environment takes precedence."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import ConfigParseError
from botocore.loaders import Loader

from hwsigner._aws.config_file import read_config
from hwsigner._aws.create_session import Service, find_service
from hwsigner.errors import ConfigError, UsageError

FILE = """
[default]
endpoint_url = https://default.example
max_attempts = 5
ca_bundle = /etc/default.pem
[profile web]
endpoint_url = https://web.example
services = dev
[profile "a b"]
  max_attempts = 7
  services = other
[services dev]
s3 =
  endpoint_url = https://s3.example
rolesanywhere =
  endpoint_url = https://dev.example
[services other]
sts =
  endpoint_url = https://sts.example
[web]
max_attempts = 9
[profile quiet]
endpoint_url = https://quiet.example
ignore_configured_endpoint_urls = true
"""


class Home:
    """A home folder with a config file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / ".aws" / "config"
        self.file.parent.mkdir()
        self.environ = {"HOME": str(folder)}
        self.write(FILE)

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o600)

    def service(self, endpoint: str | None = None, **environ: str) -> Service:
        return find_service("us-east-1", endpoint=endpoint, environ=self.environ | environ)

    def values(self, **environ: str) -> dict[str, str]:
        return {name: setting.value for name, setting in read_config(self.environ | environ).items()}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


class TestSections:
    @pytest.mark.parametrize("profile", ["", "default", "web", "a b", "quiet", "unknown"])
    def test_settings_are_those_that_botocore_finds(
        self, profile: str, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = home.values(**({"AWS_PROFILE": profile} if profile else {}))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(home.file))
        session = botocore.session.Session(profile=profile or None)
        scoped: dict[str, Any] = session.full_config["profiles"].get(profile or "default", {})
        services = session.full_config["services"].get(scoped.get("services"), {})
        url = services.get("rolesanywhere", {}).get("endpoint_url") or scoped.get("endpoint_url")
        assert found.get("endpoint_url") == url
        for name in ("max_attempts", "ca_bundle"):
            assert found.get(name) == scoped.get(name)

    @pytest.mark.parametrize(
        "header",
        [
            *("[profile web]", "[profile web ]", "[profile\tweb]", "[profile 'web'] # mine", '[profile w"e"b]'),
            *("[   profile web    ]", "[ profile web]", "[Profile web]", "[profileweb]", "[profiles web]"),
            *("[profile web x]", "[profile web x", "[profile web]]", "[profile web] # ]", '["profile" web]'),
            *("[profile]", "[web]", '[profile "web]', "[[profile web]"),
        ],
    )
    def test_section_is_a_profiles_if_it_is_for_botocore(
        self, header: str, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home.write(f"[profile other]\nca_bundle = x\n{header}\nmax_attempts = 7\n")
        found = home.values(AWS_PROFILE="web")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(home.file))
        try:
            profiles = botocore.session.Session().full_config["profiles"]
        except ConfigParseError:
            profiles = {}
        assert found.get("max_attempts") == profiles.get("web", {}).get("max_attempts")

    def test_profile_is_that_of_aws_profile_and_else_of_aws_default_profile(self, home: Home) -> None:
        assert home.values(AWS_DEFAULT_PROFILE="a b") == {"max_attempts": "7"}
        assert home.values(AWS_DEFAULT_PROFILE="web", AWS_PROFILE="a b") == {"max_attempts": "7"}

    @pytest.mark.parametrize("header", ["[profile default]", '[profile "default"]', "[profile  default]"])
    def test_longer_name_of_the_default_profile_takes_precedence(self, header: str, home: Home) -> None:
        home.write(f"{header}\nmax_attempts = 2\n[default]\nmax_attempts = 4\nca_bundle = /a\n")
        assert home.values() == {"max_attempts": "2", "ca_bundle": "/a"}

    def test_comment_is_not_part_of_a_value(self, home: Home) -> None:
        home.write("[default]\nmax_attempts = 2 # two\nca_bundle = ; none\nendpoint_url = https://a.example/#x\n")
        assert home.values() == {"max_attempts": "2", "endpoint_url": "https://a.example/#x"}

    @pytest.mark.parametrize("value", ["~/other", "$HOME/other", "{home}/other"])
    def test_path_is_that_of_aws_config_file(self, value: str, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", home.environ["HOME"])
        (home.file.parents[1] / "other").write_text("[default]\nmax_attempts = 8\n")
        assert home.values(AWS_CONFIG_FILE=value.format(home=home.environ["HOME"])) == {"max_attempts": "8"}


class TestPrecedence:
    def test_endpoint_is_that_of_flag_then_variables_then_services_then_profile(self, home: Home) -> None:
        general, own = "https://general.example", "https://own.example"
        one = {"AWS_PROFILE": "web", "AWS_ENDPOINT_URL": general}
        hosts = [
            home.service("https://flag.example", **one, AWS_ENDPOINT_URL_ROLESANYWHERE=own),
            home.service(**one, AWS_ENDPOINT_URL_ROLESANYWHERE=own),
            home.service(**one),
            home.service(AWS_PROFILE="web"),
            home.service(),
            home.service(AWS_PROFILE="unknown"),
        ]
        assert [service.endpoint.host.partition(".")[0] for service in hosts] == [
            "flag",
            "own",
            "general",
            "dev",
            "default",
            "rolesanywhere",
        ]

    def test_configured_endpoints_are_ignored_on_request(self, home: Home) -> None:
        service = "rolesanywhere.us-east-1.amazonaws.com"
        variable = "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"
        assert home.service(**{variable: "true"}).endpoint.host == service
        assert home.service(AWS_PROFILE="quiet", AWS_ENDPOINT_URL="https://a.example").endpoint.host == service
        assert home.service(AWS_PROFILE="quiet", **{variable: "false"}).endpoint.host == "quiet.example"
        assert home.service("https://flag.example", AWS_PROFILE="quiet").endpoint.host == "flag.example"

    def test_variables_take_precedence_for_attempts_and_cas(self, home: Home) -> None:
        assert home.service().max_attempts == 5
        assert home.service(AWS_MAX_ATTEMPTS="2").max_attempts == 2
        cas = home.service(SSL_CERT_FILE="/b.pem").transport.cas
        assert cas is not None
        assert (cas.file, cas.name) == ("/etc/default.pem", f"ca_bundle in [default] of {home.file}: /etc/default.pem")
        cas = home.service(AWS_CA_BUNDLE="/a.pem").transport.cas
        assert cas is not None
        assert cas.file == "/a.pem"


class TestVariants:
    @pytest.mark.parametrize("fips", ["", "use_fips_endpoint=False", "use_fips_endpoint=TRUE"])
    @pytest.mark.parametrize("dual", ["", "use_dualstack_endpoint = true", "use_dualstack_endpoint = false"])
    @pytest.mark.parametrize("environ", [{}, {"FIPS": "true"}, {"FIPS": "false", "DUALSTACK": "true"}], ids=str)
    @pytest.mark.parametrize("section", ["default", "profile web", "profile other"])
    def test_host_is_that_of_botocore(
        self, section: str, environ: dict[str, str], dual: str, fips: str, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = "" if section == "profile web" else "[profile web]\n"
        home.write(f"{first}[{section}]\n{fips}\n{dual}\n[services own]\nrolesanywhere =\n  {fips}\n")
        variables = {f"AWS_USE_{name}_ENDPOINT": value for name, value in environ.items()}
        variables |= {} if section == "default" else {"AWS_PROFILE": "web"}
        for name, value in (variables | {"AWS_CONFIG_FILE": str(home.file)}).items():
            monkeypatch.setenv(name, value)
        session = botocore.session.Session()
        found = {
            parameter: session.get_config_variable(name)
            for parameter, name in (("UseFIPS", "use_fips_endpoint"), ("UseDualStack", "use_dualstack_endpoint"))
        }
        url = judge().resolve_endpoint(Region="us-east-1", **found).url
        assert f"https://{home.service(**variables).endpoint.host}" == url

    def test_endpoint_url_takes_precedence_as_in_botocore(self, home: Home) -> None:
        home.write("[default]\nuse_fips_endpoint = true\nendpoint_url = https://a.example\n")
        assert home.service().endpoint.host == "a.example"

    def test_flag_takes_precedence(self, home: Home) -> None:
        home.write("[default]\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\n")
        assert home.service().endpoint.host == "rolesanywhere-fips.us-east-1.api.aws"
        without = find_service("us-east-1", fips=False, environ=home.environ)
        assert without.endpoint.host == "rolesanywhere.us-east-1.api.aws"

    def test_setting_that_can_t_be_obeyed_is_named_with_section_and_file(self, home: Home) -> None:
        home.write("[default]\nuse_dualstack_endpoint = yes\n")
        with pytest.raises(UsageError, match=rf"use_dualstack_endpoint in \[default\] of {home.file} is 'yes'"):
            home.service()
        home.write("[default]\nuse_fips_endpoint = true\n")
        with pytest.raises(UsageError, match=r"^use_fips_endpoint in \[default\] of .* region eu-west-1 has no FIPS"):
            find_service("eu-west-1", environ=home.environ)


@cache
def judge() -> EndpointProvider:
    rules = Loader().load_service_model("rolesanywhere", "endpoint-rule-set-1")
    return EndpointProvider(rules, Loader().load_data("partitions"))


class TestErrors:
    @pytest.mark.parametrize(
        "line", ["max_attempts = none", "endpoint_url = nowhere", "endpoint_url = http://other.example"]
    )
    def test_invalid_setting_is_named_with_section_and_file(self, line: str, home: Home) -> None:
        home.write(f"[default]\n{line}\n")
        with pytest.raises(UsageError, match=rf"{line.partition(' ')[0]} in \[default\] of {home.file} is "):
            home.service()

    @pytest.mark.parametrize("line", ["endpoint_url = https://a.example", "ca_bundle = /a.pem"])
    def test_file_that_others_can_write_is_an_error_if_it_says_whom_to_trust(self, line: str, home: Home) -> None:
        home.write(f"[default]\n{line}\n")
        home.file.chmod(0o664)
        with pytest.raises(ConfigError, match=f"{home.file} has mode 0664.*chmod go-w"):
            home.service()
        home.write("[default]\nregion = us-east-1\nmax_attempts = 5\n")
        home.file.chmod(0o664)
        assert home.service().max_attempts == 5

    def test_file_that_others_can_write_is_no_error_if_its_settings_are_not_used(self, home: Home) -> None:
        home.file.chmod(0o666)
        unused = {"AWS_CA_BUNDLE": "/a.pem"}
        for url in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ROLESANYWHERE"):
            assert home.service(**unused, **{url: "https://a.example"}).endpoint.host == "a.example"
        assert home.service("https://flag.example", **unused).endpoint.host == "flag.example"
        assert home.service(**unused, AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true").endpoint.host.endswith(
            "amazonaws.com"
        )
        with pytest.raises(ConfigError, match="0666"):
            home.service("https://flag.example")

    @pytest.mark.parametrize(
        "name", ["endpoint_url", "ca_bundle", "max_attempts", "USE_FIPS_ENDPOINT", "IGNORE_CONFIGURED_ENDPOINT_URLS"]
    )
    def test_parser_is_loaded_only_for_a_file_with_a_setting(self, name: str, home: Home) -> None:
        script = "import os, sys; from hwsigner._aws.config_file import read_config; read_config(os.environ); "
        script += "print('configparser' in sys.modules)"
        printed = []
        for line in ("region = us-east-1", f"{name} = true"):
            home.write(f"[default]\n{line}\n")
            printed.append(subprocess.check_output([sys.executable, "-c", script], env=home.environ, text=True).strip())
        assert printed == ["False", "True"]

    def test_huge_file_is_not_read(self, home: Home) -> None:
        home.write("[default]\nmax_attempts = 4\n".ljust(2**24 + 1, "#"))
        assert home.values() == {}

    @pytest.mark.parametrize("content", [b"max_attempts = 4\n", b"\xff", b"[default]\nx\n", None])
    def test_unreadable_file_has_no_settings_and_is_not_waited_for(self, content: bytes | None, home: Home) -> None:
        home.file.unlink()
        if content is None:
            os.mkfifo(home.file)
        else:
            home.file.write_bytes(content)
        assert home.values() == {}
        home.file.unlink()
        assert home.values() == {}
        home.file.mkdir()
        assert home.values() == {}
