"""The role session name of a service account or Pod, which CloudTrail and the ARN of the session show."""

from __future__ import annotations

import hashlib

# AWS's limit.
LONGEST_NAME = 64
# 80 bits, so that a user who chooses names can't find two with the same hash.
_HASH_DIGITS = 20
# Kubernetes allows it in no name, so a name with it never equals one without it.
_MARK = "_"


def session_name(namespace: str, service_account: str, last: str) -> str:
    """Return `namespace.serviceaccount.last`, which differs for any two of these.

    A dot in the service account's name is written as `_`: a trust policy that lets `team-a.web.*` in must not let the
    account `web.other` in. If the name is over 64 characters, it is cut, and ends in a hash of the three names. `last`
    is the name of the node or of the Pod.
    """
    name = f"{namespace}.{service_account.replace('.', _MARK)}.{last}"
    if len(name) <= LONGEST_NAME:
        return name
    # Joined by what none of the names has.
    digest = hashlib.sha256(f"{namespace}/{service_account}/{last}".encode()).hexdigest()[:_HASH_DIGITS]
    return f"{name[: LONGEST_NAME - len(_MARK) - _HASH_DIGITS]}{_MARK}{digest}"
