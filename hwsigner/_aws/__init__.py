"""What is specific to AWS: ARNs, endpoints, CreateSession, credentials and the SDKs' files."""

__all__ = [
    "apis",
    "config_file",
    "config_lines",
    "console",
    "create_session",
    "credentials",
    "credentials_file",
    "failures",
    "region",
]
