"""Warnings as findings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hwsigner.errors import HwsignerWarning
from hwsigner.findings import Finding, local


@contextmanager
def warnings_into(findings: list[Finding]) -> Iterator[None]:
    """Add hwsigner's warnings in the `with` statement to the findings, instead of showing them."""
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always", HwsignerWarning)
        yield
    messages = (each.message for each in raised)
    findings += [local.SETTING_UNSAFE.found_by(each) for each in messages if isinstance(each, HwsignerWarning)]
