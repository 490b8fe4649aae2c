"""Credentials over HTTP, for AWS SDKs on this machine: the container endpoint and IMDSv2."""

__all__ = ["admission", "application", "credentials", "listener", "peer", "responses", "server", "token_file"]
