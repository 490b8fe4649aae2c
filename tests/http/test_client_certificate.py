"""The process that makes a request with a client certificate whose key is in a TPM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The child finds no certificate.
ASK = """
from hwsigner.errors import ConfigError
from hwsigner._http.address import parse_url
from hwsigner._http.client_certificate import ClientCertificate
from hwsigner._http.connection import Deadline
from hwsigner._http.transport import TransportOptions
client = ClientCertificate("none.pem", "none.tss2")
try:
    client.post(parse_url("https://localhost:1"), "/", [], b"", options=TransportOptions(), deadline=Deadline(9))
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
def test_child_of_an_isolated_program_imports_nothing_that_the_environment_names(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("open(f'{__file__}.ran', 'w')")
    variables = {"PYTHONPATH": str(tmp_path)}
    printed = subprocess.check_output([sys.executable, "-I", "-c", ASK], cwd=tmp_path, env=variables, text=True)
    assert "none.pem" in printed
    assert not (tmp_path / "sitecustomize.py.ran").exists()
