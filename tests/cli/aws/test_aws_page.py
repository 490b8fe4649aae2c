"""docs/how-to/aws.md: its commands run against the emulator, and its table of mistakes has the words of `aws check`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import certs
from emulator import planes
from hwsigner.emulator import Emulator, World
from pages import ROOT, run_shell, shell_blocks
from scene import Outcome
from transcripts import follow

PAGE = "docs/how-to/aws.md"
ANCHOR = "arn:aws:rolesanywhere:eu-central-1:123456789012:trust-anchor/0e5a7c1e-2b9d-4c3f-8a64-51d0f7b3c9aa"
GOOD = {
    "Effect": "Allow",
    "Principal": {"Service": "rolesanywhere.amazonaws.com"},
    "Action": ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"],
    "Condition": {
        "StringEquals": {"aws:PrincipalTag/x509Subject/CN": "bamboo-01"},
        "ArnEquals": {"aws:SourceArn": "ANCHOR"},
    },
}


@pytest.fixture
def administrator(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of an administrator of an emulated account, whose trust anchor is for another CA."""
    with Emulator(World.simple(certs.make_ca("Another CA").certificate)) as emulator:
        emulator.add_credentials("AKIAIOSFODNN7EXAMPLE", "secret")
        yield {
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        }


def going_ahead(script: str) -> str:
    """Return commands that go ahead instead of asking."""
    return script.replace("# asks", "--yes")


@pytest.mark.slow
def test_commands_of_the_page_lead_to_credentials(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    steps = run_shell(
        going_ahead(shell_blocks(PAGE, "## The four steps", "## The trust policy")), tmp_path, environment
    )
    credentials = next(line for line in steps.splitlines() if line.startswith('{"Version"'))
    assert json.loads(credentials)["AccessKeyId"].startswith("ASIA")
    assert "done: revoke CN=bamboo-01,OU=devops" in steps
    assert "done: remove [profile.web]" in steps
    assert "may do sts:AssumeRole, sts:TagSession, sts:SetSourceIdentity" in steps
    assert "Nothing is wrong" in steps
    printed = run_shell(
        going_ahead(shell_blocks(PAGE, "## The trust policy", "### As a template")), tmp_path, environment
    )
    policy, tags = printed.split("\n}\n")
    assert json.loads(f"{policy}\n}}")["Statement"][0]["Condition"]["ArnEquals"] == {"aws:SourceArn": ANCHOR}
    assert "aws:PrincipalTag/x509Subject/OU = devops" in tags
    run_shell(
        going_ahead(shell_blocks(PAGE, "### As a template", "## What each condition means")), tmp_path, environment
    )
    assert "AWS::RolesAnywhere::Profile" in (tmp_path / "web.json").read_text()
    assert "aws_rolesanywhere_profile" in (tmp_path / "web.tf").read_text()
    checked = going_ahead(shell_blocks(PAGE, "## Trust policies that people get wrong", "## What AWS documents"))
    assert "Nothing is wrong" in run_shell(checked, tmp_path, {**environment, "TRUST_ANCHOR_ARN": ANCHOR})


def test_each_mark_of_a_source_is_used_listed_and_linked() -> None:
    text, _, links = (ROOT / PAGE).read_text().partition("\n[A1]: ")
    body, sources = text.split("### Sources")
    marks = re.compile(r"\[([AU][0-9]+|H)\]")
    defined = set(re.findall(r"^\[([AU][0-9]+|H)\]: \S+$", f"[A1]: {links}", re.MULTILINE))
    assert defined == set(marks.findall(body)) == set(marks.findall(sources))


@pytest.fixture
def account(short_folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A home folder after three steps of the page, whose role lets every trust anchor in, and its environment."""
    made = going_ahead(shell_blocks(PAGE, "**1. A private CA.**", "**4. Credentials.**"))
    with Emulator(World()) as emulator:
        iam = planes.client(emulator, service="iam")
        environment = {
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_ACCESS_KEY_ID": planes.KEY[0],
            "AWS_SECRET_ACCESS_KEY": planes.KEY[1],
            "AWS_DEFAULT_REGION": planes.REGION,
        }
        run_shell(made, short_folder, {"HOME": str(short_folder), **environment})
        policy = iam.get_role(RoleName="web")["Role"]["AssumeRolePolicyDocument"]
        del policy["Statement"][0]["Condition"]["ArnEquals"]
        iam.update_assume_role_policy(RoleName="web", PolicyDocument=json.dumps(policy))
        yield short_folder, environment


@pytest.mark.slow
def test_aws_check_prints_what_its_page_shows(account: tuple[Path, dict[str, str]]) -> None:
    follow("docs/reference/aws-check.md", *account)


@pytest.mark.slow
def test_aws_revoke_prints_what_its_page_shows(account: tuple[Path, dict[str, str]]) -> None:
    follow("docs/reference/aws-revoke.md", *account, {r"Type yes to [a-z ]+: ": "yes"})


@pytest.mark.slow
def test_commands_of_the_quick_start_set_up_aws(administrator: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(certs.make_ca("Example CA").pem)
    script = going_ahead(shell_blocks("docs/start/quick.md", "## Once, in AWS", "| Machine"))
    assert "role-arn = arn:aws:iam::123456789012:role/web" in run_shell(script, tmp_path, administrator)


def table() -> str:
    """Return the part of the page that has the tables of mistakes."""
    return (ROOT / PAGE).read_text().split("## Trust policies that people get wrong")[1].split("\n## ")[0]


def rows() -> list[tuple[str, str]]:
    """Return the tables of mistakes: a part of a statement, and what is said of it, without the sources."""
    return re.findall(r"^\| `(.+?)` \| (.+) \| (?:\[[AUH][0-9]*\] ?)+\|$", table(), re.MULTILINE)


def test_each_mistake_of_the_page_has_the_mark_of_a_source() -> None:
    assert len(rows()) == len(re.findall('^\\| `"', table(), re.MULTILINE)) > 15


@pytest.fixture
def said(call: Callable[..., Outcome], tmp_path: Path) -> Callable[[str], str]:
    """A function that returns what `aws check` says of the good statement with another part."""

    def found(part: str) -> str:
        statement = {**GOOD, **json.loads(f"{{{part}}}")}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]}).replace("ANCHOR", ANCHOR)
        path = tmp_path / "policy.json"
        path.write_text(policy)
        report = json.loads(call("aws", "check", "--policy", path, "--trust-anchor-arn", ANCHOR, "--json").out)
        findings = [f"*{each['level'].capitalize()}*: {each['found']}. {each['why']}." for each in report["findings"]]
        return " ".join(findings)

    return found


def test_good_statement_has_no_mistake(said: Callable[[str], str]) -> None:
    assert said('"Effect": "Allow"') == ""


def test_page_has_a_row_for_each_well_known_mistake() -> None:
    text = " ".join(part for part, _ in rows())
    for word in ("sts:TagSessions", "$(aws:", "ForAllValues:", "IfExists", "StringNotEquals", "aws:SourceAccount"):
        assert word in text


@pytest.mark.parametrize(("part", "words"), rows(), ids=range(len(rows())))
def test_row_of_the_page_has_the_words_of_the_check(part: str, words: str, said: Callable[[str], str]) -> None:
    assert words == said(part)
