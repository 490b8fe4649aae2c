"""What callers may do: everything, except what a test denies, or what a role's permissions boundary does not allow."""

from __future__ import annotations

from hwsigner.emulator.refusals import RefusalError, denied
from hwsigner.emulator.vault import CallerCredentials, matches
from hwsigner.emulator.world import World


def require(world: World, caller: CallerCredentials, action: str, resource: str) -> None:
    """Check that a caller may do an action.

    The resource is an ARN or "*". A refusal is an AccessDenied, which names the kind of policy that does not allow it.
    """
    for pattern, policy in world.denied.items():
        if matches(action, pattern):
            raise not_allowed(caller, action, resource, policy)
    role = world.roles.get(role_of(world, caller))
    allowed = (world.policies or {}).get(role.boundary) if role else None
    if allowed is not None and not any(matches(action, pattern) for pattern in allowed):
        raise not_allowed(caller, action, resource, "permissions boundary")


def not_allowed(caller: CallerCredentials, action: str, resource: str, policy: str) -> RefusalError:
    """Return the refusal of an action that a kind of policy does not allow."""
    return denied(
        f"User: {caller.arn} is not authorized to perform: {action} on resource: {resource} "
        f"because no {policy} allows the {action} action"
    )


def role_of(world: World, caller: CallerCredentials) -> str:
    """Return the ARN of the role whose session a caller has, or an empty string."""
    role_id, _, session_name = caller.user_id.partition(":")
    return next((arn for arn, each in world.roles.items() if session_name and each.id == role_id), "")
