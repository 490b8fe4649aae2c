"""What a question to AWS is asked with: a CA, the trial's resources by name, sessions, and calls."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.create_session import Service
from hwsigner._aws.region import region_of
from hwsigner._http.connection import Deadline
from hwsigner._http.transport import post
from hwsigner.errors import HwsignerError
from hwsigner.trial.questions import NotAskedError
from hwsigner.trial.report import Scrubber
from trial_aws.authority import LEAF, CertificateShape, Issued, TrialCA
from trial_aws.calls import PATH, PREFIX, CallAnswer, TrialCalls, TrialPace
from trial_aws.sessions import AskedSession, SessionAnswer, read_answer, signed_session

_SETTLING_SECONDS = 15
_BUSY_PAUSES = (2.0, 5.0, 10.0)
_BUSY_STATUSES = frozenset({429, 500, 502, 503, 504})
_PLACE = re.compile(r"<<(\w+)(?::([\w-]+))?>>")
ASKED = AskedSession()


class RefusedInAdvanceError(HwsignerError):
    """Something that a question needs was refused when it was to be made. That is an answer."""


class StaysFailingError(NotAskedError):
    """The service fails each time at one request. That is an answer to a question, but nothing to begin with."""


class AWSScene:
    """What a question to AWS is asked with.

    Attributes:
        rates: whether to ask how many requests a second are too many.
        clients: the clients of the AWS APIs, for what no question asks.
        prefix: what the names of the trial's resources begin with.
        region: the region.
        ca: the trial's CA.
        scrub: takes out of texts what identifies somebody.
        calls: calls of the AWS APIs.
        arns: the ARNs of what was made, by kind ("role", "profile", "anchor", "crl") and name.
        profile_of: the profile of a session with a role, by the role's name.
        refused: why something could not be made, by kind and name.
    """

    def __init__(
        self,
        clients: ServiceClients,
        service: Service,
        *,
        ca: TrialCA,
        pace: TrialPace,
        rates: bool = False,
    ) -> None:
        self.clients = clients
        self._service = service
        self._pace = pace
        self.prefix = f"{PREFIX}{secrets.token_hex(3)}"
        self.rates = rates
        self.region = service.region
        self.ca = ca
        self.scrub = Scrubber()
        self.scrub.hide(self.prefix, "prefix")
        self.scrub.hide(service.endpoint.host_header, "endpoint")
        self.scrub.hide(service.endpoint.host, "endpoint")
        self.calls = TrialCalls(clients, self.prefix, self.scrub)
        self.arns: dict[tuple[str, str], str] = {}
        self.profile_of: dict[str, str] = {}
        self.refused: dict[tuple[str, str], HwsignerError] = {}

    @property
    def account(self) -> str:
        """The account's number. It must not be in an answer."""
        return self.clients.account

    @property
    def partition(self) -> str:
        """The partition, such as "aws"."""
        return self.clients.partition

    @property
    def is_aws(self) -> bool:
        """Whether the sessions are of AWS, and not of an emulator."""
        return bool(region_of(self._service.endpoint.host))

    def elsewhere(self, service: Service | None = None, pace: TrialPace | None = None) -> AWSScene:
        """Return the same scene with another endpoint or pace for its sessions."""
        found = copy(self)
        found._service, found._pace = service or self._service, pace or self._pace
        return found

    def named(self, name: str) -> str:
        """Return the name that a resource of the trial has in the account."""
        return f"{self.prefix}-{name}"

    def arn(self, kind: str, name: str) -> str:
        """Return the ARN of a "role", "profile", "anchor" or "crl" that was made, by its name in the trial.

        Raises:
            RefusedInAdvanceError: the service refused to make it.
            NotAskedError: it could not be made for another reason.
        """
        if error := self.refused.get((kind, name)):
            raise error
        if (kind, name) not in self.arns:
            raise NotAskedError(f"there is no {kind} {name} in this trial")
        return self.arns[kind, name]

    def leaf(self, shape: CertificateShape = LEAF, issuer: Issued | None = None) -> Issued:
        """Return a new leaf of the intermediate CA, or of another one."""
        return self.ca.leaf(shape, issuer)

    def session(self, leaf: Issued, asked: AskedSession = ASKED) -> SessionAnswer:
        """Send a CreateSession request to what was made.

        Raises:
            RefusedInAdvanceError: something that it needs was refused when it was to be made.
            NotAskedError: as `send`.
            ServiceUnreachableError: no response came.
        """
        profile = asked.profile or self.profile_of.get(asked.role, "main")
        arns = self.arn("profile", profile), self.arn("role", asked.role), self.arn("anchor", asked.anchor)
        return self.send(leaf, asked, arns)

    def send(self, leaf: Issued, asked: AskedSession, arns: tuple[str, str, str]) -> SessionAnswer:
        """Send one CreateSession request with the ARNs of profile, role and trust anchor; again if the service is busy.

        Raises:
            NotAskedError: the service stays busy, or fails each time (StaysFailingError).
            ServiceUnreachableError: no response came.
        """
        for pause in (*_BUSY_PAUSES, 0.0):
            answer = self.send_once(leaf, asked, arns)
            if answer.status not in _BUSY_STATUSES:
                return answer
            self._pace.sleep(pause)
        kind = StaysFailingError if answer.status == 500 else NotAskedError
        raise kind(f"the service kept answering with status {answer.status}")

    def send_once(self, leaf: Issued, asked: AskedSession, arns: tuple[str, str, str]) -> SessionAnswer:
        """Send one CreateSession request, as `send` does, but never again.

        Raises:
            ServiceUnreachableError: no response came.
        """
        endpoint = self._service.endpoint
        signed = signed_session(leaf, asked, arns, endpoint=endpoint, region=self.region)
        request, options = signed.request, self._service.transport
        self._pace()
        deadline = Deadline(self._service.timeout)
        response = post(endpoint, signed.target, request.headers, request.body, options=options, deadline=deadline)
        return read_answer(response, self.scrub)

    def follow_up(self, session: SessionAnswer, operation: str, **parameters: Any) -> CallAnswer:
        """Call an operation of STS with a session's credentials, such as "get_caller_identity"."""
        return self.calls.as_caller(session.credentials, operation, **parameters)

    def new_role(self, name: str, policy: Mapping[str, Any] | str, **parameters: Any) -> CallAnswer:
        """Create a role, with a policy that has places as in WantedRole."""
        text = self.filled(policy)
        answer = self.calls.call(
            "iam", "create_role", RoleName=self.named(name), AssumeRolePolicyDocument=text, **parameters
        )
        if not answer.code:
            self.arns["role", name] = answer.response["Role"]["Arn"]
        return answer

    def change_policy(self, role: str, policy: Mapping[str, Any] | str) -> CallAnswer:
        """Replace a role's trust policy, which has places as in WantedRole, and wait until it is in force."""
        answer = self.calls.call(
            "iam", "update_assume_role_policy", RoleName=self.named(role), PolicyDocument=self.filled(policy)
        )
        self.settle()
        return answer

    def settle(self) -> None:
        """Wait until IAM has spread a change."""
        self._pace.sleep(_SETTLING_SECONDS)

    def filled(self, policy: Mapping[str, Any] | str) -> str:
        """Return a policy or other members as JSON, with the places filled in: <<anchor:NAME>> and so on."""
        return _PLACE.sub(self._value, policy if isinstance(policy, str) else json.dumps(policy))

    def _value(self, place: re.Match[str]) -> str:
        if place[1] == "role":
            return f"arn:{self.partition}:iam::{self.account}:role{PATH}{self.named(place[2])}"
        if place[2]:
            return self.arn(place[1], place[2])
        values: dict[str, Callable[[], str]] = {
            "account": lambda: self.account,
            "partition": lambda: self.partition,
            "region": lambda: self.region,
            "prefix": lambda: self.prefix,
        }
        return values[place[1]]()
