"""Signing a small S3 GET with temporary credentials, from start to end, compared with botocore and awscrt.

Every request is made beforehand and signed once. In the first group requests have no headers. In the second they have
those of `requests`: ours signs none of them, botocore three.
"""

from __future__ import annotations

import base64
import itertools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import requests
from awscrt.auth import AwsCredentialsProvider, AwsSignedBodyHeaderType, AwsSigningConfig, aws_sign_request
from awscrt.http import HttpHeaders, HttpRequest

from bench.measure import Call, each_once
from hwsigner._aws.credentials import Credentials
from hwsigner.auth import SigV4Auth
from hwsigner.sigv4 import Request, SignedRequest
from hwsigner.sigv4.access_key import EMPTY_PAYLOAD_HASH, sign_request

REGION = "eu-west-1"
HOST = f"bucket.s3.{REGION}.amazonaws.com"
PATH = "/2026/11/report.json"
URL = f"https://{HOST}{PATH}"
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TOKEN = base64.b64encode(random.Random(2).randbytes(600)).decode("ascii")
CREDENTIALS = Credentials("ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", TOKEN, NOW, "", "")
HEADERS = dict(requests.Session().headers)
BARE = requests.Request("GET", URL).prepare()
WITH_HEADERS = requests.Request("GET", URL, HEADERS).prepare()


def aws_request() -> botocore.awsrequest.AWSRequest:
    return botocore.awsrequest.AWSRequest("GET", URL)


def aws_request_with_headers() -> botocore.awsrequest.AWSRequest:
    return botocore.awsrequest.AWSRequest("GET", URL, HEADERS)


def http_request() -> HttpRequest:
    return HttpRequest("GET", PATH, HttpHeaders([("host", HOST)]))


def ours(clock: Callable[[], float] = time.time) -> SigV4Auth:
    return SigV4Auth(CREDENTIALS, REGION, "s3", clock=clock)


def each_in_its_own_second() -> SigV4Auth:
    """Return ours with a clock that advances by a second per signature, so that only the day's key stays cached."""
    return ours(itertools.count(int(NOW.timestamp())).__next__)


def by_itself(_: object) -> SignedRequest:
    request = Request("GET", PATH, (), (("Host", HOST),))
    return sign_request(request, CREDENTIALS, region=REGION, service="s3", now=datetime.now(UTC))


def with_botocore(kind: Any) -> Callable[[Any], None]:
    credentials = botocore.credentials.Credentials(
        CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key, CREDENTIALS.session_token
    )
    sign: Callable[[Any], None] = kind(credentials, "s3", REGION).add_auth
    return sign


def with_awscrt(now: datetime) -> Callable[[HttpRequest], HttpRequest]:
    """Return awscrt's signing function. Credentials and configuration, including the time, are made beforehand."""
    provider = AwsCredentialsProvider.new_static(
        CREDENTIALS.access_key_id, CREDENTIALS.secret_access_key, CREDENTIALS.session_token
    )
    config = AwsSigningConfig(
        credentials_provider=provider,
        region=REGION,
        service="s3",
        date=now,
        use_double_uri_encode=False,
        should_normalize_uri_path=False,
        signed_body_value=EMPTY_PAYLOAD_HASH,
        signed_body_header_type=AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
    )
    return lambda request: aws_sign_request(request, config).result()


def require_one_signature() -> None:
    """Exit if the Authorization headers of ours, botocore and awscrt differ."""
    theirs = aws_request()
    with_botocore(botocore.auth.S3SigV4Auth)(theirs)
    now = datetime.strptime(theirs.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    found = {
        theirs.headers["Authorization"],
        ours(now.timestamp)(BARE.copy()).headers["Authorization"],
        with_awscrt(now)(http_request()).headers.get("Authorization"),
    }
    if len(found) > 1:
        raise SystemExit(f"signatures differ: {found}")


def calls(count: int) -> list[Call]:
    """Return three variants of ours, two of botocore, and awscrt, with `count` calls at a time."""
    require_one_signature()
    plain, s3 = with_botocore(botocore.auth.SigV4Auth), with_botocore(botocore.auth.S3SigV4Auth)
    return [
        Call("`SigV4Auth`", each_once(ours(), BARE.copy, count=count)),
        Call("`SigV4Auth`, each in a new second", each_once(each_in_its_own_second(), BARE.copy, count=count)),
        Call("`access_key.sign_request`, nothing cached", each_once(by_itself, BARE.copy, count=count)),
        Call("botocore, `SigV4Auth.add_auth`", each_once(plain, aws_request, count=count)),
        Call("botocore, `S3SigV4Auth.add_auth`", each_once(s3, aws_request, count=count)),
        Call("awscrt, `aws_sign_request`", each_once(with_awscrt(NOW), http_request, count=count)),
    ]


def calls_with_headers(count: int) -> list[Call]:
    """Return ours and two variants of botocore, for requests with more headers, with `count` calls at a time."""
    plain, s3 = with_botocore(botocore.auth.SigV4Auth), with_botocore(botocore.auth.S3SigV4Auth)
    return [
        Call("`SigV4Auth`", each_once(ours(), WITH_HEADERS.copy, count=count)),
        Call("botocore, `SigV4Auth.add_auth`", each_once(plain, aws_request_with_headers, count=count)),
        Call("botocore, `S3SigV4Auth.add_auth`", each_once(s3, aws_request_with_headers, count=count)),
    ]
