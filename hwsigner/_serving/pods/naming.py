"""The role session name of a service account or Pod: what CloudTrail and the role's ARN show of it."""

from __future__ import annotations

import hashlib

# Of AWS.
LONGEST_NAME = 64
_HASH_DIGITS = 12
# No name of Kubernetes has it, so that a shortened name is never another's whole name.
_MARK = "_"


def session_name(namespace: str, service_account: str, last: str) -> str:
    """Return `namespace.serviceaccount.last`, which differs for any two of these.

    If that is over 64 characters, it is cut, and ends in a hash of the three names. So does the name for a service
    account with a dot, which could be read in two ways.

    Args:
        namespace: the namespace.
        service_account: the service account's name.
        last: the name of the node or of the Pod.
    """
    name = f"{namespace}.{service_account}.{last}"
    if len(name) <= LONGEST_NAME and "." not in service_account:
        return name
    # Joined by what none of the names has.
    digest = hashlib.sha256(f"{namespace}/{service_account}/{last}".encode()).hexdigest()[:_HASH_DIGITS]
    return f"{name[: LONGEST_NAME - len(_MARK) - _HASH_DIGITS]}{_MARK}{digest}"
