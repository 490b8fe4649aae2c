"""Calls of the AWS APIs that can't touch anything outside a trial, one request a second at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwsigner._aws.apis import ServiceClient, ServiceClients
from hwsigner._aws.failures import DENIED, OF_CLOCK, OF_CREDENTIALS
from hwsigner.errors import HwsignerError, ServiceError, ServiceUnreachableError
from hwsigner.trial.questions import NotAskedError

PREFIX = "hwsigner-trial-"
PATH = "/hwsigner-trial/"
TAG = "hwsigner-trial"
CREATED = {"create_trust_anchor": "trustAnchor", "create_profile": "profile", "import_crl": "crl"}
NO_ID = "00000000-0000-4000-8000-000000000000"  # What has this ID is not there.
_ARNS = ("resourceArn", "trustAnchorArn")
_READING = ("get_", "list_")


class DeniedError(ServiceError):
    """The caller lacks a permission."""

    exit_status = 8


def was_denied(error: BaseException | None) -> bool:
    """Return whether an error is due to a permission that the caller lacks."""
    while error:
        if _refused(error).get("Code") in DENIED:
            return True
        error = error.__cause__
    return False


def _refused(error: BaseException | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (getattr(error, "response", None) or {}).get("Error", {})
    return found


class TrialPace:
    """Keeps requests a second apart, by a clock that is never set."""

    def __init__(
        self,
        seconds: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self.sleep = sleep
        self._next = 0.0

    def __call__(self) -> None:
        """Wait until the next request may be sent."""
        while (pause := self._next - self._clock()) > 0:
            self.sleep(pause)
        self._next = self._clock() + self._seconds


@dataclass(frozen=True)
class CallAnswer:
    """What came back from a call.

    Attributes:
        code: the code of the refusal, such as "MalformedPolicyDocument"; empty for a success.
        message: the message of the refusal.
        response: the response to a success.
    """

    code: str
    message: str
    response: Mapping[str, Any]

    def __str__(self) -> str:
        """Return "accepted", or the refusal as "MalformedPolicyDocument: Has prohibited field Resource"."""
        return f"{self.code}: {self.message}" if self.code else "accepted"


class TrialCalls:
    """Calls for one trial. A call that would make or change something else fails.

    Attributes:
        made: the names of what was made, and of roles that were about to be, by kind and ID. A role's ID is its name.
    """

    def __init__(self, clients: ServiceClients, prefix: str, scrub: Callable[[str], str]) -> None:
        self._clients = clients
        self._prefix = prefix
        self._scrub = scrub
        self.made: dict[tuple[str, str], str] = {}

    def call(self, service: str, operation: str, **parameters: Any) -> CallAnswer:
        """Call an operation of "iam" or "rolesanywhere", as boto3 names it. A refusal is an answer.

        A new resource gets the trial's tag, and a new role its path.

        Raises:
            NotAskedError: the caller may not do it, the service is too busy, or the call can't be sent.
            ServiceUnreachableError: no response came.
        """
        self._check(operation, parameters)
        if operation == "create_role":
            tags = [{"Key": TAG, "Value": self._prefix}, *parameters.pop("Tags", [])]
            parameters |= {"Path": PATH, "Tags": tags}
            self.made["role", parameters["RoleName"]] = parameters["RoleName"]
        elif operation in CREATED:
            parameters["tags"] = [{"key": TAG, "value": self._prefix}, *parameters.pop("tags", [])]
        answer = self._ask(getattr(self._clients, service), operation, parameters)
        # After a response that got lost, the role is there.
        if operation == "create_role" and answer.code not in ("", "EntityAlreadyExists"):
            del self.made["role", parameters["RoleName"]]
        if operation in CREATED and not answer.code:
            kind = CREATED[operation]
            self.made[kind, answer.response[kind][f"{kind}Id"]] = parameters["name"]
        return answer

    def as_caller(self, credentials: tuple[str, ...], operation: str, **parameters: Any) -> CallAnswer:
        """Call an operation of STS with the credentials of a session.

        Raises:
            NotAskedError: the service is too busy, or the call can't be sent.
            ServiceUnreachableError: no response came.
        """
        client = self._clients.of_caller(*credentials).sts
        return self._ask(client, operation, parameters, is_of_session=True)

    def _ask(
        self, client: ServiceClient, operation: str, parameters: dict[str, Any], *, is_of_session: bool = False
    ) -> CallAnswer:
        try:
            return CallAnswer("", "", client.call(operation, **parameters))
        except ServiceUnreachableError:
            raise
        except HwsignerError as error:
            refused = _refused(error.__cause__)
            code, message = str(refused.get("Code", "")), str(refused.get("Message", ""))
            # CreateProfile also denies roles of other accounts, which is an answer.
            is_about_caller = code in OF_CREDENTIALS | OF_CLOCK or (code in DENIED and "authorized" in message)
            is_busy = isinstance(error, ServiceError) and error.retryable
            if not code or is_busy or (is_about_caller and not is_of_session):
                raise NotAskedError(self._scrub(error.message), self._scrub(error.hint)) from error
            return CallAnswer(code, self._scrub(message), {})

    def _check(self, operation: str, parameters: Mapping[str, Any]) -> None:
        """Check that a call is about something of the trial."""
        if operation.startswith(_READING):
            return
        named = [str(parameters[name]) for name in ("RoleName", "name") if name in parameters]
        known = {NO_ID, *(identifier for _, identifier in self.made)}
        ids = [str(value) for name, value in parameters.items() if name.endswith("Id") or name in _ARNS]
        is_own = all(each.rpartition("/")[2] in known or f"/{self._prefix}" in each for each in ids)
        if not is_own or not all(each.startswith(self._prefix) for each in named):
            raise NotAskedError(f"{operation} is about something that is not of this trial")
        if not named and not ids:
            raise NotAskedError(f"{operation} names nothing of this trial")
