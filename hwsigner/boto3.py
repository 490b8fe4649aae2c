"""Sessions of boto3 with the credentials of a profile of config.toml: `hwsigner.boto3.session("web").client("s3")`."""

from __future__ import annotations

from typing import Any

try:
    import boto3
    from botocore.session import get_session
except ImportError as error:
    raise ImportError("hwsigner.boto3 needs boto3; install hwsigner with its extra aws") from error

from hwsigner.botocore import _insert

__all__ = ["session"]


def session(profile: str, **options: Any) -> boto3.Session:
    """Return a boto3 session with the credentials of a profile of config.toml, even if the environment has others.

    All sessions of a process share a profile's credentials, which are refreshed ahead of need: a running agent's, or
    those of a provider that keeps the key open. Nothing is read or opened before the first client is made; a
    `hwsigner.botocore.CredentialsError` then says why there are no credentials.

    Args:
        profile: the name of the profile of config.toml.
        options: passed to `boto3.Session`, such as region_name.
    """
    made = get_session()
    _insert(made, profile, before="env")
    return boto3.Session(botocore_session=made, **options)
