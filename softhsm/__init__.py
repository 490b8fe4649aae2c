"""Emulated hardware in a folder: a SoftHSM token and a swtpm TPM, for demos, for tests and by hand."""
