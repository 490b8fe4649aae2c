"""A trust anchor that refers to an AWS Private CA. It is asked about only if the user gives one."""

from __future__ import annotations

from collections.abc import Mapping

from hwsigner.trial.questions import NotAskedError
from trial_aws.asking import Ask
from trial_aws.plan import needing
from trial_aws.scene import AWSScene
from trial_aws.wanted import WantedAnchor

_MEMBERS = {"source": {"sourceType": "AWS_ACM_PCA", "sourceData": {"acmPcaArn": "<<private_ca>>"}}}
_ANCHOR = WantedAnchor("private-ca", members=_MEMBERS)


def _anchor(scene: AWSScene) -> str:
    if not scene.private_ca:
        raise NotAskedError("it needs an AWS Private CA", "Give --private-ca")
    identifier = scene.arn("anchor", _ANCHOR.name).rpartition("/")[2]
    found = scene.calls.call("rolesanywhere", "get_trust_anchor", trustAnchorId=identifier)
    if found.code:
        return str(found)
    source = found.response["trustAnchor"]["source"]
    return f"{source['sourceType']} with {', '.join(sorted(source['sourceData']))}"


ASKS: Mapping[str, Ask] = {"private-ca.anchor": needing(_anchor, _ANCHOR, is_of_private_ca=True)}
