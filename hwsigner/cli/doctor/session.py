"""Mistakes of what a profile asks the service for: ARNs, duration and session name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hwsigner.aws.region import Arn, parse_arn
from hwsigner.config import settings
from hwsigner.config.flags import ARNS
from hwsigner.errors import UsageError
from hwsigner.findings import Finding, local

if TYPE_CHECKING:
    from hwsigner.cli.doctor.subject import Subject

_SAME = {"partition": local.ARN_PARTITION, "account": local.ARN_ACCOUNT, "region": local.ARN_REGION}
_FLAGS = [f"--{name}" for name in ARNS]


def check(subject: Subject) -> Iterator[Finding]:
    """Yield what is wrong with the ARNs and the session's name."""
    arns: dict[str, Arn] = {}
    for flag in _FLAGS:
        text = str(subject.profile.values.get(flag.removeprefix("--"), ""))
        try:
            arns[flag] = parse_arn(text, flag)
        except UsageError as error:
            mistake = local.ARN_SWAPPED if _is_other_kind(text, flag) else local.ARN_INVALID
            yield mistake.found(error.message, f"Run hwsigner profile edit NAME {flag} ARN")
    yield from _check_together(arns, str(subject.profile.values.get("region") or ""))
    try:
        settings.session_request(subject.settings)
    except UsageError as error:
        yield local.SESSION_NAME_INVALID.found(error.message)


def _is_other_kind(text: str, flag: str) -> bool:
    for other in _FLAGS:
        try:
            parse_arn(text, other)
        except UsageError:
            continue
        return other != flag
    return False


def _check_together(arns: dict[str, Arn], region: str) -> Iterator[Finding]:
    for name, mistake in _SAME.items():
        values = {flag: getattr(arn, name) for flag, arn in arns.items() if getattr(arn, name)}
        if name == "region" and region:
            values["--region"] = region
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{flag} is in {value}" for flag, value in values.items())
            is_flag = len({value for flag, value in values.items() if flag != "--region"}) == 1
            fix = "Run hwsigner profile edit NAME --unset region" if is_flag else ""
            yield mistake.found(f"{name}s differ: {listed}", fix)
