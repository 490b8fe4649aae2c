"""The module of docs/how-to/fork.md in a project of Django, in workers of gunicorn."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from clients.outputs import add_role
from pages import python_block
from serving.stage import Stage

# hwsigner and boto3 are in the environment of the tests; Django and gunicorn in that of the clients, which comes last.
RUN = "import site, sys; site.addsitedir(sys.argv.pop(1)); from gunicorn.app.wsgiapp import run; run()"
# The whole project: its one view says which worker answers, and as whom AWS sees it.
PROJECT = """
import os
import aws
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost"], SECRET_KEY="none")
loaded_by = os.getpid()
sts = aws.client("sts")
sts.get_caller_identity()

def caller(request):
    client = aws.client("sts")
    return JsonResponse({
        "loaded by": loaded_by, "worker": os.getpid(), "same client": client is sts,
        "arn": client.get_caller_identity()["Arn"],
    })

urlpatterns = [path("", caller)]
application = get_wsgi_application()
"""


@contextmanager
def gunicorn(stage: Stage, installed: Path) -> Iterator[Path]:
    """Serve the project with two workers, forked after it was loaded; yield the path of its socket."""
    (stage.folder / "aws.py").write_text(
        python_block("docs/how-to/fork.md", "## A module for", "## What may be opened")
    )
    (stage.folder / "shop.py").write_text(PROJECT)
    listening = stage.folder / "socket"
    [packages] = (installed / "python" / "lib").glob("python*/site-packages")
    options = ["--preload", "--workers=2", f"--bind=unix:{listening}", f"--chdir={stage.folder}", "shop"]
    environ = stage.environ(
        AWS_ENDPOINT_URL=stage.service.url, AWS_DEFAULT_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true"
    )
    with subprocess.Popen([sys.executable, "-c", RUN, str(packages), *options], env=environ) as process:
        try:
            yield listening
        finally:
            process.terminate()


def get(listening: Path) -> dict[str, object]:
    """Return the project's answer, as soon as it listens."""
    connection = HTTPConnection("localhost")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, ConnectionRefusedError), socket.socket(socket.AF_UNIX) as connected:
            connected.connect(str(listening))
            connection.sock = connected
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            found: dict[str, object] = json.loads(body)
            return found
        time.sleep(0.05)
    raise AssertionError("gunicorn does not answer")


@pytest.mark.timeout(120)
def test_django_has_a_client_of_its_own_in_each_worker_and_the_session_of_the_parent(
    stage: Stage, installed: Path
) -> None:
    add_role(stage, "web", {})
    answers: dict[object, dict[str, object]] = {}
    with gunicorn(stage, installed) as listening:
        deadline = time.monotonic() + 60
        while len(answers) < 2 and time.monotonic() < deadline:
            answer = get(listening)
            answers[answer["worker"]] = answer
    assert len(answers) == 2
    for answer in answers.values():
        assert answer["loaded by"] not in answers
        assert answer["same client"] is False
        assert str(answer["arn"]).startswith("arn:aws:sts::123456789012:assumed-role/web/")
    assert stage.sessions == 1
