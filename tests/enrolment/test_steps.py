"""The steps of an enrolment."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

import certs
from enrolment.authority import NOW, Answer, Requested, certified
from hwsigner._identity.certificate_request import CertificateRequest
from hwsigner.enrolment.issuers import Issued, Pending
from hwsigner.enrolment.steps import request_certificate
from hwsigner.errors import CertificateError, ServiceError


@dataclass
class SlowIssuer:
    """An issuer that takes 50 seconds to say that it has no certificate yet."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    asked: int = 0

    def issue(self, request: CertificateRequest) -> Pending:
        self.asked += 1
        self.now += timedelta(seconds=50)
        return Pending()


@dataclass
class HastyIssuer:
    """An issuer of certificates that live so many seconds."""

    ca: certs.Authority
    life: int

    def issue(self, request: CertificateRequest) -> Issued:
        begin = NOW.replace(microsecond=0)
        answer = Answer(begin=begin, end=begin + timedelta(seconds=self.life))
        return Issued((certified(self.ca, request, answer),))


@pytest.mark.parametrize("life", [60, 598])
def test_certificate_that_lives_under_ten_minutes_is_refused_with_the_reason(
    life: int, asked: Requested, ca: certs.Authority
) -> None:
    with pytest.raises(CertificateError, match=rf"lives {life} s: only a look every few seconds could renew it") as e:
        request_certificate(asked.request, HastyIssuer(ca, life), lambda: NOW, wait=0.0)
    assert "600 s or more. Nothing was installed" in e.value.hint


@pytest.mark.parametrize("life", [599, 600])  # Some CAs count the last second.
def test_certificate_that_lives_ten_minutes_is_accepted(life: int, asked: Requested, ca: certs.Authority) -> None:
    chain = request_certificate(asked.request, HastyIssuer(ca, life), lambda: NOW, wait=0.0)
    assert chain.leaf.public_key() == asked.request.public_key()


def test_issuer_that_answers_slowly_gets_no_more_time_than_others(asked: Requested) -> None:
    issuer = SlowIssuer()
    with pytest.raises(ServiceError, match="has no certificate yet"):
        request_certificate(asked.request, issuer, lambda: issuer.now, wait=60.0, pause=lambda _: None)
    assert issuer.asked == 2
