"""The registrar's decisions. They need no network and keep no state."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from hwsigner import attestation
from hwsigner._identity.certificate import Certificate
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.attestation import Document, Findings, Trust
from hwsigner.enrolment import registrar_messages as messages
from hwsigner.enrolment.checking import check_issued
from hwsigner.enrolment.issuers import Issued, Issuer
from hwsigner.enrolment.registrar.policy import PUBLIC_KEY, YUBIKEY, Machine, RegistrarPolicy
from hwsigner.enrolment.registrar.requests import problem_with
from hwsigner.enrolment.registrar.sealing import SealError, SealingKeys
from hwsigner.errors import AttestationError, HwsignerError, ServiceError, ServiceUnreachableError

# For an issuer that does not say when to ask again, in seconds.
RETRY_SECONDS = 10.0
# Characters. It may quote a client, and the journal splits lines of more than 48 KiB.
LONGEST_REASON = 500
_NOT_ALLOWED = "the registrar's policy does not give this chip a certificate with this subject and these names"
# Entered for the work on a request, which takes processor time. The value says whether the client has left since.
Turn = AbstractContextManager[Callable[[], bool]]
_AT_ONCE: Turn = nullcontext(lambda: False)
_UNKNOWN = Machine("", "", "", "", "CN=unknown,OU=unknown")

# Takes the facts of one decision.
Audit = Callable[[Mapping[str, object]], None]


class RefusedRequest(Exception):  # noqa: N818  an answer, not an error of this program
    """A request that is refused.

    Attributes:
        status: the HTTP status. 409: the same client may start again at once. 429, 502, 503: later.
        message: what is wrong, for the client and the audit line.
        hint: what to do, for the client.
        detail: more for the audit line; the client does not see it.
        retry_after: after how many seconds another attempt may help; 0 if none will.
    """

    def __init__(
        self, status: HTTPStatus, message: str, hint: str = "", *, detail: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.hint = hint
        self.detail = detail
        self.retry_after = retry_after


@dataclass(frozen=True)
class Registrar:
    """A registrar.

    `policy` and `keys` return what is valid now. If `audit`, which takes the facts of each decision, raises an error,
    nothing is issued.
    """

    policy: Callable[[], RegistrarPolicy]
    keys: Callable[[], SealingKeys]
    trust: Trust
    issuer: Issuer
    audit: Audit
    clock: Callable[[], float] = time.time

    def challenge(self, body: bytes, client: str, turn: Turn = _AT_ONCE) -> dict[str, Any]:
        """Answer a statement with the challenge to it and the sealed state.

        `turn` is entered for the work on the request. `client` is the address, for the audit line.
        """
        with turn as has_left, self._decision(client) as facts:
            given = messages.read_object(body, "statement")
            statement = messages.document(given["statement"], "statement")
            trust = replace(self.trust, has_left=has_left)
            _, machine = self._allowed(statement, trust, facts)
            challenge, state = attestation.challenge(statement, _trusting(trust, machine), pcrs=machine.pcr_selection)
            facts["decision"] = "challenged"
        sealed = self.keys().seal(state.to_json().encode("ascii"), self.clock())
        return {"challenge": messages.members(challenge), "state": messages.encode(sealed)}

    def certify(self, body: bytes, client: str, turn: Turn = _AT_ONCE) -> dict[str, Any]:
        """Verify an answer and return the certificates for the statement's request.

        `turn` is entered for the work on the request, until the issuer is asked. `client` is the address, for the audit
        line.
        """
        with turn as has_left, self._decision(client) as facts:
            given = messages.read_object(body, "statement", "state", "answer")
            statement = messages.document(given["statement"], "statement")
            answer = messages.document(given["answer"], "answer")
            state = self._opened(messages.decode(given["state"]))
            trust = replace(self.trust, has_left=has_left)
            request, machine = self._allowed(statement, trust, facts)  # Once more: the policy may have changed.
            found = attestation.verify_answer(statement, state, answer, _trusting(trust, machine))
            if not (found.in_hardware and found.matches_csr):
                raise _forbidden("it is not proven that the request's key is in hardware", "Make a new key")
            _check_pcrs(machine, found, facts)
            facts |= {"decision": "proven", "warnings": list(found.warnings)}
        return self._issued(request, client, facts)

    def _opened(self, sealed: bytes) -> Document:
        try:
            return attestation.read(self.keys().open(sealed, self.clock()), "state")
        except SealError as error:
            raise RefusedRequest(HTTPStatus.CONFLICT, str(error), "Start again with a new statement") from None

    def _allowed(
        self, statement: Document, trust: Trust, facts: dict[str, object]
    ) -> tuple[CertificateRequest, Machine]:
        """Return a statement's request, and the machine to whose chip the policy allows it."""
        request = CertificateRequest(statement.blob("certificateRequest"))
        # Whether a vendor must certify the chip is decided below, after the same work for each: the time of a refusal
        # would tell which machines need no certificate.
        claimed = frozenset({attestation.claimed_endorsement_key(statement)})
        found = attestation.examine(statement, replace(trust, endorsement_keys=claimed))
        facts |= {"chip": found.chip, "request": hashlib.sha256(request.der).hexdigest()}
        if not found.matches_csr:
            raise _forbidden("the statement has no request that is signed by its key", "Make it with the key's request")
        machine = self.policy().machine(statement.format, found.chip)
        # The same work for a chip that is not named: the time of a refusal would tell which ones are.
        compared = machine or _UNKNOWN
        problem = problem_with(request, compared)
        if statement.format == YUBIKEY and not _own_roots(self.trust, compared) & set(found.roots):
            problem = "the root that the policy names did not certify this chip"
        if found.uncertified and compared.ek != PUBLIC_KEY:
            problem = 'the policy has no ek = "public-key" for this chip'
        message = found.uncertified or _NOT_ALLOWED
        if machine is None:
            raise _forbidden(message, _hint(found), detail="the policy does not name this chip")
        facts["machine"] = machine.name
        if problem:
            raise _forbidden(message, _hint(found), detail=problem)
        facts["subject"] = machine.subject
        facts |= {name: value for name, value in (("ek", machine.ek), ("pcrs", machine.pcr_selection)) if value}
        return request, machine

    def _issued(self, request: CertificateRequest, client: str, facts: Mapping[str, object]) -> dict[str, Any]:
        with self._decision(client, otherwise="not issued") as own:
            own |= {name: facts[name] for name in ("machine", "chip", "ek", "pcrs", "request") if name in facts}
            certificates, leaf = self._ask_issuer(request)
            own |= {"decision": "issued", "certificates": [hashlib.sha256(one).hexdigest() for one in certificates]}
            end = f"{leaf.x509.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
            own |= {"serial": f"{leaf.x509.serial_number:#x}", "expires": end}
        return {"certificates": [messages.encode(one) for one in certificates]}

    def _ask_issuer(self, request: CertificateRequest) -> tuple[tuple[bytes, ...], Certificate]:
        """Return the certificates in DER, and the leaf among them."""
        try:
            answer = self.issuer.issue(request)
            if isinstance(answer, Issued):
                chain = check_issued(request, answer, datetime.fromtimestamp(self.clock(), UTC))
                return answer.certificates, chain.leaf
        except HwsignerError as error:
            may_pass = isinstance(error, ServiceError | ServiceUnreachableError)
            wait = (getattr(error, "retry_after", 0.0) or RETRY_SECONDS) if may_pass else 0.0
            problem, hint = "the registrar's issuer gave no certificate", "The registrar's log has the reason"
            raise RefusedRequest(HTTPStatus.BAD_GATEWAY, problem, hint, detail=str(error), retry_after=wait) from error
        wait = answer.retry_after or RETRY_SECONDS
        raise RefusedRequest(
            HTTPStatus.SERVICE_UNAVAILABLE, "the issuer has no certificate yet", "Retry later", retry_after=wait
        )

    @contextmanager
    def _decision(self, client: str, *, otherwise: str = "refused") -> Iterator[dict[str, object]]:
        """Write the audit line of a decision, whose facts the body of the `with` statement collects.

        An error of the body is raised as a RefusedRequest, and the decision is `otherwise`.
        """
        facts: dict[str, object] = {"client": client}
        try:
            yield facts
        except (RefusedRequest, AttestationError, ValueError) as error:
            refusal = _refusal(error)
            reason = ": ".join(filter(None, (refusal.message, refusal.detail)))
            self.audit(facts | {"decision": otherwise, "reason": reason[:LONGEST_REASON]})
            raise refusal from error
        self.audit(facts)


def _trusting(trust: Trust, machine: Machine) -> Trust:
    """Return the trust with the machine's endorsement key, if the administrator certifies it."""
    return replace(trust, endorsement_keys=frozenset({machine.chip})) if machine.ek == PUBLIC_KEY else trust


def _check_pcrs(machine: Machine, found: Findings, facts: dict[str, object]) -> None:
    """Raise a RefusedRequest if the TPM did not quote the PCRs that the policy names, or they have other values."""
    if machine.pcr_selection and found.pcrs.keys() != machine.quoted_names:
        problem = f"the answer has no quote of PCR {machine.pcr_selection} alone, which the policy demands"
        raise RefusedRequest(HTTPStatus.CONFLICT, problem, "Start again with a new statement")  # The policy is new.
    if wrong := machine.wrong_pcrs(found.pcrs):
        facts["quoted"] = wrong
        problem = f"the policy does not allow the values of PCR {', '.join(wrong)}"
        hint = "The machine booted something else. If it was updated, ask the registrar's administrator"
        raise _forbidden(problem, hint)


def _own_roots(trust: Trust, machine: Machine) -> set[str]:
    """Return the SHA-256 of the roots that may certify a YubiKey: that which the policy names, and renewals of it."""
    authorities = {hashlib.sha256(root.der).hexdigest(): (root.subject, root.public_key) for root in trust.roots}
    return {digest for digest, one in authorities.items() if one == authorities.get(machine.root)}


def _refusal(error: Exception) -> RefusedRequest:
    if isinstance(error, RefusedRequest):
        return error
    if isinstance(error, AttestationError):
        return _forbidden(error.message, error.hint)
    return RefusedRequest(HTTPStatus.BAD_REQUEST, f"the request can't be read: {error}", "Update hwsigner")


def _forbidden(message: str, hint: str, *, detail: str = "") -> RefusedRequest:
    return RefusedRequest(HTTPStatus.FORBIDDEN, message, hint, detail=detail)


def _hint(found: Findings) -> str:
    if found.uncertified:
        way = "hwsigner registrar allow --ek-public-key"
        given = f"Add it with --vendor-certificates, or have the administrator run {way}; the chip is {found.chip}"
        return f"{given}. If that was done, the registrar's log has the reason"
    return f"Ask the registrar's administrator; the chip is {found.chip}" if found.chip else "Use a TPM or a YubiKey"
