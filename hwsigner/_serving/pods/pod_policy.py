"""The policy: which service account gets the credentials of which profile. An account that it does not name gets none.

It is TOML, with a line for each account, or for all accounts of a namespace:

    audiences = ["hwsigner"]

    [accounts]
    "team-a/web" = "web"        # namespace/serviceaccount = profile of config.toml
    "team-b/*" = "batch"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hwsigner._serving.pods.verification import VerificationSettings
from hwsigner._system.reloading import read_file
from hwsigner._system.toml import parse_toml
from hwsigner.errors import ConfigError, suggestion

ANY = "*"
AUDIENCES = ("hwsigner",)
REVIEW, KEYS = "review", "keys"
OUTAGE_SECONDS = 300

_ENTRY = '"namespace/serviceaccount" = "profile"'
_LABEL = "[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAMESPACE = re.compile(rf"(?=.{{1,63}}\Z){_LABEL}")
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("allow-any-namespace", "session-per-pod", "allow-incomplete-ca"), bool),
    **dict.fromkeys(("verify", "issuer", "keys-file"), str),
    "audiences": list,
    "accounts": dict,
    "outage-seconds": int,
}
_WORDS = {bool: "true or false", str: "a string in quotes", list: "a list of strings", dict: "a table", int: "a number"}
# An hour, as for keys of the cluster.
MAX_OUTAGE_SECONDS = 3600


@dataclass(frozen=True)
class PodPolicy:
    """The policy.

    Profiles are by `namespace/serviceaccount`, either of which may be `*`. If `session_per_pod`, each Pod has its own
    session, instead of each service account.
    """

    verification: VerificationSettings
    accounts: Mapping[str, str]
    session_per_pod: bool = False

    def profile_of(self, namespace: str, service_account: str) -> str | None:
        """Return the profile of a service account, or None. The most exact entry counts, by the namespace first."""
        for entry in (
            f"{namespace}/{service_account}",
            f"{namespace}/{ANY}",
            f"{ANY}/{service_account}",
            f"{ANY}/{ANY}",
        ):
            if (found := self.accounts.get(entry)) is not None:
                return found
        return None


def is_name(text: str) -> bool:
    """Return whether a service account, Pod or node of Kubernetes may have a name."""
    return _NAME.fullmatch(text) is not None


def find_faults(path: str) -> Iterator[ConfigError]:
    """Yield what is wrong with a policy. After a wrong type, the rest is not judged."""
    table = _table(path)
    with suppress(TypeError, KeyError, AttributeError):
        yield from (ConfigError(f"{path}: {problem}", hint) for problem, hint in _problems(table))


def read_pod_policy(path: str, node: str) -> PodPolicy:
    """Read a policy."""
    table = _table(path)
    for problem, hint in _problems(table):
        raise ConfigError(f"{path}: {problem}", hint)
    verification = VerificationSettings(
        tuple(table.get("audiences", AUDIENCES)),
        node,
        verify=table.get("verify", REVIEW),
        issuer=table.get("issuer"),
        keys_file=table.get("keys-file"),
        allow_incomplete_ca=table.get("allow-incomplete-ca", False),
        outage_seconds=table.get("outage-seconds", OUTAGE_SECONDS),
    )
    return PodPolicy(verification, table["accounts"], table.get("session-per-pod", False))


def _table(path: str) -> dict[str, Any]:
    return parse_toml(read_file(path), path, hint=f"Write {_ENTRY} with all four quotes, and each key once")


def _problems(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a policy, and what to do about it. After the first, the others may not hold."""
    for key, value in table.items():
        if key not in _TYPES:
            hint = f"Write accounts below the line [accounts], as {_ENTRY}"
            yield f"the key {key[:80]!r} is unknown", suggestion(key, _TYPES, hint)
        if type(value) is not _TYPES[key]:
            yield f"{key} has the wrong type", f"Write {_WORDS[_TYPES[key]]}"
    yield from _problems_of_verification(table)
    if "accounts" not in table:  # As in a file that is just being written.
        yield "[accounts] is missing", f"Write [accounts], with lines {_ENTRY} below it"
    for entry, profile in table["accounts"].items():
        yield from _problems_of_entry(entry, profile, allows_any=table.get("allow-any-namespace", False))


def _problems_of_verification(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    audiences = table.get("audiences", AUDIENCES)
    if not audiences or not all(isinstance(one, str) and one for one in audiences):
        yield "audiences is not a list of strings", 'Write audiences = ["hwsigner"]'
    for text in [*audiences, table.get("issuer", ""), table.get("keys-file", "")]:
        if text != text.strip():
            yield f"{text[:80]!r} begins or ends with a blank", "Write it without the blank"
    if not 0 <= table.get("outage-seconds", OUTAGE_SECONDS) <= MAX_OUTAGE_SECONDS:
        yield f"outage-seconds is {table['outage-seconds']}", f"Write a number from 0 to {MAX_OUTAGE_SECONDS}"
    verify = table.get("verify", REVIEW)
    if verify not in (REVIEW, KEYS):
        yield f"verify is {verify[:80]!r}", f'Write verify = "{REVIEW}" or "{KEYS}"'
    for key in ("issuer", "keys-file"):
        if table.get(key) == "":
            yield f"{key} is empty", "Give it a value, or delete the line"
    if verify == KEYS and "issuer" not in table:
        yield f'verify = "{KEYS}" needs the issuer', 'Write issuer = "https://…", the iss of a token of the cluster'
    if verify != KEYS and "keys-file" in table:
        yield f'keys-file is only for verify = "{KEYS}"', f'Write verify = "{KEYS}", or delete the line'


def _problems_of_entry(entry: str, profile: Any, *, allows_any: bool) -> Iterator[tuple[str, str]]:
    namespace, slash, account = entry.partition("/")
    shown = f"[accounts] has {entry[:400]!r}"
    if entry in _TYPES:
        yield f"{shown}, which is a setting", "Write it above [accounts]"
    if not slash:
        yield f"{shown}, which names no service account", f"Write {_ENTRY}"
    if namespace != ANY and not _NAMESPACE.fullmatch(namespace):
        hint = f"Write {f'{ANY}, or ' if allows_any else ''}up to 63 lower-case letters, digits and -"
        yield f"{shown}, whose namespace Kubernetes would refuse", hint
    if account != ANY and not is_name(account):
        hint = f"Write {ANY}, or up to 253 lower-case letters, digits, - and ."
        yield f"{shown}, whose service account Kubernetes would refuse", hint
    if namespace == ANY and not allows_any:
        hint = "Name the namespace, or set allow-any-namespace = true above [accounts]"
        yield f"{shown}, which lets every namespace in", hint
    if not isinstance(profile, str) or not profile:
        yield f"{shown} without a profile", f'Write "{entry[:400]}" = "profile", with the name of one of config.toml'
