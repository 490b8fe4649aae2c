"""`hwsigner serve --pods` as a process. The tests of the tokens' verification are elsewhere."""

from __future__ import annotations

import json
import signal

from serving.pods.pod_stage import serve_pods
from serving.stage import Stage

WEB = '[accounts]\n"team-a/web" = "web"\n'


def test_account_gets_a_session_of_its_own(pod_stage: Stage) -> None:
    with serve_pods(pod_stage, WEB) as pods:
        found = pods.credentials("team-a/web")
        assert set(found) == {"AccessKeyId", "SecretAccessKey", "Token", "AccountId", "Expiration"}
        assert found["AccountId"] == pod_stage.service.role_arn.split(":")[4]
        assert pods.credentials("team-a/web", pod="another", uid="2") == found
        [request] = [one.request for one in pod_stage.service.requests if one.request.path.startswith("/sessions")]
        assert json.loads(request.body)["roleSessionName"] == "team-a.web.node1"
        assert pods.process.end(signal.SIGTERM) == 0


def test_unknown_account_is_told_which_line_to_add(pod_stage: Stage) -> None:
    with serve_pods(pod_stage, WEB) as pods:
        assert pods.refusal("team-a/other") == (
            403,
            'the service account team-a/other has no profile: add "team-a/other" = "PROFILE" below [accounts] in '
            f"{pods.policy}",
        )
