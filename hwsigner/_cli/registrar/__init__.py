"""`hwsigner registrar` and its commands."""

from __future__ import annotations

from hwsigner._config.flags import Flag

POLICY_FILE, KEYS_FILE = "/etc/hwsigner/registrar.toml", "/var/lib/hwsigner-registrar/keys"
POLICY = Flag("policy", "policy file: which chip may have which names", "FILE", default=POLICY_FILE)
KEYS = Flag("keys", "file of sealing keys, secret; all registrars share it", "FILE", default=KEYS_FILE)
