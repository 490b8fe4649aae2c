"""Questions about trust anchors that refer to an AWS Private CA. They are asked only if the user gives one."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hwsigner.trial.questions import NotAskedError, document
from trial_aws.authority import LEAF, TrialLeaf, name_of
from trial_aws.plan import AWSQuestion, needing
from trial_aws.scene import AWSScene
from trial_aws.sessions import AskedSession
from trial_aws.wanted import WantedAnchor

_MEMBERS = {"source": {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": "<<private_ca>>"}}}
_ANCHOR = WantedAnchor("private-ca", members=_MEMBERS)
_TRIES = 10


def _anchor(scene: AWSScene) -> str:
    _check(scene)
    identifier = scene.arn("anchor", _ANCHOR.name).rpartition("/")[2]
    found = scene.calls.call("rolesanywhere", "get_trust_anchor", trustAnchorId=identifier)
    if found.code:
        return str(found)
    source = found.response["trustAnchor"]["source"]
    return f"{source['sourceType']} with {', '.join(sorted(source['sourceData']))}"


def _session(scene: AWSScene) -> str:
    _check(scene)
    return str(scene.session(_issued(scene), AskedSession(anchor=_ANCHOR.name)))


def _issued(scene: AWSScene) -> TrialLeaf:
    """Return a leaf that the private CA issued."""
    ca, key = {"CertificateAuthorityArn": scene.private_ca}, scene.ca.key("P-256")
    client = scene.clients.acm_pca
    known: dict[str, Any] = client.call("describe_certificate_authority", **ca)["CertificateAuthority"]
    request = x509.CertificateSigningRequestBuilder().subject_name(name_of(LEAF.subject)).sign(key, SHA256())
    arn = client.call(
        "issue_certificate",
        **ca,
        Csr=request.public_bytes(Encoding.PEM),
        SigningAlgorithm=known["CertificateAuthorityConfiguration"]["SigningAlgorithm"],
        Validity={"Type": "DAYS", "Value": 1},
    )["CertificateArn"]
    for _ in range(_TRIES):
        found = client.call_unless(("RequestInProgressException",), "get_certificate", **ca, CertificateArn=arn)
        if found:
            bundle = f"{found['Certificate']}\n{found.get('CertificateChain', '')}"
            leaf, *chain = x509.load_pem_x509_certificates(bundle.encode())
            return TrialLeaf(leaf, key, tuple(each for each in chain if each.subject != each.issuer))
        scene.settle()
    raise NotAskedError("the private CA issues no certificate")


def _check(scene: AWSScene) -> None:
    if not scene.private_ca:
        raise NotAskedError("it needs an AWS Private CA", "Give --private-ca")


_GUIDE = document("IAM Roles Anywhere User Guide, Establish trust")
_PAGE = "docs/how-to/emulator.md#the-control-plane"

QUESTIONS: tuple[AWSQuestion, ...] = (
    AWSQuestion(
        id="private-ca.anchor",
        text="What does GetTrustAnchor return as the source of a trust anchor that refers to an AWS Private CA?",
        expected="AWS_ACM_PCA with acmPcaArn",
        source=_GUIDE,
        rests_on=(_PAGE, "hwsigner/emulator/control/anchors.py: _detail"),
        ask=needing(_anchor, _ANCHOR, is_of_private_ca=True),
    ),
    AWSQuestion(
        id="private-ca.session",
        text="Does a leaf that an AWS Private CA issued get a session?",
        expected="session",
        source=_GUIDE,
        rests_on=(_PAGE,),
        ask=needing(_session, _ANCHOR, is_of_private_ca=True),
    ),
)
