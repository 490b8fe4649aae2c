"""A link with addresses, made in a network namespace of the test's own."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from hwsigner._system import dummy_link
from judges import needs_namespaces

pytestmark = needs_namespaces

ADDRESSES = ("169.254.170.23", "fd00:ec2::23")
MAKE = f"{sys.executable} -m hwsigner._system.dummy_link"
# A dummy link needs a kernel module that a machine may lack: a bridge is made by the same message.
BRIDGE = f"{sys.executable} -c \"from hwsigner._system.dummy_link import add_link as add; add('pods', 'bridge')\""
# Tells whether the link is up, and whether a server can have both addresses.
LISTEN = """
import fcntl, socket, struct, sys
flags = fcntl.ioctl(socket.socket(), 0x8913, struct.pack("16sh14x", sys.argv[1].encode(), 0))
assert struct.unpack_from("h", flags, 16)[0] & 1, "the link is down"
for address, family in (("169.254.170.23", socket.AF_INET), ("fd00:ec2::23", socket.AF_INET6)):
    socket.socket(family).bind((address, 80))
print("both")
"""


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--net", "--user", "--map-root-user", "sh", "-ec", script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def listen(link: str) -> str:
    return f"{sys.executable} -c '{LISTEN}' {link}"


@pytest.mark.slow
def test_link_has_its_addresses_also_when_it_had_them_before() -> None:
    make = f"{MAKE} pods {' '.join(ADDRESSES)}"
    done = in_namespace(f"{BRIDGE}; {BRIDGE}; {make}; {make}; {listen('pods')}")
    assert done.stdout == "both\n", done.stderr
    assert done.stderr.splitlines() == [f"pods has {address}" for address in ADDRESSES] * 2


def test_link_that_was_turned_off_is_turned_on() -> None:
    done = in_namespace(f"{BRIDGE}; ip link set pods down; {MAKE} pods {' '.join(ADDRESSES)}; {listen('pods')}")
    assert done.stdout == "both\n", done.stderr


def test_dummy_link_is_made_unless_the_kernel_has_none() -> None:
    done = in_namespace(f"{MAKE} pods {' '.join(ADDRESSES)}; {listen('pods')}")
    if done.returncode:
        hint = "Run modprobe dummy, or take the link lo"
        assert done.stderr == f"can't make the link pods: Operation not supported. {hint}\n"
    else:
        assert done.stdout == "both\n"


def test_link_has_the_other_address_when_the_machine_has_no_ipv6() -> None:
    off = "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6"
    done = in_namespace(f"{off}; {MAKE} lo {' '.join(ADDRESSES)}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "lo has 169.254.170.23\nthe machine has no IPv6, so lo does not get fd00:ec2::23\n"


def test_missing_capability_is_named() -> None:
    drop = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
    done = in_namespace(f"{drop} {MAKE} pods 169.254.170.23")
    assert done.returncode == 1
    assert done.stderr == "can't make the link pods: Operation not permitted. Give the container NET_ADMIN\n"
    done = in_namespace(f"{drop} {MAKE} lo 169.254.170.23")
    assert done.returncode == 1
    assert done.stderr == "can't give 169.254.170.23 to lo: Operation not permitted. Give the container NET_ADMIN\n"


def test_error_of_the_kernel_is_raised_when_a_link_is_of_no_type_that_it_knows() -> None:
    with pytest.raises(OSError) as caught:
        dummy_link.add_link("pods", "no-such-type")
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.EPERM)


def test_usage_is_printed_when_an_address_is_missing() -> None:
    done = in_namespace(f"{MAKE} pods")
    assert done.returncode == 1
    assert done.stderr.startswith("usage: ")


def test_kept_link_gets_its_addresses_again_until_the_program_is_stopped() -> None:
    keep = f"{MAKE} --keep pods {' '.join(ADDRESSES)} & kept=$!"
    wait = f"until {MAKE} --check pods {ADDRESSES[0]}; do sleep 0.1; done"
    script = (
        f"{BRIDGE}; {keep}; {wait}; ip link delete pods; {BRIDGE}; {wait}; {listen('pods')}; kill $kept; wait $kept"
    )
    done = in_namespace(f"ip link set lo up; {script}")
    assert (done.returncode, done.stdout) == (0, "both\n"), done.stderr


def test_check_says_whether_an_address_is_there() -> None:
    check = f"if {MAKE} --check pods {' '.join(ADDRESSES)}; then echo there; else echo gone; fi"
    make = f"{BRIDGE}; {MAKE} pods {' '.join(ADDRESSES)}"
    done = in_namespace(f"ip link set lo up; {check}; {make}; {check}; ip link delete pods; {check}")
    assert done.stdout == "gone\nthere\ngone\n", done.stderr


def test_kept_link_that_was_turned_off_has_its_ipv6_address_again() -> None:
    keep = f"{MAKE} --keep pods {' '.join(ADDRESSES)} & kept=$!"
    wait = f"until {MAKE} --check {ADDRESSES[1]} {ADDRESSES[1]}; do sleep 0.1; done"
    script = f"{BRIDGE}; {keep}; {wait}; ip link set pods down; sleep 1.2; {wait}; {listen('pods')}; kill $kept"
    assert in_namespace(script).stdout == "both\n"
