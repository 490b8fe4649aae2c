"""Responses of AWS's query protocol, which IAM and STS speak: XML."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from xml.sax.saxutils import escape

from hwsigner.emulator.wire import Response


def query_response(action: str, result: Mapping[str, object] | None, request_id: str, namespace: str) -> Response:
    """Return the response to an action. A result of None gives no result element."""
    body = "" if result is None else _element(f"{action}Result", result)
    metadata = _element("ResponseMetadata", {"RequestId": request_id})
    document = f'<{action}Response xmlns="{namespace}">{body}{metadata}</{action}Response>'
    return Response(200, "text/xml", document.encode())


def _element(name: str, value: object) -> str:
    if isinstance(value, Mapping):
        text = "".join(_element(key, each) for key, each in value.items())
    elif isinstance(value, list):
        text = "".join(_element("member", each) for each in value)
    elif isinstance(value, datetime):
        text = f"{value:%Y-%m-%dT%H:%M:%SZ}"
    else:
        text = escape(str(value).lower() if isinstance(value, bool) else str(value), {"\r": "&#13;"})
    return f"<{name}>{text}</{name}>"
