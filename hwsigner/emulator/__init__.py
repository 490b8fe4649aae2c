"""A local, strict AWS IAM Roles Anywhere CreateSession and sts:GetCallerIdentity.

Requests that are signed for another service are verified too, and answered with what was found.
It verifies with code of its own, written from the specification, and shares none with the rest of hwsigner:
two implementations that agree are evidence.
"""

from hwsigner.emulator.faults import KINDS, Fault
from hwsigner.emulator.record import Record
from hwsigner.emulator.server import Emulator
from hwsigner.emulator.world import Profile, Role, TrustAnchor, World
from hwsigner.emulator.world_file import load_world

__all__ = ["KINDS", "Emulator", "Fault", "Profile", "Record", "Role", "TrustAnchor", "World", "load_world"]
