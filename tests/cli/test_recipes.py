"""The recipes that install nothing: Terraform's files are parsed, and the script of GitLab's job runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hcl2.api import loads

from pages import ROOT, run_shell, shell_blocks
from scene import Scene

RECIPES = ROOT / "docs" / "how-to" / "recipes"
PAGE = "docs/how-to/recipes.md"


def test_every_file_of_a_recipe_is_named_by_the_page() -> None:
    page = (ROOT / PAGE).read_text()
    assert [path.name for path in RECIPES.glob("*/*") if f"(recipes/{path.parent.name}/{path.name})" not in page] == []


def test_terraform_files_have_the_resources_and_a_provider_with_a_profile(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(scene.ca.pem)
    (tmp_path / "provider.tf").write_bytes((RECIPES / "terraform" / "provider.tf").read_bytes())
    run_shell(shell_blocks(PAGE, "## Terraform", "Terraform itself"), tmp_path, {})
    [provider] = loads((tmp_path / "provider.tf").read_text())["provider"]
    assert provider["aws"]["profile"] == "terraform"
    kinds = [kind for resource in loads((tmp_path / "web.tf").read_text())["resource"] for kind in resource]
    assert kinds == ["aws_rolesanywhere_trust_anchor", "aws_iam_role", "aws_rolesanywhere_profile"]


@pytest.mark.slow
def test_script_of_the_gitlab_job_acts_as_the_role(scene: Scene, tmp_path: Path) -> None:
    job = (RECIPES / "gitlab" / "gitlab-ci.yml").read_text()
    environment = {
        **dict(re.findall(r"^    (AWS_\w+): (\S+)$", job, re.MULTILINE)),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "AWS_ENDPOINT_URL_STS": scene.emulator.url,
    }
    (tmp_path / "deploy.sh").write_text('#!/bin/sh\necho "deployed by ${AWS_CONTAINER_CREDENTIALS_FULL_URI:?}"\n')
    (tmp_path / "deploy.sh").chmod(0o755)
    script = "\n".join(re.findall(r"^    - (/opt/hwsigner.*)$", job, re.MULTILINE)).replace("/opt/hwsigner/bin/", "")
    profile = " ".join(["hwsigner profile add build", *scene.flags()])
    printed = run_shell(f"{profile}\n{script}\n", tmp_path, environment)
    assert ":assumed-role/" in printed
    assert "deployed by http://" in printed
