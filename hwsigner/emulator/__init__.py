"""A local, strict AWS: IAM Roles Anywhere (CreateSession, control plane), IAM for roles, and STS.

It also verifies requests that are signed for other services, and responds with what it found. It is written from the
specification and shares no code with the client. Two independent implementations that agree are evidence.
"""

from hwsigner.emulator.differences import Difference
from hwsigner.emulator.faults import KINDS, Fault
from hwsigner.emulator.record import Record
from hwsigner.emulator.resources import Crl, Profile, Role, Subject, TrustAnchor
from hwsigner.emulator.server import Emulator
from hwsigner.emulator.world import World
from hwsigner.emulator.world_file import load_world

__all__ = [
    "KINDS",
    "Crl",
    "Difference",
    "Emulator",
    "Fault",
    "Profile",
    "Record",
    "Role",
    "Subject",
    "TrustAnchor",
    "World",
    "load_world",
]
