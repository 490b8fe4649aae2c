"""Credentials: invalid responses are refused, no secret leaks, and botocore reads what is printed."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwsigner._aws.credentials import Credentials, read_agent_credentials, read_credentials
from hwsigner.errors import AgentError, ServiceError

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
ROLE = "arn:aws:iam::123456789012:role/web"
SECRETS = {"secretAccessKey": "hush/secret+key", "sessionToken": "hush-token=="}
GOOD: dict[str, Any] = {
    "credentialSet": [
        {
            "assumedRoleUser": {"arn": "arn:aws:sts::123456789012:assumed-role/web/1", "assumedRoleId": "AROA:1"},
            "credentials": {"accessKeyId": "ASIAEXAMPLE", "expiration": "2026-05-04T13:00:00Z", **SECRETS},
            "packedPolicySize": 1,
            "roleArn": ROLE,
            "sourceIdentity": "CN=x",
        }
    ],
    "subjectArn": "arn:aws:rolesanywhere:eu-west-1:123456789012:subject/x",
}
FIELDS = [
    ("credentialSet",),
    ("credentialSet", 0),
    ("credentialSet", 0, "roleArn"),
    ("credentialSet", 0, "assumedRoleUser"),
    ("credentialSet", 0, "assumedRoleUser", "arn"),
    ("credentialSet", 0, "credentials"),
    ("credentialSet", 0, "credentials", "accessKeyId"),
    ("credentialSet", 0, "credentials", "secretAccessKey"),
    ("credentialSet", 0, "credentials", "sessionToken"),
    ("credentialSet", 0, "credentials", "expiration"),
]
WRONG: list[Any] = [None, "", 0, 1.5, True, [], {}, [[]], "line\nbreak", "\x1b[31m", "\ud800", "\u202e"]


def read(answer: object, now: datetime = NOW) -> Credentials:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_credentials(body, role_arn=ROLE, now=now)


def changed(path: tuple[str | int, ...], value: object) -> Any:
    """Return the valid response with one field replaced, or removed if the value is `...`."""
    answer = copy.deepcopy(GOOD)
    parent: Any = answer
    for name in path[:-1]:
        parent = parent[name]
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return answer


def refused(answer: object, now: datetime = NOW) -> ServiceError:
    """Return the error for a response, and check that it and its causes contain no secret."""
    with pytest.raises(ServiceError) as caught:
        read(answer, now)
    for error in chained(caught.value):
        text = f"{error!r} {error} {vars(error)} {error.args}"
        assert not any(secret in text for secret in SECRETS.values())
    assert caught.value.message.isprintable()
    return caught.value


def chained(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def test_valid_response_gives_credentials() -> None:
    credentials = read(GOOD)
    assert credentials == Credentials(
        "ASIAEXAMPLE",
        SECRETS["secretAccessKey"],
        SECRETS["sessionToken"],
        datetime(2026, 5, 4, 13, tzinfo=UTC),
        ROLE,
        "arn:aws:sts::123456789012:assumed-role/web/1",
        "arn:aws:rolesanywhere:eu-west-1:123456789012:subject/x",
    )
    assert not any(secret in f"{credentials!r} {credentials}" for secret in SECRETS.values())


def test_credentials_are_equal_if_every_field_is() -> None:
    fields = vars(read(GOOD))
    assert read(GOOD) == read(GOOD) == Credentials(**fields)
    assert len({read(GOOD), Credentials(**fields)}) == 1
    for name, value in fields.items():
        other: Any = value + timedelta(seconds=1) if isinstance(value, datetime) else f"{value}x"
        assert Credentials(**{**fields, name: other}) != read(GOOD)
    assert read(GOOD) != tuple(fields.values())


class TestInvalidResponses:
    @pytest.mark.parametrize("path", FIELDS, ids=lambda path: str(path[-1]))
    def test_missing_or_wrong_field_is_an_error(self, path: tuple[str | int, ...]) -> None:
        for value in (..., *WRONG):
            error = refused(changed(path, value))
            assert path == ("credentialSet", 0) or value is ... or str(path[-1]) in error.message or error.hint

    @pytest.mark.parametrize("name", ["accessKeyId", "secretAccessKey", "sessionToken", "expiration"])
    def test_error_names_the_missing_field(self, name: str) -> None:
        assert name in refused(changed(("credentialSet", 0, "credentials", name), ...)).message

    @pytest.mark.parametrize("value", WRONG[5:])
    def test_wrong_subject_is_an_error(self, value: object) -> None:
        if value:
            assert "subjectArn" in refused(changed(("subjectArn",), value)).message

    @pytest.mark.parametrize("value", [..., None, ""])
    def test_missing_subject_is_not_an_error(self, value: object) -> None:
        assert read(changed(("subjectArn",), value)).subject_arn == ""

    @pytest.mark.parametrize("end", [0, 40, 300, -1])
    def test_cut_json_is_an_error(self, end: int) -> None:
        body = json.dumps(GOOD).encode()
        assert "not a JSON object" in refused(body[:end]).message
        assert "not a JSON object" in refused(b"\xff" + body).message

    @pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"[" * 100_000, b"9" * 5000])
    def test_other_json_is_an_error(self, body: bytes) -> None:
        assert "not a JSON object" in refused(body).message

    @pytest.mark.slow
    @given(st.recursive(st.none() | st.booleans() | st.text() | st.floats(), lambda inner: st.lists(inner)))
    def test_any_other_json_is_an_error(self, value: object) -> None:
        for path in FIELDS[:3]:
            refused(changed(path, value))

    def test_credentials_for_another_role_are_an_error(self) -> None:
        other = ROLE.replace("web", "admin")
        message = refused(changed(("credentialSet", 0, "roleArn"), other)).message
        assert ROLE in message
        assert other in message


class TestExpiration:
    @pytest.mark.parametrize(
        "text",
        [
            "2026-05-04T13:00:00Z",
            "2026-05-04T13:00:00+00:00",
            "2026-05-04T13:00:00.000Z",
            "2026-05-04T15:00:00+02:00",
            "2026-05-04T07:30:00-05:30",
            "20260504T130000Z",
        ],
    )
    def test_expiration_is_converted_to_utc(self, text: str) -> None:
        credentials = read(changed(("credentialSet", 0, "credentials", "expiration"), text))
        assert credentials.expiration == datetime(2026, 5, 4, 13, tzinfo=UTC)
        assert json.loads(credentials.process_json())["Expiration"] == "2026-05-04T13:00:00Z"

    @pytest.mark.parametrize(
        "text",
        [
            "2026-05-04T13:00:00",
            "2026-05-04",
            "1777899600",
            "soon",
            "2026-13-04T13:00:00Z",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
        ],
    )
    def test_invalid_expiration_is_an_error(self, text: str) -> None:
        assert text in refused(changed(("credentialSet", 0, "credentials", "expiration"), text)).message

    def test_expired_credentials_are_an_error(self) -> None:
        end = datetime(2026, 5, 4, 13, tzinfo=UTC)
        assert read(GOOD, end - timedelta(microseconds=1)).expiration == end
        error = refused(GOOD, end)
        assert "expired at 2026-05-04T13:00:00Z" in error.message
        assert "clock" in error.hint


def test_botocore_accepts_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = datetime.now(UTC).replace(microsecond=987654) + timedelta(hours=1)
    printed = Credentials(
        "ASIAEXAMPLE", SECRETS["secretAccessKey"], SECRETS["sessionToken"], end, ROLE, "arn"
    ).process_json()
    assert "\n" not in printed
    script = tmp_path / "print.py"
    script.write_text(f"print({printed!r})")
    config = tmp_path / "config"
    config.write_text(f"[profile web]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    found = botocore.session.Session(profile="web").get_credentials()
    assert found.method == "custom-process"
    frozen = found.get_frozen_credentials()
    assert (frozen.access_key, frozen.secret_key, frozen.token) == ("ASIAEXAMPLE", *SECRETS.values())
    assert found._expiry_time == end.replace(microsecond=0)


class TestAgentReplies:
    def test_reply_is_read_as_it_was_written(self) -> None:
        credentials = Credentials("ASIA1", "s", "t", NOW, ROLE, "")
        assert read_agent_credentials(credentials.process_json().encode(), role_arn=ROLE) == credentials

    @given(
        name=st.sampled_from(["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"]),
        value=st.sampled_from([None, 1, [], {}, "", "\x1b", "2026-05-04T13:00:00", "9999-99-99T00:00:00Z"]),
    )
    def test_reply_with_a_missing_or_wrong_field_is_an_error(self, name: str, value: object) -> None:
        good = json.loads(Credentials("ASIA1", "s", "t", NOW, ROLE, "").process_json())
        if name != "Expiration" and isinstance(value, str) and value.isprintable() and value:
            return
        for answer in ({**good, name: value}, {key: good[key] for key in good if key != name}):
            with pytest.raises(AgentError, match="has no credentials"):
                read_agent_credentials(json.dumps(answer).encode(), role_arn=ROLE)

    @pytest.mark.parametrize("body", [b"", b"[]", b"null", b"nothing", b"[" * 100_000])
    def test_other_json_is_an_error(self, body: bytes) -> None:
        with pytest.raises(AgentError, match="has no credentials"):
            read_agent_credentials(body, role_arn=ROLE)
