"""Credentials over HTTP, for AWS SDKs on this machine: the container endpoint and IMDSv2."""
