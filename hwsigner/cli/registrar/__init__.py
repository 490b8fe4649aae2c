"""`hwsigner registrar` and its commands."""

from __future__ import annotations

from hwsigner.config.flags import Flag

POLICY = Flag(
    "policy", "policy: which chip may have which names (TOML)", "FILE", default="/etc/hwsigner/registrar.toml"
)
KEYS = Flag("keys", "sealing keys, shared by all registrars; secret", "FILE", default="/etc/hwsigner/registrar.keys")
