"""The registrar's refusals: what a client is told, and with which HTTP status."""

from __future__ import annotations

from http import HTTPStatus


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
