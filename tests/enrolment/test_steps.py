"""The steps of an enrolment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from enrolment.authority import Requested
from hwsigner.enrolment.issuers import Pending
from hwsigner.enrolment.steps import request_certificate
from hwsigner.errors import ServiceError
from hwsigner.identity.certificate_request import CertificateRequest


@dataclass
class SlowIssuer:
    """An issuer that takes 50 seconds to say that it has no certificate yet."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    asked: int = 0

    def issue(self, request: CertificateRequest) -> Pending:
        self.asked += 1
        self.now += timedelta(seconds=50)
        return Pending()


def test_issuer_that_answers_slowly_gets_no_more_time_than_others(asked: Requested) -> None:
    issuer = SlowIssuer()
    with pytest.raises(ServiceError, match="has no certificate yet"):
        request_certificate(asked.request, issuer, lambda: issuer.now, wait=60.0, pause=lambda _: None)
    assert issuer.asked == 2
