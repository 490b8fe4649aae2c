"""What the running agents say of their profiles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from hwsigner.agent.address import system_address, user_address
from hwsigner.agent.client import command, is_running
from hwsigner.agent.protocol import AgentRequest, Verb, read_status
from hwsigner.errors import AgentError


@dataclass(frozen=True)
class Served:
    """What an agent says of a profile: its state, when its credentials expire, and its last failure; maybe empty."""

    agent: str
    state: str
    expiration: str
    failure: str


class Agents(NamedTuple):
    """What the running agents say by profile, and a sentence for each that does not answer."""

    served: dict[str, Served]
    problems: list[str]


def ask_agents(environ: Mapping[str, str]) -> Agents:
    """Return what the running agents say. The user's agent takes precedence over the system's."""
    agents = Agents({}, [])
    for name, address in (("system", system_address()), ("user", user_address(environ))):
        if not is_running(address):
            continue
        try:
            _, *rows = read_status(command(address, AgentRequest(Verb.STATUS, "")))
            agents.served.update({profile: Served(name, *words) for profile, *words in rows})
        except AgentError as error:
            if not (address.is_system and os.geteuid()):  # The system's agent refuses this command of most users.
                agents.problems.append(f"the {name}'s agent can't be asked: {error.message}")
    return agents
