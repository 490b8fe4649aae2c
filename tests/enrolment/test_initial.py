"""A program enrols and renews without the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import certs
from hwsigner._config.profiles import change_profile
from hwsigner._config.settings import Settings, read_profile
from hwsigner.enrolment.initial import Enrolment, enroll
from hwsigner.enrolment.renewal import renew
from hwsigner.key.management import KeyRequest


@pytest.fixture
def asked(ca: certs.Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolment:
    """An enrolment with openssl as the CA."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    certs.write_key(tmp_path / "ca.key", ca.key)
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    ca_flags = f"-CA {tmp_path / 'ca.pem'} -CAkey {tmp_path / 'ca.key'}"
    values = {
        "private_key": str(tmp_path / "web.key"),
        "subject": "CN=web",
        "issuer_command": f"openssl x509 -req {ca_flags} -copy_extensions copy -days 2",
    }
    return Enrolment("web", Settings(values), KeyRequest(), command="hwsigner credential-process --profile web")


def test_outcome_says_what_there_is(asked: Enrolment) -> None:
    first, second = enroll(asked), enroll(asked)
    assert (first.made, first.issued, second.made, second.issued) == (True, True, False, False)
    assert first.leaf.der == second.leaf.der
    assert first.missing == ("trust-anchor-arn", "profile-arn", "role-arn")
    assert first.aws_config
    assert "credential_process = hwsigner" in Path(first.aws_config).read_text()


def test_renewal_says_what_there_is_or_that_it_is_too_early(asked: Enrolment) -> None:
    first = enroll(asked)
    assert renew("web", if_due=True) is None
    longer = str(asked.given.issuer_command).replace("-days 2", "-days 3")
    change_profile("web", {"issuer-command": longer}, os.environ)
    renewed = renew("web")
    assert renewed
    assert renewed.leaf.subject == "CN=web"
    assert renewed.leaf.der != first.leaf.der
    assert (renewed.file, renewed.old_key) == (first.file, None)


def test_renewal_with_a_new_key_names_the_old_one(asked: Enrolment, tmp_path: Path) -> None:
    enroll(asked)
    renewed = renew("web", new_key=str(tmp_path / "new.key"))
    assert renewed
    assert renewed.old_key == str(tmp_path / "web.key")
    assert read_profile("web", {"XDG_CONFIG_HOME": str(tmp_path / "XDG_CONFIG_HOME")}).private_key == str(
        tmp_path / "new.key"
    )


@pytest.mark.slow
def test_command_line_is_not_loaded() -> None:
    loaded = "[name for name in sys.modules if name.startswith('hwsigner._cli')]"
    code = f"import sys, hwsigner.enrolment.initial, hwsigner.enrolment.renewal; print({loaded})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
