"""`hwsigner aws principal-tags` shows what a trust policy can compare."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import certs
from scene import Outcome, Scene

Call = Callable[..., Outcome]
TAGS = {
    "x509Subject/C": "DE",
    "x509Subject/O": "Example",
    "x509Subject/OU": "devops",
    "x509Subject/CN": "bamboo-01",
}


def test_subject_and_issuer_are_printed_as_condition_keys(scene: Scene) -> None:
    outcome = scene.call("aws", "principal-tags", str(scene.leaf))
    assert (outcome.status, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert {f"aws:PrincipalTag/{name} = {value}" for name, value in TAGS.items()} <= set(lines)
    assert "aws:PrincipalTag/x509Issuer/CN = Example CA" in lines


def test_json_is_an_object_of_tags(scene: Scene) -> None:
    assert json.loads(scene.call("aws", "principal-tags", "--json", str(scene.leaf)).out).items() >= TAGS.items()


def test_name_that_cannot_be_a_tag_is_a_warning(scene: Scene, tmp_path: Path) -> None:
    leaf = certs.issue(scene.ca, certs.make_ca().key.public_key(), certs.Shape(common_name="R&D"))
    path = tmp_path / "odd.pem"
    path.write_bytes(certs.pem(leaf))
    outcome = scene.call("aws", "principal-tags", str(path))
    assert outcome.status == 0
    assert "R&D" not in outcome.out
    assert outcome.err.startswith("hwsigner: warning: ")
    assert outcome.err.count("\n") == 1


def test_missing_certificate_is_an_error(call: Call) -> None:
    outcome = call("aws", "principal-tags", "absent.pem")
    assert (outcome.status, outcome.out) == (4, "")
    assert "absent.pem" in outcome.err
