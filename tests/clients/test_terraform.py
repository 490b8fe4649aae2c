"""HashiCorp's own parser, compiled to WebAssembly, reads what `hwsigner aws template terraform` prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import certs

_PARSE = """
const { parse } = require("@cdktf/hcl2json");
parse("main.tf", require("fs").readFileSync(0, "utf8")).then((parsed) => console.log(JSON.stringify(parsed)));
"""


def parse(text: str, installed: Path) -> dict[str, Any]:
    """Return a Terraform configuration in JSON."""
    environment = {"PATH": "/usr/bin:/bin", "NODE_PATH": str(installed / "node" / "node_modules")}
    command = ["/usr/bin/node", "--eval", _PARSE]
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=True, timeout=60)
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@pytest.mark.parametrize("match", ["CN=bamboo-*,OU=devops", "CN=wéb,CN=ø"])
def test_terraform_parses_the_template(installed: Path, tmp_path: Path, match: str) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certs.make_ca().pem)
    program = [str(Path(sys.executable).with_name("hwsigner")), "aws", "template"]
    flags = [f"--ca={ca}", "--role=web", "--name=web servers", "--duration=7200", f"--match={match}"]
    terraform, cloudformation = (
        subprocess.run([*program, kind, *flags], capture_output=True, text=True, check=True).stdout
        for kind in ("terraform", "cloudformation")
    )
    resources = parse(terraform, installed)["resource"]
    [anchor] = resources["aws_rolesanywhere_trust_anchor"]["role_web"]
    [role] = resources["aws_iam_role"]["role_web"]
    [profile] = resources["aws_rolesanywhere_profile"]["role_web"]
    data = anchor["source"][0]["source_data"][0]["x509_certificate_data"]
    assert (anchor["name"], anchor["enabled"], data) == ("web servers", True, ca.read_text())
    assert (role["name"], role["max_session_duration"]) == ("web", 7200)
    assert (profile["enabled"], profile["duration_seconds"]) == (True, 7200)
    policy = role["assume_role_policy"].removeprefix("${jsonencode(").removesuffix(")}")
    document = json.loads(cloudformation)["Resources"]["Role"]["Properties"]["AssumeRolePolicyDocument"]
    reference = "${aws_rolesanywhere_trust_anchor.role_web.arn}"
    document["Statement"][0]["Condition"]["ArnEquals"]["aws:SourceArn"] = reference
    assert parse(f"policy = {policy}\n", installed) == {"policy": document}
