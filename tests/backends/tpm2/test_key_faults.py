"""Keys of every kind on a TPM whose commands fail, one after the other: nothing stays, and no auth value passes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from backends.tpm2.test_faults import uri_through
from backends.tpm2.test_policies import AUTH_VALUE, Policies, as_drafted, pcr_digest, selection
from backends.tpm2.tpms import NODA, PASSWORD, SIGNING, Tools, flush_handles, handles_in
from hwsigner.backends.tpm2.key_file import PolicyCommand
from hwsigner.errors import HwsignerError
from hwsigner.key import find_certificates, open_key
from tpm_proxy import Fault, TPMProxy

pytestmark = pytest.mark.usefixtures("refused_auth")


def policy_key(tools: Tools) -> Path:
    """Return the file of a key that wants a PCR and its auth value."""
    policies = Policies(tools)
    digest = policies.run(("pcr", "-l", "sha256:16"), ("authvalue",))
    pcr = as_drafted(selection(16), pcr_digest(tools, 16))
    return tools.write(policies.key(digest, pcr, PolicyCommand(AUTH_VALUE), auth=PASSWORD, noda=True))


def importable_key(tools: Tools) -> Path:
    """Return the file of a key to import."""
    context, public = str(tools.path("parent.ctx")), tools.path("parent.pub")
    tools.run("tpm2_createprimary", "-Q", "-G", "ecc", "-c", context, *NODA)
    tools.run("tpm2_readpublic", "-Q", "-c", context, "-o", str(public))
    return tools.write(tools.duplicated(public))


def restricted_key(tools: Tools) -> Path:
    """Return the file of a key that signs what the TPM hashed."""
    return tools.key_file("ecc256:ecdsa-sha256:null", f"{SIGNING}|restricted|noda", primary=("-G", "ecc", *NODA))


def use(uri: str, pin: str) -> bool:
    """Open a key and sign twice; return whether all went well."""
    done = []
    try:
        with open_key(uri, pin) as key:
            for message in (b"message", b"m" * 2000):
                try:
                    done.append(bool(key.sign(message)))
                except HwsignerError:
                    continue
    except HwsignerError:
        return False
    return done == [True, True]


@pytest.mark.parametrize(("make", "pin"), [(policy_key, PASSWORD), (importable_key, ""), (restricted_key, "")])
@pytest.mark.parametrize("fault", ["drop", "cut", 0x101, 0x18B])
def test_nothing_is_left_in_the_tpm(
    proxy: TPMProxy, tools: Tools, make: Callable[[Tools], Path], pin: str, fault: Fault
) -> None:
    uri = uri_through(proxy, make(tools))
    for number in count():
        proxy.exchanges.clear()
        proxy.at(number, fault)
        proxy.lost.clear()
        went_well = use(uri, pin)
        commands = [hex(code) for code in proxy.codes]
        assert handles_in(tools.tpm) == proxy.lost, f"after {fault} at command {number} of {commands}"
        flush_handles(tools.tpm, proxy.lost)
        if len(proxy.exchanges) <= number:
            assert went_well
            assert number > 8
            return


@pytest.mark.parametrize("session", ["encrypted", "plain"])
def test_auth_value_of_a_policy_is_never_sent(proxy: TPMProxy, tools: Tools, session: str) -> None:
    assert use(uri_through(proxy, policy_key(tools), f"&session={session}"), PASSWORD)
    assert PASSWORD.encode() not in proxy.stream


def test_nothing_is_left_in_the_tpm_when_reading_an_nv_index_fails(proxy: TPMProxy, tools: Tools) -> None:
    certificate = tools.path("nv")
    certificate.write_bytes(b"\x30\x82\x05\x00" + bytes(0x500))
    tools.run("tpm2_nvdefine", "-Q", "0x1c10000", "-C", "o", "-s", "1400", "-a", "ownerwrite|authread|no_da")
    tools.run("tpm2_nvwrite", "0x1c10000", "-C", "o", "-i", str(certificate))
    try:
        for number in count():
            proxy.exchanges.clear()
            proxy.at(number, 0x101)
            try:
                found = find_certificates(f"tpm2:nv=0x1c10000?tcti={proxy.tcti}")
            except HwsignerError:
                found = []
            assert handles_in(tools.tpm) == []
            if len(proxy.exchanges) <= number:
                assert len(found[0].der) == 0x504
                return
    finally:
        tools.run("tpm2_nvundefine", "-C", "o", "0x1c10000")
