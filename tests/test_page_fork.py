"""The modules of docs/how-to/fork.md, in a program that forks after it has used them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cli.conftest import call, scene
from pages import python_block
from scene import Scene

__all__ = ["call", "scene"]

pytestmark = pytest.mark.slow

PAGE = "docs/how-to/fork.md"
# Prints what `report` returns, in a child and then in the parent.
FORKING = """
import json, os, threading

if child := os.fork():
    os.waitpid(child, 0)
print(json.dumps(report()), flush=True)
if not child:
    os._exit(0)
"""


def forked(scene: Scene, module: str, report: str) -> list[list[object]]:
    """Run a module of the page, then a fork. Return the reports of the child and of the parent. `web` is a profile."""
    env = {"XDG_CONFIG_HOME": str(scene.folder / "config"), "AWS_ENDPOINT_URL": scene.emulator.url}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", env["XDG_CONFIG_HOME"])
        scene.call("profile", "add", "web", *scene.flags(endpoint=None))
    scene.emulator.requests.clear()
    env |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "HWSIGNER_AGENT": "none"}
    done = subprocess.run(
        [sys.executable, "-c", f"{module}\n{report}{FORKING}"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_worker_makes_its_own_client_with_the_credentials_of_its_parent(scene: Scene) -> None:
    module = python_block(PAGE, "## A module for your program", "## What may be opened")
    report = """
first = client("sts")
first.get_caller_identity()
def report():
    return [client("sts") is first, client("sts").get_caller_identity()["Arn"]]
"""
    (is_first_in_child, arn), in_parent = forked(scene, module, report)
    assert not is_first_in_child
    assert in_parent == [True, arn]
    assert sum(request.target.startswith("/sessions") for request in scene.emulator.requests) == 1


def test_background_provider_has_its_thread_in_each_worker(scene: Scene) -> None:
    module = python_block(PAGE, "## BackgroundProvider in each worker", "## Libraries")
    report = """
background.start()
background()
def report():
    return [background().access_key_id, any(each.name == "hwsigner-timer" for each in threading.enumerate())]
"""
    in_child, in_parent = forked(scene, module, report)
    assert in_child == in_parent
    assert in_child[1]
    without_hook = "\n".join(line for line in module.splitlines() if "register_at_fork" not in line)
    assert forked(scene, without_hook, report)[0][1] is False
