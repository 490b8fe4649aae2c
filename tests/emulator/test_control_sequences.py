"""Sequences of calls of the control plane: what CreateSession then responds is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import Authority, make_ca
from emulator.client import Caller, create_session
from emulator.planes import bundle, client
from emulator.test_control_crls import crl_of
from hwsigner.emulator import Emulator, World

STEPS = ("anchor", "profile", "crl", "list", "bundle", "roles")


@pytest.fixture(scope="module")
def running(ca: Authority) -> Iterator[Emulator]:
    with Emulator(World.simple(ca.pem)) as emulator:
        yield emulator


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.booleans()), max_size=12))
def test_session_follows_from_the_last_state_of_each_setting(
    running: Emulator, ca: Authority, caller: Caller, callers: dict[str, Caller], steps: list[tuple[str, bool]]
) -> None:
    plane, world = client(running), World.simple(ca.pem)
    for name in ("trust_anchors", "profiles", "roles", "crls"):
        resources = getattr(running.world, name)
        resources.clear()
        resources.update(getattr(world, name))
    lists = {value: crl_of(ca, [caller.certificate.serial_number] if value else []) for value in (True, False)}
    arn = running.trust_anchor_arn
    crl = plane.import_crl(name="c", crlData=lists[False], trustAnchorArn=arn)["crl"]["crlId"]
    other = bundle(make_ca("Other CA").pem)
    state = {"anchor": True, "profile": True, "crl": False, "list": False, "bundle": True, "roles": True}
    calls: dict[str, Any] = {
        "anchor": lambda on: (plane.enable_trust_anchor if on else plane.disable_trust_anchor)(trustAnchorId=arn),
        "profile": lambda on: (plane.enable_profile if on else plane.disable_profile)(profileId=running.profile_arn),
        "crl": lambda on: (plane.enable_crl if on else plane.disable_crl)(crlId=crl),
        "list": lambda on: plane.update_crl(crlId=crl, crlData=lists[on]),
        "bundle": lambda on: plane.update_trust_anchor(trustAnchorId=arn, source=bundle(ca.pem) if on else other),
        "roles": lambda on: plane.update_profile(
            profileId=running.profile_arn, roleArns=[running.role_arn] if on else []
        ),
    }
    for step, value in steps:
        if step == "list" and not state["bundle"]:
            continue  # The list's signer is not in the bundle, so it is refused.
        calls[step](value)
        state[step] = value
    allowed = all(state[name] for name in ("anchor", "profile", "bundle", "roles"))
    revoked = state["crl"] and state["list"]
    assert create_session(running, caller).status == (201 if allowed and not revoked else 403)
    assert create_session(running, callers["P-384"]).status == (201 if allowed else 403)
