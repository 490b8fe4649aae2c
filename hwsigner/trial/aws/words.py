"""Questions about the words of refusals that hwsigner chose, because AWS's words are not known."""

from __future__ import annotations

from typing import Any

from hwsigner.trial.aws.asking import INVALID, Ask, outcome
from hwsigner.trial.aws.authority import LEAF, TrialLeaf
from hwsigner.trial.aws.plan import AWSQuestion
from hwsigner.trial.aws.scene import AWSScene
from hwsigner.trial.aws.sessions import AskedSession
from hwsigner.trial.aws.sources import choice
from hwsigner.trial.aws.wanted import OPEN

_CHOSEN = choice("only the status and the type are documented; the words say what is wrong")
_PARAMETERS = "hwsigner/emulator/parameters.py"
_CHAIN = "hwsigner/emulator/certificates.py: read_chain"


def _said(name: str, words: str, message: str, rests_on: str, ask: Ask) -> AWSQuestion:
    text = f"In which words does CreateSession refuse {words}?"
    return AWSQuestion(f"words.{name}", text, f"{INVALID}: {message}", _CHOSEN, (rests_on,), ask, (OPEN,))


def _to(**members: Any) -> Ask:
    return lambda scene: outcome(scene.session(scene.leaf(), AskedSession(**members)))


def _to_chain(*parts: str) -> Ask:
    """Return what sends a chain of the leaf, its issuer and the root, by these names."""

    def ask(scene: AWSScene) -> str:
        leaf: TrialLeaf = scene.leaf(LEAF)
        named = {"leaf": leaf.certificate, "issuer": leaf.chain[0], "root": scene.ca.root.certificate}
        return outcome(scene.session(leaf, AskedSession(chain=[named[part] for part in parts])))

    return ask


def _to_arn(place: int, arn: str) -> Ask:
    """Return what names something else than the profile (0), the role (1) or the trust anchor (2)."""

    def ask(scene: AWSScene) -> str:
        arns = [scene.arn("profile", "main"), scene.arn("role", "open"), scene.arn("anchor", "main")]
        arns[place] = arn
        return outcome(scene.send(scene.leaf(), AskedSession(), (arns[0], arns[1], arns[2])))

    return ask


_DURATION = "durationSeconds is not a whole number from 900 to 43200"
QUESTIONS = (
    _said("duration", "a durationSeconds of 899", _DURATION, f"{_PARAMETERS}: read_parameters", _to(duration=899)),
    _said(
        "long-duration", "a durationSeconds of 43201", _DURATION, f"{_PARAMETERS}: read_parameters", _to(duration=43201)
    ),
    _said("empty-body", "an empty body", "the body is empty", f"{_PARAMETERS}: _read_body", _to(body=b"")),
    _said(
        "no-json",
        "a body that is not JSON",
        "the body is not JSON, or names a member twice",
        f"{_PARAMETERS}: _read_body",
        _to(body=b"{"),
    ),
    _said(
        "properties",
        "51 instanceProperties",
        "instanceProperties has more than 50 entries",
        f"{_PARAMETERS}: _read_properties",
        _to(properties={f"property {number}": "x" for number in range(51)}),
    ),
    _said(
        "long-property",
        "an instance property of 201 characters",
        "instanceProperties has a name or value that is not 1 to 200 characters",
        f"{_PARAMETERS}: _read_properties",
        _to(properties={"a": "x" * 201}),
    ),
    _said(
        "no-role",
        "a roleArn that is not an ARN",
        "roleArn is not the ARN of a role",
        f"{_PARAMETERS}: _read_arn",
        _to_arn(1, "trial"),
    ),
    _said(
        "session-name",
        "a session name of one character",
        "roleSessionName does not match [\\w+=,.@-]{2,64}",
        f"{_PARAMETERS}: read_parameters",
        _to(session_name="a"),
    ),
    _said(
        "root",
        "a chain with a root",
        "X-Amz-X509-Chain holds a root, a self-signed certificate",
        _CHAIN,
        _to_chain("issuer", "root"),
    ),
    _said(
        "leaf-last",
        "a chain with the leaf as the last",
        "X-Amz-X509-Chain holds the certificate of X-Amz-X509 itself, and not as its first",
        _CHAIN,
        _to_chain("issuer", "leaf"),
    ),
    _said(
        "twice",
        "a chain with a certificate twice",
        "X-Amz-X509-Chain holds a certificate twice",
        _CHAIN,
        _to_chain("issuer", "issuer"),
    ),
    _said(
        "six",
        "a chain of six certificates",
        "X-Amz-X509-Chain holds 6 certificates, more than 5",
        _CHAIN,
        _to_chain(*["issuer"] * 6),
    ),
)
