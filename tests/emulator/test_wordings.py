"""Error messages of refused requests, and their records."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

import pytest

from emulator.client import send
from emulator.signing import PLAN, PRESIGNED, SESSION, add_credentials, error_code, header, query
from hwsigner.emulator import Emulator, World


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    with Emulator(World()) as running:
        yield add_credentials(running)


def test_s3_errors_are_xml(server: Emulator) -> None:
    reply = send(server, header("x-amz-meta-a", "two")(PLAN.signed(server)))
    root = ET.fromstring(reply.body)
    assert (reply.headers["content-type"], root.tag) == ("application/xml", "Error")
    assert [each.tag for each in root] == ["Code", "Message", "RequestId"]
    assert root.findtext("RequestId") == reply.headers["x-amzn-requestid"]


@pytest.mark.parametrize("name", ["\x00", "\x1b[2j", "<&>", "\n"])
def test_client_text_is_escaped_in_xml_and_logs(server: Emulator, name: str) -> None:
    names = quote(";".join(sorted(["host", name])))
    made = query("SignedHeaders=content-type%3Bhost%3Bx-amz-meta-a", f"SignedHeaders={names}")(PRESIGNED.signed(server))
    reply = send(server, made)
    assert error_code(reply) == (400, "AuthorizationQueryParametersError")
    assert "which was not sent" in (ET.fromstring(reply.body).findtext("Message") or "")
    assert server.requests[-1].reason.isprintable()


@pytest.mark.parametrize("presigned", [False, True])
def test_refusal_record_has_the_expected_strings_and_no_secret(server: Emulator, presigned: bool) -> None:
    made = replace(PLAN, presigned=presigned, body=b"").signed(server)
    send(server, header("x-amz-meta-a", "two")(made))
    record = server.requests[-1]
    assert "x-amz-meta-a:two\n" in record.canonical_request
    assert record.string_to_sign.startswith("AWS4-HMAC-SHA256\n")
    entry = record.log_entry()
    assert entry["stringToSign"] == record.string_to_sign
    assert "x-amz-meta-a:two\n" in entry["canonicalRequest"]
    assert "ecurity" in json.dumps(entry)
    for text in (str(SESSION.token), quote(str(SESSION.token), safe=""), SESSION.secret_key):
        assert text not in json.dumps(entry)


def test_session_token_is_not_logged_however_its_name_is_encoded(server: Emulator) -> None:
    made = query("X-Amz-Security-Token", "x%2DAmz-%53ecurity-Token")(PRESIGNED.signed(server))
    send(server, made)
    assert quote(str(SESSION.token), safe="") not in json.dumps(server.requests[-1].log_entry())
