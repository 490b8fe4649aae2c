"""`hwsigner registrar` and its commands."""

from __future__ import annotations

from hwsigner.config.flags import Flag

POLICY_FILE, KEYS_FILE = "/etc/hwsigner/registrar.toml", "/var/lib/hwsigner-registrar/keys"
POLICY = Flag("policy", "policy: which chip may have which names (TOML)", "FILE", default=POLICY_FILE)
KEYS = Flag("keys", "sealing keys, shared by all registrars; secret", "FILE", default=KEYS_FILE)
