"""The operating system: files, users, systemd, clocks, stderr."""
