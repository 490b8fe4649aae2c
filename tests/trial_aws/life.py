"""The life of a trial: say what will be made, make it, ask, delete it, and write the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

from hwsigner._aws.apis import ServiceClients
from hwsigner._aws.create_session import find_service
from hwsigner.errors import HwsignerError, Interruption, ServiceError, ServiceUnreachableError
from hwsigner.trial.asking import confirm, interrupt, numbered, on_signals, require_folder, selected, write_report
from hwsigner.trial.questions import NotAskedError, Result, ask_all
from hwsigner.trial.report import TrialReport
from trial_aws.authority import TrialCA
from trial_aws.calls import DeniedError, TrialPace, was_denied
from trial_aws.making import Leftover, TrialFile, delete_all, delete_trial, left_anchors, leftovers, make_all
from trial_aws.plan import AWSQuestion, TrialPlan, plan_of
from trial_aws.policy import policy_text
from trial_aws.questions import QUESTIONS
from trial_aws.scene import AWSScene, RefusedInAdvanceError, StaysFailingError

_TO_CLEAN = "Run the same command with --clean, and with --region if the region is not the default one"
_MOST_FAILURES = 3


def show_policy(arguments: argparse.Namespace) -> int:
    """Print the least IAM policy that suffices."""
    partition = _clients(arguments, TrialPace()).partition
    print(policy_text(partition))
    return 0


def try_all(arguments: argparse.Namespace, pace: TrialPace | None = None) -> int:
    """Run the trial.

    Returns:
        `write_report`'s exit status, or `DeniedError`'s if a permission for some questions is missing.

    Raises:
        ServiceError: something could not be made or deleted.
        HwsignerError: it can't be run.
        Interruption: the user ended it. All has been deleted, and the report has the answers until then.
    """
    require_folder(arguments.output)
    questions, pace = selected(QUESTIONS, arguments.only), pace or TrialPace()
    plan, clients = plan_of(questions), _clients(arguments, pace)
    region = clients.rolesanywhere.region
    status = 0
    with on_signals(interrupt):
        service = find_service(region, endpoint=arguments.endpoint)
        scene = AWSScene(clients, service, ca=TrialCA(), pace=pace, rates=arguments.rates)
        print(_announcement(scene, plan, questions), flush=True)
        if not arguments.yes:
            confirm("Make these, and ask?")
        scene.scrub.hide(clients.account, "account")
        file = TrialFile(arguments.output, scene.prefix)
        file.write(clients.account, region, [scene.named(each.name) for each in plan.roles])
        try:
            asking = _Asking(scene, questions)
            interrupted = not asking.ask_all(plan)
            if asking.results:
                status = _report(asking, arguments.output)
        finally:
            _delete(scene, file)
    if interrupted:
        raise Interruption("interrupted", "Everything was deleted")
    return status


def clean(arguments: argparse.Namespace, pace: TrialPace | None = None) -> int:
    """Delete what trials have left in the account and region: what has the name and the tag of one.

    Raises:
        HwsignerError: something could not be deleted.
    """
    clients = _clients(arguments, pace or TrialPace())
    region = clients.rolesanywhere.region
    found, cleaned = leftovers(clients), []
    names = sorted({each.name for each in found})
    for file in TrialFile.all_in(arguments.output):
        try:
            found += [Leftover("role", role, role) for role in file.roles(clients.account, region)]
            cleaned.append(file)
        except NotAskedError as error:
            _say(str(error))
    print("\n".join((f"{len(names) or 'no'} resources of trials in {region}", *names)), flush=True)
    if names and not arguments.yes:
        confirm("Delete these? A trial that runs now loses its own.")
    if failure := delete_all(clients, found, _say):
        raise ServiceError("not everything was deleted", _TO_CLEAN) from failure
    for file in cleaned:
        file.path.unlink(missing_ok=True)
    return 0


def _clients(arguments: argparse.Namespace, pace: TrialPace) -> ServiceClients:
    return ServiceClients(
        arguments.region, profile=arguments.aws_profile, endpoint=arguments.endpoint, say=_say, before_send=pace
    )


def _report(asking: _Asking, folder: Path) -> int:
    """Write the report of what was asked, and return the exit status."""
    scene = asking.scene
    target = {"service": "AWS" if scene.is_aws else "another endpoint", "region": scene.region}
    report = TrialReport("aws", datetime.now(UTC).date(), target, asking.results, headline=asking.headline)
    status = write_report(report.scrubbed(scene.scrub), folder)
    if status or not asking.denied:
        return status
    _say("hwsigner: some questions were not asked, because a permission is missing. The report says which")
    return DeniedError.exit_status


class _Asking:
    """Asks questions. What always fails is its answer; a failure on the way names no proxy.

    Attributes:
        scene: what they are asked with.
        results: what came back.
        headline: why no session of the simplest kind succeeds; empty if one does.
        denied: whether a permission was missing for a question.
    """

    def __init__(self, scene: AWSScene, questions: Sequence[AWSQuestion]) -> None:
        self.scene = scene
        self._questions = questions
        self.results: list[Result] = []
        self.headline = ""
        self.denied = False
        self._failures = 0

    def ask_all(self, plan: TrialPlan) -> bool:
        """Make what the questions need, and ask them.

        Returns:
            False if the user interrupted it.
        """
        questions, results = self._questions, self.results
        try:
            self._make(plan)
            for result in ask_all([replace(each, ask=partial(self._ask, each.ask)) for each in questions], self.scene):
                results.append(result)
                _say(f"[{len(results)}/{len(questions)}] {result.id}: {result.verdict}")
        except KeyboardInterrupt:
            _say("interrupted")
            rest = questions[len(results) :] if results else ()
            results += ask_all([replace(each, ask=_interrupted) for each in rest], self.scene)
            return False
        return True

    def _make(self, plan: TrialPlan) -> None:
        """Make what a plan has, as `make_all` does, but with another exit status than an answer that differs."""
        if left := left_anchors(self.scene.clients):
            anchors = numbered(len(left), "trust anchor")
            _say(f"killed trials have left {anchors}, which the quota counts too: {', '.join(left)}. {_TO_CLEAN}")
        _say(f"making {plan.count} resources, one a second")
        try:
            problem = make_all(self.scene, plan)
        except NotAskedError as error:
            raise ServiceError(error.message, error.hint) from error
        if problem:
            self.headline = f"No session of the simplest kind succeeds: {problem}"
            _say(f"no session of the simplest kind succeeds, but the questions are asked: {problem}")

    def _ask(self, ask: Callable[[AWSScene], str], scene: AWSScene) -> str:
        if self._failures == _MOST_FAILURES:  # Do not wait for each of hundreds.
            raise NotAskedError("the service was not reached before")
        try:
            answer = ask(scene)
        except (RefusedInAdvanceError, StaysFailingError) as error:
            answer = error.message
        except ServiceUnreachableError as error:
            self._failures += 1
            _say(str(error))
            raise NotAskedError("no response came") from error
        except NotAskedError as error:
            self.denied = self.denied or was_denied(error)
            raise
        self._failures = 0
        return answer


def _interrupted(_: AWSScene) -> NoReturn:
    raise NotAskedError("the trial was interrupted")


def _delete(scene: AWSScene, file: TrialFile) -> None:
    """Delete what the trial made, and then the file."""
    _say("deleting everything")
    try:
        failure = delete_trial(scene, _say)
    except KeyboardInterrupt:
        raise Interruption("interrupted before everything was deleted", _TO_CLEAN) from None
    except HwsignerError as error:
        raise ServiceError(f"not everything was deleted: {error.message}", _TO_CLEAN) from error
    if failure:
        raise ServiceError("not everything was deleted", _TO_CLEAN) from failure
    file.path.unlink(missing_ok=True)


def _announcement(scene: AWSScene, plan: TrialPlan, questions: Sequence[AWSQuestion]) -> str:
    kinds = (("trust anchors", plan.anchors), ("roles", plan.roles), ("profiles", plan.profiles), ("CRLs", plan.crls))
    made = "\n".join(f"  {kind}: {len(each)}" for kind, each in kinds)
    rates = ", and 30 CreateSession requests at once" if scene.rates else ""
    minutes = round((2.3 * plan.count + 1.1 * len(questions) + 60) / 60)
    return f"""\
A trial of {numbered(len(questions), "question")} in {scene.region}. It makes, with names that begin with {scene.prefix}
and the tag hwsigner-trial:
{made}
and some that AWS is expected to refuse. No role has a permission. It deletes all of them at the end. What stays is what
Roles Anywhere itself makes: its service-linked role, and the subjects of the certificates, which can't be deleted.

It costs nothing. It sends one request a second at most, which takes about {minutes} min{rates}.

The least IAM policy that suffices:
{policy_text(scene.partition)}
"""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
