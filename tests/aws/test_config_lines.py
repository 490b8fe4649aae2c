"""The SDKs' config file: botocore finds the new line, and every other byte is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.configloader import load_config, raw_config_parse
from botocore.exceptions import ConfigParseError
from hypothesis import assume, given
from hypothesis import strategies as st

from hwsigner._aws.config_lines import with_credential_process
from hwsigner.errors import ConfigError

COMMAND = "/opt/hwsigner/bin/hwsigner credential-process --profile web"
ELSEWHERE = "'/home/a b/bin/hwsigner' credential-process --profile web"
CLIENT = "'/home/a b/bin/hwsigner-credentials' --profile web"

_LINES = st.sampled_from(
    [
        *("[default]", "[profile web]", '[profile "web"]', "[profile website]", "[services web]", "[web]"),
        *("region = eu-central-1", "region=eu-west-1 # near", "s3 =", "  max_concurrent_requests = 20", "# text", ""),
        *(
            "; old",
            f"credential_process = {ELSEWHERE}",
            f"credential_process={COMMAND}",
            "output: json",
            "ca_bundle =x",
        ),
    ]
)
_TEXTS = st.tuples(st.lists(_LINES, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans()).map(
    lambda parts: parts[1].join(parts[0]) + (parts[1] if parts[2] and parts[0] else "")
)


def changed(data: bytes, profile: str = "web") -> bytes:
    return with_credential_process(data, profile, COMMAND, path="config")


def parsed(folder: Path, data: bytes) -> dict[str, Any]:
    path = folder / "config"
    path.write_bytes(data)
    return dict(raw_config_parse(str(path)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aws")


@given(text=_TEXTS)
def test_botocore_finds_the_command_and_everything_else_is_kept(folder: Path, text: str) -> None:
    data = text.encode()
    try:
        before = parsed(folder, data)
        new = changed(data)
    except (ConfigError, ConfigParseError):
        assume(False)
    after = parsed(folder, new)
    section = next((name for name in after if name in ("profile web", 'profile "web"')), "")
    assert after[section].pop("credential_process") == COMMAND
    before.setdefault(section, {}).pop("credential_process", None)
    assert before == after
    own = (b"credential_process", b"[profile web]")
    kept = [[line for line in one.splitlines() if line and not line.startswith(own)] for one in (data, new)]
    assert kept[0] == kept[1]
    assert changed(new) == new


_PADS = st.sampled_from(["", " ", "   ", "\t"])
_HEADERS = st.tuples(
    st.sampled_from(["", "", " "]),
    st.just("["),
    _PADS,
    st.sampled_from(["profile", "profile", "Profile", '"profile"', "profiles", "default", "services", ""]),
    _PADS,
    st.sampled_from(["web", '"web"', "'web'", "we\\b", "website", "web x", '"web', "default", ""]),
    _PADS,
    st.sampled_from(["]", "]", "]]", "] # mine", "] # [mine]", "", " # ]"]),
).map("".join)


@given(headers=st.lists(_HEADERS, min_size=1, max_size=3), profile=st.sampled_from(["web", "default"]))
def test_profile_that_botocore_finds_gets_the_command_whatever_its_header(
    folder: Path, headers: list[str], profile: str
) -> None:
    path = folder / "config"
    path.write_text("".join(f"{header}\nregion = {number}\n" for number, header in enumerate(headers)))
    try:
        before = load_config(str(path))["profiles"]
        data = changed(path.read_bytes(), profile)
    except (ConfigError, ConfigParseError):
        assume(False)
    path.write_bytes(data)
    found = load_config(str(path))["profiles"][profile]
    assert found.pop("credential_process") == COMMAND
    assert found == before.get(profile, {})


@pytest.mark.parametrize("header", ["[   profile web    ]", "[ profile web]", "[\tprofile web]", "[Profile web]"])
def test_section_that_botocore_does_not_find_stays(header: str) -> None:
    old = f"{header}\nrole_arn = arn\n"
    assert changed(old.encode()).decode() == f"{old}\n[profile web]\ncredential_process = {COMMAND}\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", "[profile web]\n{}\n"),
        ("[default]\nregion = a", "[default]\nregion = a\n\n[profile web]\n{}\n"),
        ("[default]\r\nregion = a\r\n", "[default]\r\nregion = a\r\n\r\n[profile web]\r\n{}\r\n"),
        ("[profile web]\nregion = a\n", "[profile web]\n{}\nregion = a\n"),
        ("[profile web]", "[profile web]\n{}\n"),
        (f"[profile web]\ncredential_process = {ELSEWHERE}\nregion = a\n", "[profile web]\n{}\nregion = a\n"),
        (f"[profile web]\ncredential_process = {CLIENT}\nregion = a\n", "[profile web]\n{}\nregion = a\n"),
        ("\ufeff[profile web] # mine\n# text \xe4\n", "\ufeff[profile web] # mine\n{}\n# text \xe4\n"),
    ],
)
def test_line_is_added_or_replaced_in_its_place(old: str, new: str) -> None:
    assert changed(old.encode()).decode() == new.replace("{}", f"credential_process = {COMMAND}")


def test_default_profile_is_the_default_section() -> None:
    assert changed(b"", "default").decode() == f"[default]\ncredential_process = {COMMAND}\n"


def test_region_is_for_a_new_section_alone() -> None:
    new = with_credential_process(b"", "web", COMMAND, path="config", region="eu-west-1")
    assert new.decode() == f"[profile web]\ncredential_process = {COMMAND}\nregion = eu-west-1\n"
    assert with_credential_process(new, "web", COMMAND, path="config", region="us-east-1") == new
    old = b"[profile web]\noutput = json\n"
    assert b"region" not in with_credential_process(old, "web", COMMAND, path="config", region="eu-west-1")


def test_boto3_runs_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "it's.sh"
    script.write_text('#!/bin/sh\necho \'{"Version":1,"AccessKeyId":"ASIA1","SecretAccessKey":"s"}\'\n')
    script.chmod(0o755)
    command = f"'{tmp_path}/it'\"'\"'s.sh' credential-process --profile web"
    config = tmp_path / "config"
    config.write_bytes(with_credential_process(b"[default]\n", "web", command, path="config"))
    monkeypatch.setitem(os.environ, "AWS_CONFIG_FILE", str(config))
    found = boto3.Session(profile_name="web").get_credentials()
    assert found is not None
    assert found.access_key == "ASIA1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[profile web]\ncredential_process = /usr/bin/other\n", "has another credential_process"),
        ("[profile web]\ncredential_process = hwsigner-credentials --profile db\n", "has another credential_process"),
        ("[profile web]\nrole_arn = arn\n", "has role_arn, another source of credentials"),
        ("[profile web]\nsso_session = a\n", "has sso_session, another source"),
        ('[profile web]\n[profile "web"]\n', "has two sections for the profile web"),
        ("[profile web]\n[profile web]\n", r"has a second \[profile web\] in line 2, so the AWS SDKs can't read it"),
        ("[a]\nx = 1\nx = secret\n", r"has a second x in \[a\], in line 3, so the AWS SDKs can't read it"),
        ("no section = secret\n", "has a setting before the first section, in line 1, so the AWS SDKs can't read it"),
        ("[a]\nsecret\n", "has neither a section nor a setting in line 2, so the AWS SDKs can't read it"),
        ("[profiles web]\n", r"has \[profiles web\], which only some AWS SDKs read as the profile web"),
        ("[profile web]\n[profiles web]\n", "has two sections for the profile web"),
        (" [profile web]\nregion = a\n", "can't get a credential_process without changing other settings"),
        ("[profile web]\n  s3 = a\n", "can't get a credential_process without changing other settings"),
    ],
)
def test_file_that_can_t_be_changed_safely_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        changed(text.encode())
    assert "secret" not in str(caught.value)
