"""Which patterns name certificates, and which fit names of others too.

Domains are hierarchical: a pattern names an owner if the label before the suffix has no wildcard. The same goes for the
domain of an e-mail address and the authority of a URI.
"""

from __future__ import annotations

import re

SOMEONE, WIDE, SUFFIX, ANYONE = "someone", "wide", "suffix", "anyone"
_FEW_LETTERS = 2  # A pattern with fewer letters and digits names no one.
_KINDS = ("cn", "e", "dns", "uri", "sts:sourceidentity", "subject")  # What may have a domain in it.
# Labels below which a country's registry gives out domains, such as co.uk and com.au.
_REGISTRIES = ("ac", "co", "com", "edu", "go", "gob", "gov", "ltd", "mil", "ne", "net", "nhs", "or", "org")


def named_by(unknown: str, pattern: str) -> str:
    """Return whom a pattern names: ANYONE, as `*.com`; SUFFIX, as `*example.com`; WIDE, as `web.*`; or SOMEONE."""
    plain = re.sub(r"^(?:CN|ID)=", "", without_variables(pattern))
    if not is_wild(plain):
        return SOMEONE
    if _letters(plain) < _FEW_LETTERS:
        return ANYONE
    domain = _domain(unknown.rpartition("/")[2], plain.lower())
    return SOMEONE if domain is None else _owner(domain)


def is_wild(text: str) -> bool:
    """Return whether a text has wildcards."""
    return re.search(r"[*?]", text) is not None


def without_variables(pattern: str) -> str:
    """Return a pattern with an asterisk for each variable."""
    return re.sub(r"\$\{[^{}]{2,}\}", "*", pattern)


def _letters(text: str) -> int:
    return len(re.sub(r"[\W_]", "", text))


def _domain(kind: str, plain: str) -> str | None:
    """Return the part of a pattern that is, or may be, a domain."""
    if kind not in _KINDS:
        return None
    scheme, is_url, rest = plain.partition("://")
    if is_url:
        authority = rest.partition("/")[0].rpartition("@")[2]
        return "*" if is_wild(scheme) else re.sub(r":\d*$", "", authority)
    if kind == "uri":  # urn:example:web-* names someone; *web and spiffe* do not.
        return None if re.match(r"(?:urn:[^*?:]+|(?!urn:)[a-z0-9+.-]+):[^*?]*[a-z0-9]{2}", plain) else "*"
    if "@" in plain:
        return plain.rpartition("@")[2]
    has_domain = kind in ("dns", "e") or "." in plain or re.fullmatch(r"\*+[a-z0-9]+", plain)
    return plain if has_domain else None


def _owner(domain: str) -> str:
    """Return whom a domain with wildcards names."""
    labels = domain.split(".")
    has_registry = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _REGISTRIES
    before, end = (labels[:-2], labels[-2:]) if has_registry else (labels[:-1], labels[-1:])
    if not is_wild(domain) or (before and before[-1] and not is_wild(".".join([before[-1], *end]))):
        return SOMEONE
    if re.fullmatch(r"\*+[^*?]+", (before or end)[-1]) and not is_wild(".".join(end if before else [])):
        return SUFFIX
    starts = domain if not before else ".".join(before)
    return WIDE if _letters(starts) and (before or not starts.startswith("*")) else ANYONE
