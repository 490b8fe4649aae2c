"""Questions about the CreateSession request: its signature and its form."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from hwsigner.sigv4 import Request
from hwsigner.trial.questions import choice, document
from trial_aws.asking import BAD_SIGNATURE, INVALID, SESSION, kind_of_leaf, of_leaf
from trial_aws.authority import LEAF
from trial_aws.plan import AWSRow
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.sources import QUOTED, SESSION_API, SIGNING
from trial_aws.wanted import OPEN, Wanted, WantedProfile

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


def _form(name: str, words: str, needs: tuple[Wanted, ...] = ()) -> AWSRow:
    return _row(name, f"Does a request {words} get a session?", needs)


_FORMS = (
    _form("empty-body", "without a body").expects(INVALID, _FORM, kind_of_leaf(LEAF, body=b""), _BODY),
    _form("no-json", "whose body is not JSON").expects(INVALID, _FORM, kind_of_leaf(LEAF, body=b"{"), _BODY),
    _form("array", "whose body is a JSON array").expects(INVALID, _FORM, kind_of_leaf(LEAF, body=b"[]"), _BODY),
    _form("content-type", "with the Content-Type text/plain").expects(
        INVALID, _FORM, kind_of_leaf(LEAF, change=_with_header("Content-Type", "text/plain")), _BODY
    ),
    _form("parameters-in-body", "with the ARNs in the body").expects(
        SESSION, SESSION_API, kind_of_leaf(LEAF, change=_parameters_in_body), _PARAMETERS
    ),
    _form("no-arns", "without ARNs").expects(
        INVALID, SESSION_API, kind_of_leaf(LEAF, change=lambda request: request._replace(query=())), _PARAMETERS
    ),
    _form("twice", "with a parameter twice in the query").expects(
        INVALID,
        _FORM,
        kind_of_leaf(LEAF, change=lambda request: request._replace(query=(*request.query, request.query[0]))),
        "hwsigner/emulator/parameters.py: _read_query",
    ),
    _form("other-parameter", "with an unknown member in the body").expects(
        SESSION,
        choice("services ignore members that they do not know"),
        kind_of_leaf(LEAF, body=b'{"durationSeconds": 3600, "trial": 1}'),
        _PARAMETERS,
    ),
    _form("member-twice", "whose body has a member twice").expects(
        INVALID, _FORM, kind_of_leaf(LEAF, body=b'{"durationSeconds": 900, "durationSeconds": 900}'), _BODY
    ),
    _form("charset", "with the Content-Type application/json; charset=utf-8").expects(
        SESSION,
        choice("the SDKs of other languages may add a parameter"),
        kind_of_leaf(LEAF, change=_with_header("Content-Type", "application/json; charset=utf-8")),
        _BODY,
    ),
    _form("json-1-1", "with the Content-Type application/x-amz-json-1.1").expects(
        SESSION,
        choice("other services of AWS take JSON with this type"),
        kind_of_leaf(LEAF, change=_with_header("Content-Type", "application/x-amz-json-1.1")),
        _BODY,
    ),
    _form("arns-differ", "whose body has another roleArn than the query").expects(
        INVALID,
        _FORM,
        kind_of_leaf(LEAF, body=b'{"roleArn": "arn:aws:iam::111111111111:role/trial"}'),
        "hwsigner/emulator/parameters.py: _only_text",
    ),
    _form(
        "properties-required",
        "without instanceProperties to a profile that requires them",
        needs=(WantedProfile("properties", members={"requireInstanceProperties": True}),),
    ).expects(
        SESSION,
        document("IAM Roles Anywhere API Reference: CreateProfile: requireInstanceProperties is unused"),
        kind_of_leaf(LEAF, profile="properties"),
        "hwsigner/emulator/resources.py: Profile",
    ),
    _form(
        "no-managed-policy",
        "to a profile with a managed policy that does not exist",
        needs=(WantedProfile("managed", members={"managedPolicyArns": [_NO_POLICY]}),),
    ).expects(
        SESSION,
        choice("the emulator stores session policies, and nothing more"),
        kind_of_leaf(LEAF, profile="managed"),
        "hwsigner/emulator/resources.py: Profile",
    ),
    _form("no-certificate", "without X-Amz-X509").expects(
        INVALID,
        _FORM,
        kind_of_leaf(LEAF, spoil=_without_header("X-Amz-X509")),
        "hwsigner/emulator/sessions.py: SessionService._verify_certificate",
    ),
    _form("no-chain-certificate", "with a word in X-Amz-X509-Chain").expects(
        INVALID,
        _FORM,
        kind_of_leaf(LEAF, spoil=_with_header("X-Amz-X509-Chain", "trial")),
        "hwsigner/emulator/certificates.py: read_certificate",
    ),
    _form("50-properties", "with 50 instanceProperties").expects(
        SESSION, SESSION_API, kind_of_leaf(LEAF, properties=_properties(50, 1)), _PROPERTIES
    ),
    _form("51-properties", "with 51 instanceProperties").expects(
        INVALID, SESSION_API, kind_of_leaf(LEAF, properties=_properties(51, 1)), _PROPERTIES
    ),
    _form("200-characters", "with an instance property of 200 characters").expects(
        SESSION, SESSION_API, kind_of_leaf(LEAF, properties=_properties(1, 200)), _PROPERTIES
    ),
    _form("201-characters", "with an instance property of 201 characters").expects(
        INVALID, SESSION_API, kind_of_leaf(LEAF, properties=_properties(1, 201)), _PROPERTIES
    ),
    _form("empty-property", "with an empty instance property").expects(
        INVALID, SESSION_API, kind_of_leaf(LEAF, properties={"a": ""}), _PROPERTIES
    ),
    _form("other-path", "for /sessions/").expects(
        "404 UnknownOperationException",
        _FORM,
        kind_of_leaf(LEAF, change=lambda request: request._replace(path=f"{request.path}/")),
        "hwsigner/emulator/service.py",
    ),
)


QUESTIONS = (*_SIGNATURES, *_FORMS)
