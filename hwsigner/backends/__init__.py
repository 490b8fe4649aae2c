"""Where keys live: one module a backend, imported when `open_key` needs it."""
