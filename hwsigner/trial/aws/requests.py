"""Questions about the CreateSession request: its signature and its form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hwsigner.sigv4 import Request
from hwsigner.trial.aws.asking import BAD_SIGNATURE, INVALID, SESSION, kind_of_leaf, of_leaf
from hwsigner.trial.aws.authority import LEAF
from hwsigner.trial.aws.plan import AWSQuestion, AWSRow
from hwsigner.trial.aws.scene import AWSScene
from hwsigner.trial.aws.sessions import AskedSession
from hwsigner.trial.aws.sources import QUOTED, SESSION_API, SIGNING
from hwsigner.trial.aws.wanted import OPEN, Wanted, WantedProfile
from hwsigner.trial.questions import Source, choice, document

_SIGNATURE = "hwsigner/emulator/sessions.py: SessionService._verify_signature"
_PARAMETERS = "hwsigner/emulator/parameters.py: read_parameters"
_BODY, _PROPERTIES = "hwsigner/emulator/parameters.py: _read_body", "hwsigner/emulator/parameters.py: _read_properties"
_SCOPE = "hwsigner/emulator/sessions.py: _check_scope"
_CHECKS = "docs/how-to/emulator.md#what-it-checks"
_STAGES = "docs/how-it-works/sigv4-x509.md"
_ERRORS = "docs/reference/errors.md#access-denied"
_SAID_ONLY_SO = choice("every flaw of a signature has the same words, as those that users saw")
_FORM = choice("what is not as documented is invalid; AWS does not say what is tolerated")

_NO_POLICY = "arn:aws:iam::aws:policy/NoSuchPolicyOfATrial"

Change = Callable[[Request], Request]


def _row(name: str, text: str, needs: tuple[Wanted, ...] = ()) -> AWSRow:
    return AWSRow(f"requests.{name}", text, (_CHECKS,), (OPEN, *needs))


def _with_header(name: str, value: str) -> Change:
    return lambda request: _without_header(name)(request)._replace(
        headers=(*_without_header(name)(request).headers, (name, value))
    )


def _without_header(name: str) -> Change:
    return lambda request: request._replace(
        headers=tuple(pair for pair in request.headers if pair[0].lower() != name.lower())
    )


def _with_parameter(name: str, value: str) -> Change:
    return lambda request: request._replace(query=(*request.query, (name, value)))


def _with_last_parameter(name: str, value: str) -> Change:
    return lambda request: request._replace(query=(*request.query[:-1], (name, value)))


def _parameters_in_body(request: Request) -> Request:
    body = {**json.loads(request.body), **dict(request.query)}
    return request._replace(query=(), body=json.dumps(body).encode())


def _serial_in_hex(scene: AWSScene) -> str:
    leaf = scene.leaf()
    serial = f"{leaf.certificate.serial_number:x}"
    return str(scene.session(leaf, AskedSession(serial=serial)))


def _own_key(scene: AWSScene) -> str:
    return str(scene.session(scene.leaf(), AskedSession(signing_key=scene.ca.intermediate.key)))


def _other_region(scene: AWSScene) -> str:
    region = "us-east-2" if scene.region != "us-east-2" else "us-east-1"
    return str(scene.session(scene.leaf(), AskedSession(region=region)))


_SIGNATURES = (
    _row("unsigned-header", "What does CreateSession say to an X-Amz header that is not signed?").expects(
        BAD_SIGNATURE,
        _SAID_ONLY_SO,
        of_leaf(LEAF, spoil=_with_header("X-Amz-Trial", "trial")),
        "hwsigner/emulator/signature.py: check_signed_headers",
    ),
    _row("unsigned-content-type", "What does CreateSession say to a Content-Type that is not signed?").expects(
        BAD_SIGNATURE,
        SIGNING,
        of_leaf(LEAF, change=_without_header("Content-Type"), spoil=_with_header("Content-Type", "application/json")),
        "hwsigner/emulator/signature.py: check_signed_headers",
    ),
    _row("changed-header", "What does CreateSession say to a signed header that was changed?").expects(
        BAD_SIGNATURE,
        QUOTED,
        of_leaf(LEAF, spoil=_with_header("Content-Type", "application/json; charset=utf-8")),
        _SIGNATURE,
        _ERRORS,
    ),
    _row("wrong-algorithm", "What does CreateSession say if the algorithm is not the one of the key?").expects(
        BAD_SIGNATURE, _SAID_ONLY_SO, of_leaf(LEAF, algorithm="AWS4-X509-RSA-SHA256"), _SIGNATURE
    ),
    _row("unknown-algorithm", "What does CreateSession say to the algorithm AWS4-HMAC-SHA256?").expects(
        BAD_SIGNATURE,
        _SAID_ONLY_SO,
        of_leaf(LEAF, algorithm="AWS4-HMAC-SHA256"),
        "hwsigner/emulator/sessions.py: _read_authorization",
    ),
    _row("serial-in-hex", "What does CreateSession say if Credential has the serial number in hexadecimal?").expects(
        BAD_SIGNATURE, _SAID_ONLY_SO, _serial_in_hex, _SCOPE, _STAGES
    ),
    _row("other-key", "What does CreateSession say to a signature by another key?").expects(
        BAD_SIGNATURE, QUOTED, _own_key, _SIGNATURE, _ERRORS
    ),
    _row("other-region", "What does CreateSession say if the scope is of another region?").expects(
        BAD_SIGNATURE, _SAID_ONLY_SO, _other_region, _SCOPE
    ),
    _row("unsigned", "What does CreateSession say to a request without Authorization?").expects(
        "403 MissingAuthenticationTokenException: Missing Authentication Token",
        choice("as other services of AWS say it"),
        of_leaf(LEAF, spoil=_without_header("Authorization")),
        "hwsigner/emulator/sessions.py: _read_authorization",
    ),
    _row("no-credential", "What does CreateSession say to an Authorization without a credential?").expects(
        BAD_SIGNATURE,
        _SAID_ONLY_SO,
        of_leaf(LEAF, spoil=_with_header("Authorization", "AWS4-X509-ECDSA-SHA256 Signature=00")),
        "hwsigner/emulator/signature.py: parse_authorization",
    ),
    _row(
        "equals", "Does a query with a value with = get a session, if the canonical query has it encoded once?"
    ).expects(
        SESSION,
        choice("the signing process says twice, but the general pages and the SDKs encode it once"),
        of_leaf(LEAF, change=_with_parameter("trial", "a=b")),
        _STAGES,
        "hwsigner/emulator/canonical.py: canonical_request",
    ),
    _row(
        "equals-twice",
        "What does CreateSession say to a query with a value with =, if the canonical query has it encoded twice?",
    ).expects(
        BAD_SIGNATURE,
        choice("the signing process says twice, but the general pages and the SDKs encode it once"),
        of_leaf(LEAF, change=_with_parameter("trial", "a%3Db"), spoil=_with_last_parameter("trial", "a=b")),
        _STAGES,
        "hwsigner/emulator/canonical.py: canonical_request",
    ),
)


def _properties(count: int, length: int) -> Mapping[str, str]:
    return {f"property {number}": "x" * length for number in range(count)}


def _formed(
    name: str,
    words: str,
    expected: str,
    source: Source,
    rests_on: str,
    *,
    needs: tuple[Wanted, ...] = (),
    **members: Any,
) -> AWSQuestion:
    text = f"Does a request {words} get a session?"
    return _row(name, text, needs=needs).expects(expected, source, kind_of_leaf(LEAF, **members), rests_on)


_FORMS = (
    _formed("empty-body", "without a body", INVALID, _FORM, _BODY, body=b""),
    _formed("no-json", "whose body is not JSON", INVALID, _FORM, _BODY, body=b"{"),
    _formed("array", "whose body is a JSON array", INVALID, _FORM, _BODY, body=b"[]"),
    _formed(
        "content-type",
        "with the Content-Type text/plain",
        INVALID,
        _FORM,
        _BODY,
        change=_with_header("Content-Type", "text/plain"),
    ),
    _formed(
        "parameters-in-body", "with the ARNs in the body", SESSION, SESSION_API, _PARAMETERS, change=_parameters_in_body
    ),
    _formed(
        "no-arns", "without ARNs", INVALID, SESSION_API, _PARAMETERS, change=lambda request: request._replace(query=())
    ),
    _formed(
        "twice",
        "with a parameter twice in the query",
        INVALID,
        _FORM,
        "hwsigner/emulator/parameters.py: _read_query",
        change=lambda request: request._replace(query=(*request.query, request.query[0])),
    ),
    _formed(
        "other-parameter",
        "with an unknown member in the body",
        SESSION,
        choice("services ignore members that they do not know"),
        _PARAMETERS,
        body=b'{"durationSeconds": 3600, "trial": 1}',
    ),
    _formed(
        "member-twice",
        "whose body has a member twice",
        INVALID,
        _FORM,
        _BODY,
        body=b'{"durationSeconds": 900, "durationSeconds": 900}',
    ),
    _formed(
        "charset",
        "with the Content-Type application/json; charset=utf-8",
        SESSION,
        choice("the SDKs of other languages may add a parameter"),
        _BODY,
        change=_with_header("Content-Type", "application/json; charset=utf-8"),
    ),
    _formed(
        "json-1-1",
        "with the Content-Type application/x-amz-json-1.1",
        SESSION,
        choice("other services of AWS take JSON with this type"),
        _BODY,
        change=_with_header("Content-Type", "application/x-amz-json-1.1"),
    ),
    _formed(
        "arns-differ",
        "whose body has another roleArn than the query",
        INVALID,
        _FORM,
        "hwsigner/emulator/parameters.py: _only_text",
        body=b'{"roleArn": "arn:aws:iam::111111111111:role/trial"}',
    ),
    _formed(
        "properties-required",
        "without instanceProperties to a profile that requires them",
        SESSION,
        document("IAM Roles Anywhere API Reference: CreateProfile: requireInstanceProperties is unused"),
        "hwsigner/emulator/resources.py: Profile",
        profile="properties",
        needs=(WantedProfile("properties", members={"requireInstanceProperties": True}),),
    ),
    _formed(
        "no-managed-policy",
        "to a profile with a managed policy that does not exist",
        SESSION,
        choice("the emulator stores session policies, and nothing more"),
        "hwsigner/emulator/resources.py: Profile",
        profile="managed",
        needs=(WantedProfile("managed", members={"managedPolicyArns": [_NO_POLICY]}),),
    ),
    _formed(
        "no-certificate",
        "without X-Amz-X509",
        INVALID,
        _FORM,
        "hwsigner/emulator/sessions.py: SessionService._verify_certificate",
        spoil=_without_header("X-Amz-X509"),
    ),
    _formed(
        "no-chain-certificate",
        "with a word in X-Amz-X509-Chain",
        INVALID,
        _FORM,
        "hwsigner/emulator/certificates.py: read_certificate",
        spoil=_with_header("X-Amz-X509-Chain", "trial"),
    ),
    _formed(
        "50-properties", "with 50 instanceProperties", SESSION, SESSION_API, _PROPERTIES, properties=_properties(50, 1)
    ),
    _formed(
        "51-properties", "with 51 instanceProperties", INVALID, SESSION_API, _PROPERTIES, properties=_properties(51, 1)
    ),
    _formed(
        "200-characters",
        "with an instance property of 200 characters",
        SESSION,
        SESSION_API,
        _PROPERTIES,
        properties=_properties(1, 200),
    ),
    _formed(
        "201-characters",
        "with an instance property of 201 characters",
        INVALID,
        SESSION_API,
        _PROPERTIES,
        properties=_properties(1, 201),
    ),
    _formed(
        "empty-property", "with an empty instance property", INVALID, SESSION_API, _PROPERTIES, properties={"a": ""}
    ),
    _formed(
        "other-path",
        "for /sessions/",
        "404 UnknownOperationException",
        _FORM,
        "hwsigner/emulator/service.py",
        change=lambda request: request._replace(path=f"{request.path}/"),
    ),
)


QUESTIONS = (*_SIGNATURES, *_FORMS)
