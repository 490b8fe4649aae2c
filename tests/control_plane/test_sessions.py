"""Whether `aws check` explains each session that the emulator refuses, and finds nothing in those that it creates."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA224
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import Authority, pem
from control_plane.sessions import (
    EXPIRED,
    FAILING,
    FUTURE,
    KEY,
    ROOT,
    SOUND,
    UNDOCUMENTED,
    UNKNOWN,
    Session,
    crl_of,
    leaf,
)
from emulator.client import Caller, create_session
from emulator.material import DAY, Form, certificate
from examples import scaled
from hwsigner._aws.create_session import SessionRequest
from hwsigner._control_plane.facts import Facts
from hwsigner._control_plane.report import report
from hwsigner._identity.certificate import Certificate, Chain, build_chain, load
from hwsigner.emulator import Emulator, World, certificates
from hwsigner.emulator.refusals import RefusalError
from hwsigner.emulator.resources import Crl, Profile
from hwsigner.findings import Finding
from hwsigner.key import FoundCertificate
from hwsigner.trust_policy import TrustPolicy
from hwsigner.trust_policy.writing import write_trust_policy


def chain_of(session: Session) -> Chain:
    """Return the chain that the client sends."""
    found = certificates_of(session)
    return build_chain(found[0], found[1:])[0]


def certificates_of(session: Session) -> list[Certificate]:
    every = (session.leaf, *session.others)
    return load([FoundCertificate(each.public_bytes(Encoding.DER), "web.pem") for each in every])


def status(session: Session) -> int:
    """Return the emulator's answer."""
    world = world_of(session)
    chain = tuple(each.x509 for each in chain_of(session).intermediates)
    with Emulator(world) as emulator:
        return create_session(emulator, Caller(session.key, session.leaf, chain)).status


def world_of(session: Session) -> World:
    world = World.simple(pem(*session.anchors))
    [anchor], [profile], [role] = world.trust_anchors, world.profiles, world.roles.values()
    more: dict[str, Any] = {"tip": session.tip or None}
    if session.mappings is not None:
        more["attribute_mappings"] = session.mappings
    world.profiles[profile] = replace(world.profiles[profile], **more)
    role.trust_policy = TrustPolicy(policy(anchor))
    if session.crl:
        arn = anchor.replace(":trust-anchor/", ":crl/")
        world.crls[arn] = Crl(arn, session.crl, anchor, enabled=True)
    return world


def policy(anchor: str) -> dict[str, Any]:
    return write_trust_policy({"x509Subject/CN": ["bamboo-01"]}, trust_anchor=anchor)


def findings(session: Session) -> list[Finding]:
    """Return what `aws check` finds."""
    world = world_of(session)
    [anchor], [profile], [role] = world.trust_anchors, world.profiles.values(), world.roles
    source = {"sourceType": "CERTIFICATE_BUNDLE", "sourceData": {"x509CertificateData": pem(*session.anchors).decode()}}
    crl = {"crlId": "1", "name": "list", "enabled": True, "trustAnchorArn": anchor, "crlData": session.crl}
    facts = Facts(
        account=world.account,
        anchors=[{"trustAnchorArn": anchor, "name": "web", "enabled": True, "source": source}],
        profiles=[described(profile)],
        crls=[crl] if session.crl else [],
        role={"Arn": role, "RoleName": "web", "MaxSessionDuration": 3600, "AssumeRolePolicyDocument": policy(anchor)},
        subject={},
        private_ca="",
    )
    request = SessionRequest(anchor, profile.arn, role)
    others = certificates_of(session)
    found = report(facts, request, chain_of(session), datetime.now(UTC), others=others).findings
    return [each for each in found if each.id != "cas-several"]  # The service accepts them.


def described(profile: Profile) -> dict[str, Any]:
    mappings = [
        {"certificateField": field, "mappingRules": [{"specifier": each} for each in specifiers]}
        for field, specifiers in profile.attribute_mappings.items()
    ]
    about = {"profileArn": profile.arn, "name": "web", "enabled": True, "roleArns": profile.roles}
    return {**about, "durationSeconds": 3600, "attributeMappings": mappings, "tipConfiguration": profile.tip}


@pytest.mark.parametrize("make", FAILING.values(), ids=list(FAILING))
def test_refused_session_is_explained(make: Callable[[], Session]) -> None:
    session = make()
    assert status(session) != 201
    assert session.cause in "\n".join(each.found for each in findings(session))


@pytest.mark.parametrize("make", SOUND.values(), ids=list(SOUND))
def test_nothing_is_found_in_a_sound_session(make: Callable[[], Session]) -> None:
    session = make()
    assert status(session) == 201
    assert findings(session) == []


@pytest.mark.parametrize("make", UNDOCUMENTED.values(), ids=list(UNDOCUMENTED))
def test_session_that_openssl_refuses_is_unclear_if_aws_does_not_document_it(
    make: Callable[[], Session], tmp_path: Path
) -> None:
    session = make()
    for name, every in (("ca", session.anchors), ("leaf", [session.leaf]), ("others", session.others)):
        (tmp_path / name).write_bytes(pem(*every) if every else b"")
    verify = ["openssl", "verify", "-trusted", "ca", *(["-untrusted", "others"] if session.others else []), "leaf"]
    assert subprocess.run(verify, cwd=tmp_path, capture_output=True, check=False).returncode != 0
    assert status(session) == 201
    assert {each.id for each in findings(session)} == {"certificate-doubtful"}
    assert session.cause in "\n".join(each.found for each in findings(session))


def test_list_with_the_name_of_a_ca_that_another_key_signed_revokes_nothing() -> None:
    made = leaf()
    foreign = Authority(ROOT.certificate, KEY)
    [found] = findings(Session(made, crl=crl_of(foreign, made)))
    assert found.id == "crl-not-judged"
    assert found.found.endswith("has the name of CN=Root CA,OU=devops,O=Example,C=DE, whose key did not sign it")


_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(5)]
_DATES: list[dict[str, Any]] = [{}, {}, {}, {}, EXPIRED, FUTURE]
_ISSUING: list[dict[str, Any]] = [{}, {}, {}, {"ca": False}, {"ca": None}, {"usages": None}, {"usages": ("crl_sign",)}]
_OTHER: list[dict[str, Any]] = [{}, {}, {}, {"hash": SHA224}, {"extensions": ((UNKNOWN, True),)}]
_LENGTHS = [None, None, None, 0, 1, 2]


@st.composite
def drawn_sessions(draw: st.DrawFn) -> Session:
    """Return a line of CAs, some with a second certificate, of which the client and the trust anchor have some."""

    def drawn(name: str, *kinds: list[dict[str, Any]], **more: Any) -> Form:
        values = {key: value for kind in kinds for key, value in draw(st.sampled_from(kind)).items()}
        return Form(name, **{**more, **values})

    above: Authority | None = None
    every: list[x509.Certificate] = []
    for number in range(draw(st.integers(1, 4))):
        key, last = _KEYS[number], above
        for _ in range(draw(st.sampled_from([1, 1, 2]))):
            length, end = draw(st.sampled_from(_LENGTHS)), draw(st.sampled_from([3, 4, 5])) * DAY
            more: dict[str, Any] = {"ca": True, "usages": ("key_cert_sign",), "path_length": length, "end": end}
            form = drawn(f"Number {number}", _ISSUING, _DATES, _OTHER, **more)
            form = form if form.ca else replace(form, path_length=None)
            above = Authority(certificate(form, key.public_key(), last, key), key)
            every.append(above.certificate)
    made = certificate(drawn("bamboo-01", _DATES, _OTHER), KEY.public_key(), above)
    sent = draw(st.lists(st.sampled_from(every), unique=True)) if draw(st.booleans()) else every
    anchors = draw(st.lists(st.sampled_from(every), unique=True, min_size=1, max_size=2))
    return Session(made, tuple(sent), tuple(anchors))


@pytest.mark.slow
@settings(max_examples=scaled(300))
@given(drawn_sessions())
def test_something_is_found_in_a_drawn_session_if_and_only_if_it_is_refused(session: Session) -> None:
    now = datetime.now(UTC)
    chain = chain_of(session)
    try:
        certificates.check_leaf(session.leaf, now)
        certificates.check_path(session.leaf, [each.x509 for each in chain.intermediates], list(session.anchors), now)
        is_refused = False
    except RefusalError:
        is_refused = True
    assert bool(findings(session)) is is_refused
