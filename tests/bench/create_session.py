"""From a CreateSession request to its string to sign, compared with libcrypto's SHA-256, botocore and our twin."""

from __future__ import annotations

import base64
import ctypes
import random
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import botocore.auth
import botocore.awsrequest

from bench.measure import Call, repeated
from hwsigner.sigv4 import canonical
from hwsigner.sigv4 import reference as _reference

REGION = "eu-west-1"
STAMP = "20261124T120000Z"
SCOPE = f"{STAMP[:8]}/{REGION}/rolesanywhere/aws4_request"
HOST = f"rolesanywhere.{REGION}.amazonaws.com"
_SERVICE = f"arn:aws:rolesanywhere:{REGION}:123456789012"
TARGET = "/sessions?" + urlencode(
    {
        "profileArn": f"{_SERVICE}:profile/11111111-1111-4111-8111-111111111111",
        "roleArn": "arn:aws:iam::123456789012:role/hwsigner-demo",
        "trustAnchorArn": f"{_SERVICE}:trust-anchor/00000000-0000-4000-8000-000000000000",
    }
)
# As long as a typical P-256 leaf, and the same bytes in each run.
CERTIFICATE = base64.b64encode(random.Random(1).randbytes(876)).decode("ascii")
HEADERS = [
    ("Host", HOST),
    ("Content-Type", "application/json"),
    ("X-Amz-Date", STAMP),
    ("X-Amz-X509", CERTIFICATE),
]
BODY = b'{"durationSeconds":3600,"roleSessionName":"bamboo-01"}'
ARGUMENTS = ("POST", TARGET, HEADERS, BODY, ("AWS4-X509-ECDSA-SHA256", STAMP, SCOPE))


def canonical_request() -> bytes:
    """Return the canonical request, made by the Python twin."""
    path, _, query = TARGET.partition("?")
    return _reference.canonical_request(
        "POST",
        path,
        parameters=_reference.parse_query(query),
        headers=HEADERS,
        payload_hash=_reference.payload_hash(BODY),
    )


def sha256(folder: Path) -> Callable[[Sequence[bytes], int], float]:
    """Compile the floor: a function that hashes messages `count` times and returns the seconds of one time."""
    library = folder / "sha256_floor.so"
    source = Path(__file__).with_name("sha256_floor.c")
    subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", library, source, "-lcrypto"], check=True)
    function = ctypes.CDLL(str(library)).sha256_floor
    function.restype = ctypes.c_double

    def run(messages: Sequence[bytes], count: int) -> float:
        data = (ctypes.c_char_p * len(messages))(*messages)
        sizes = (ctypes.c_size_t * len(messages))(*map(len, messages))
        seconds: float = function(data, sizes, ctypes.c_size_t(len(messages)), ctypes.c_size_t(count))
        if seconds < 0:
            raise SystemExit("libcrypto's SHA-256 failed")
        return seconds

    return run


AUTH = botocore.auth.SigV4Auth(None, "rolesanywhere", REGION)


def aws_request(url: str, headers: dict[str, str]) -> Any:
    """Return botocore's request with a date."""
    request = botocore.awsrequest.AWSRequest("POST", url, headers, BODY)
    request.context["timestamp"] = STAMP
    return request


def with_botocore(request: Any) -> str:
    return str(AUTH.string_to_sign(request, AUTH.canonical_request(request)))


def all_with_botocore(url: str, headers: dict[str, str]) -> tuple[str, str]:
    """Make the request too, and return the signed headers too: the same input and output as ours."""
    request = aws_request(url, headers)
    return with_botocore(request), AUTH.signed_headers(AUTH.headers_to_sign(request))


def calls(count: int) -> list[Call]:
    """Return ours, both floors, botocore twice and the Python twin, with `count` calls of ours at a time."""
    to_sign = canonical.request_to_sign(*ARGUMENTS)[0]
    url, headers = f"https://{HOST}{TARGET}", dict(HEADERS)
    request = aws_request(url, headers)
    if with_botocore(request).splitlines()[-1] != to_sign.decode("ascii").splitlines()[-1]:
        raise SystemExit("botocore's canonical request differs")
    with tempfile.TemporaryDirectory(prefix="hwsigner-bench-") as folder:
        floor = sha256(Path(folder))
    hashed = [canonical_request(), BODY]
    own, slow = canonical.request_to_sign, count // 10
    return [
        Call(f"`request_to_sign`, {canonical.IMPLEMENTATION}", repeated(own, *ARGUMENTS, count=count)),
        Call(
            "libcrypto's SHA-256 of canonical request, body, string to sign", lambda: floor([*hashed, to_sign], count)
        ),
        Call("the same without the string to sign, which the key hashes", lambda: floor(hashed, count)),
        Call("botocore, `canonical_request`, `string_to_sign`", repeated(with_botocore, request, count=slow)),
        Call("botocore, with the same input and output as ours", repeated(all_with_botocore, url, headers, count=slow)),
        Call("`request_to_sign`, the twin in Python", repeated(_reference.request_to_sign, *ARGUMENTS, count=slow)),
    ]
