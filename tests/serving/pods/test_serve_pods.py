"""`hwsigner serve --pods` as a process. The tests of the tokens' verification are elsewhere."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import ContainerProvider
from botocore.exceptions import CredentialRetrievalError
from botocore.utils import ContainerMetadataFetcher

import certs
from hwsigner._cli import serve_pods as module
from hwsigner._config.profiles import add_profile, change_profile, user_file
from hwsigner.emulator import Difference, Fault
from hwsigner.errors import HwsignerError
from judges import needs_proc
from ports import reserve_port
from scene import Outcome
from serving.pods.pod_stage import serve_pods, write_policy
from serving.raw import Client
from serving.stage import Clock, Stage

pytestmark = pytest.mark.process

WEB = '[accounts]\n"team-a/web" = "web"\n'
# Nothing may ask an agent: it has one session for a profile, and not one for each account.
WITHOUT_AGENT = """
    from hwsigner._agent import client

    client.find_credentials = client.Channel = None
"""


def _session_names(stage: Stage) -> list[str]:
    """Return the role session names that were asked for."""
    requests = [one.request for one in stage.service.requests if one.request.path.startswith("/sessions")]
    return [json.loads(request.body)["roleSessionName"] for request in requests]


class TestSessions:
    def test_account_gets_a_session_of_its_own(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n', more=WITHOUT_AGENT) as pods:
            found = pods.credentials("team-a/web")
            assert set(found) == {"AccessKeyId", "SecretAccessKey", "Token", "AccountId", "Expiration"}
            assert found["AccountId"] == pod_stage.service.role_arn.split(":")[4]
            assert pods.credentials("team-a/web", pod="another", uid="2") == found
            assert pods.credentials("team-a/db") != found
            assert _session_names(pod_stage) == ["team-a.web.node1", "team-a.db.node1"]
            assert pods.process.end(signal.SIGTERM) == 0

    def test_each_pod_has_its_own_if_the_policy_says_so(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, f"session-per-pod = true\n{WEB}") as pods:
            assert pods.credentials("team-a/web") != pods.credentials("team-a/web", pod="pod-2", uid="2")
        assert _session_names(pod_stage) == ["team-a.web.pod-1", "team-a.web.pod-2"]

    @pytest.mark.slow
    def test_profiles_of_one_key_open_it_once(self, pod_stage: Stage) -> None:
        add_profile("batch", {**pod_stage.values(), "session-duration": 900}, pod_stage.environ())
        counting = """
    from hwsigner._refresh import reopening
    opened = reopening.open_identity
    reopening.open_identity = lambda *each: print("opened", file=sys.stderr, flush=True) or opened(*each)
"""
        policy = f'{WEB}"team-b/*" = "batch"\n'
        with serve_pods(pod_stage, policy, more=counting) as pods:
            for account in ("team-a/web", "team-b/one", "team-b/two"):
                pods.credentials(account)
            assert pods.process.end(signal.SIGTERM) == 0
            assert pods.process.lines.count("opened") == 1

    @pytest.mark.slow
    def test_session_is_refreshed_while_pods_ask_and_closed_with_its_key_once_none_does(
        self, pod_stage: Stage, clock: Clock
    ) -> None:
        closing = """
    from hwsigner._identity import Identity
    closed = Identity.close
    Identity.close = lambda self: print("closed", file=sys.stderr, flush=True) or closed(self)
"""
        with serve_pods(pod_stage, WEB, more=closing, clock=clock) as pods:
            first = pods.credentials("team-a/web")
            assert pods.credentials("team-a/web") == first  # It is wanted.
            clock.advance(2700)
            pods.process.read_until("session created")
            pods.process.read_until("session created")  # No Pod had to wait for it.
            assert pod_stage.sessions == 2
            clock.advance(4000)
            pods.process.read_until("closed")
            assert pod_stage.sessions == 2
            assert pods.credentials("team-a/web") != first

    @pytest.mark.slow
    def test_certificate_file_is_read_again_when_it_changes(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n') as pods:
            pods.credentials("team-a/web")
            leaf = pod_stage.leaf.read_bytes()
            pod_stage.leaf.write_bytes(b"broken")
            assert pods.refusal("team-a/db")[0] == 503
            pods.credentials("team-a/web")  # The others have theirs.
            pod_stage.leaf.write_bytes(leaf)
            pods.until_status("team-a/db", 200)

    @pytest.mark.slow
    def test_certificate_that_expires_soon_is_logged_once_for_all_accounts(
        self, pod_stage: Stage, ca: certs.Authority
    ) -> None:
        soon = certs.Shape(begin=certs.ago(15), end=certs.ago(-0.5))
        leaf = certs.issue(ca, pod_stage.private_key().public_key(), soon)
        pod_stage.leaf.write_bytes(certs.pem(leaf))
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n') as pods:
            for account in ("web", "db"):
                pods.credentials(f"team-a/{account}")
            assert pods.process.end(signal.SIGTERM) == 0
        assert sum("expires in 11 hours" in line for line in pods.process.lines) == 1

    @pytest.mark.slow
    def test_session_that_is_shorter_than_asked_is_logged_once_for_all_accounts(self, pod_stage: Stage) -> None:
        change_profile("web", {"session-duration": 7200}, pod_stage.environ())
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n') as pods:
            for account in ("web", "db"):
                pods.credentials(f"team-a/{account}")
            assert pods.process.end(signal.SIGTERM) == 0
        assert sum("lasts 60 minutes, not 120 minutes" in line for line in pods.process.lines) == 1

    @pytest.mark.slow
    def test_wrong_pin_of_a_profile_is_sent_once_and_does_not_stop_another(self, pod_stage: Stage) -> None:
        locked = pod_stage.folder / "locked.key"
        locked.write_bytes(pod_stage.key.read_bytes())
        locked.chmod(0o600)
        Stage(pod_stage.service, pod_stage.folder, pod_stage.leaf, locked).encrypt_key("first")
        marks = pod_stage.folder / "asked"
        program = pod_stage.folder / "pin"
        program.write_text(f"#!/bin/sh\necho asked >> {marks}\necho wrong\n")
        program.chmod(0o700)
        uri = f"file:{locked}?pin-source=cmd:{program}"
        add_profile("locked", {**pod_stage.values(), "private-key": uri}, pod_stage.environ())
        with serve_pods(pod_stage, f'{WEB}"team-b/*" = "locked"\n') as pods:
            for account in ("one", "two", "one", "three"):
                status, message = pods.refusal(f"team-b/{account}")
                assert status == 503
                assert f"no credentials for team-b/{account}: " in message
            assert marks.read_text() == "asked\n"
            pods.credentials("team-a/web")
            assert pods.process.process.poll() is None

    @pytest.mark.slow
    @needs_proc
    def test_500_accounts_take_less_than_100_megabytes(self, pod_stage: Stage) -> None:
        lines = "".join(f'"team-{number % 50}/account-{number}" = "p{number}"\n' for number in range(500))
        config = Path(user_file(pod_stage.environ()))
        table = config.read_text()
        config.write_text("\n".join(table.replace("profile.web", f"profile.p{number}") for number in range(500)))
        with serve_pods(pod_stage, f"[accounts]\n{lines}") as pods:
            assert pods.process.process.stderr
            threading.Thread(target=pods.process.process.stderr.read, daemon=True).start()
            statuses: list[int] = []

            def ask(numbers: range) -> None:
                statuses.extend(pods.ask(f"team-{one % 50}/account-{one}").status for one in numbers)

            threads = [threading.Thread(target=ask, args=(range(first, 500, 20),)) for first in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(100)
            assert statuses == [200] * 500
            status = Path(f"/proc/{pods.process.pid}/status").read_text()
            [peak] = re.findall(r"VmHWM:\s+(\d+) kB", status)
            assert int(peak) < 100_000  # 53,000 when this was written.


class TestPolicy:
    @pytest.mark.slow
    def test_unknown_account_is_told_which_line_to_add(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB) as pods:
            problem = "the service account team-a/other has no profile"
            fix = f'add "team-a/other" = "PROFILE" below [accounts] in {pods.policy}'
            assert pods.refusal("team-a/other") == (403, f"{problem}: {fix}")
            assert pod_stage.sessions == 0

    @pytest.mark.slow
    def test_account_that_is_taken_out_has_no_credentials_any_more(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB) as pods:
            pods.credentials("team-a/web")
            pods.write_policy("[accounts]\n")
            pods.until_status("team-a/web", 403)

    @pytest.mark.slow
    def test_account_with_another_profile_has_another_session(self, pod_stage: Stage) -> None:
        add_profile("batch", {**pod_stage.values(), "session-duration": 900}, pod_stage.environ())
        with serve_pods(pod_stage, WEB) as pods:
            first = pods.credentials("team-a/web")
            pods.write_policy(WEB.replace('"web"\n', '"batch"\n'))
            assert pods.until_changed("team-a/web", first)

    @pytest.mark.slow
    def test_profile_that_was_edited_counts_though_the_policy_is_the_same(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB) as pods:
            first = pods.credentials("team-a/web")
            change_profile("web", {"session-duration": 900}, pod_stage.environ())
            assert pods.until_changed("team-a/web", first)

    @pytest.mark.slow
    def test_policy_whose_profile_is_added_later_counts_then(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB) as pods:
            pods.write_policy(f'{WEB}"team-b/web" = "batch"\n')
            pods.until_status("team-a/web", 200)
            pods.until_status("team-b/web", 403)
            pods.process.read_until("there is no profile 'batch'")
            add_profile("batch", pod_stage.values(), pod_stage.environ())
            pods.until_status("team-b/web", 200)
            pods.process.read_until("the policy was read again. Entries: 2, profiles: 2")

    @pytest.mark.slow
    def test_unchanged_profile_keeps_its_sessions(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB) as pods:
            first = pods.credentials("team-a/web")
            pods.write_policy(f'{WEB}"team-a/db" = "web"\n')
            pods.process.read_until("the policy was read again. Entries: 2, profiles: 1")
            pods.credentials("team-a/db")
            assert pods.credentials("team-a/web") == first

    @pytest.mark.slow
    def test_bad_policy_is_reported_and_the_old_one_stays(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB) as pods:
            first = pods.credentials("team-a/web")
            for bad in ("[accounts", f'{WEB}"team-b/web" = "nowhere"\n', "verify = 'never'"):
                pods.write_policy(bad)
                pods.process.read_until("error: the policy did not change, as the new file is bad: ")
                assert pods.credentials("team-a/web") == first

    @pytest.mark.slow
    def test_warning_that_is_an_error_is_reported_and_stops_no_request(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB, "--strict") as pods:
            Path(user_file(pod_stage.environ())).chmod(0o644)
            change_profile("web", {"tpm-key-password": "seen by all"}, pod_stage.environ())
            pods.write_policy(f"{WEB}# again\n")
            for _ in range(3):
                pods.credentials("team-a/web")
                time.sleep(0.1)
            pods.process.read_until("error: the policy did not change, as the new file is bad: ")


class TestWithoutCredentials:
    @pytest.mark.slow
    def test_server_answers_503_while_aws_can_not_be_reached(self, pod_stage: Stage) -> None:
        port = reserve_port()
        add_profile("away", {**pod_stage.values(), "endpoint": f"http://127.0.0.1:{port}"}, pod_stage.environ())
        with serve_pods(pod_stage, '[accounts]\n"team-a/web" = "away"\n') as pods:
            status, message = pods.refusal("team-a/web")
            assert status == 503
            assert f"127.0.0.1:{port}" in message
            pods.process.read_until("error: profile 'away', account team-a/web: no session: ")

    @pytest.mark.slow
    def test_server_starts_before_its_node_is_enrolled(self, pod_stage: Stage) -> None:
        leaf = pod_stage.leaf.rename(pod_stage.folder / "later.pem")
        with serve_pods(pod_stage, WEB) as pods:
            status, message = pods.refusal("team-a/web")
            assert status == 503
            assert f"can't read {pod_stage.leaf}: No such file or directory" in message
            leaf.rename(pod_stage.leaf)
            pods.until_status("team-a/web", 200)

    @pytest.mark.slow
    def test_key_that_hangs_does_not_keep_the_server_from_ending(self, pod_stage: Stage) -> None:
        hanging = """
    from hwsigner._refresh import reopening
    reopening._TimedIdentity.sign = lambda *_: time.sleep(600)
"""
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n', more=hanging) as pods, ExitStack() as stack:
            for account in ("one", "two"):
                client = stack.enter_context(Client(pods.port))
                client.send("GET", "/v1/credentials", {"Authorization": f"team-a/{account}/pod-1/1"})
            assert pods.refusal("team-b/web")[0] == 403  # The others are answered meanwhile.
            assert pods.process.end(signal.SIGTERM) == 0

    @pytest.mark.slow
    def test_refusal_of_the_service_is_of_one_account(self, pod_stage: Stage) -> None:
        pod_stage.service.misbehave(Fault("deny", None))
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n') as pods:
            assert pods.refusal("team-a/web")[0] == 503
            pod_stage.service.clear_faults()
            pods.credentials("team-a/db")

    @pytest.mark.slow
    def test_profile_without_session_names_is_told_what_to_set(self, stage: Stage) -> None:
        with serve_pods(stage, WEB) as pods:
            status, message = pods.refusal("team-a/web")
            assert status == 503
            assert "Set acceptRoleSessionName in the Roles Anywhere profile (serve --pods needs it)" in message

    @pytest.mark.slow
    def test_names_that_the_service_ignores_are_logged_once(self, stage: Stage) -> None:
        stage.service.world.differing.add(Difference.SESSION_NAME_IGNORED)
        try:
            with serve_pods(stage, '[accounts]\n"team-a/*" = "web"\n') as pods:
                pods.credentials("team-a/web")
                pods.credentials("team-a/db")
                pods.process.end(signal.SIGTERM)
                [line] = [one for one in pods.process.lines if "warning: " in one]
                assert "the session for team-a.web.node1 is called arn:aws:sts::" in line
        finally:
            stage.service.world.differing.clear()

    @pytest.mark.slow
    def test_boto3_shows_the_reason(self, pod_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
        with serve_pods(pod_stage, WEB) as pods:
            url = f"http://127.0.0.1:{pods.port}/v1/credentials"
            token = "team-a/other/pod-1/1"
            environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": token}
            with pytest.raises(CredentialRetrievalError, match=r'"team-a/other.* = .*PROFILE'):
                ContainerProvider(environ=environ).load()


class TestMonitoring:
    def test_audit_line_names_the_pod(self, pod_stage: Stage) -> None:
        audit = pod_stage.folder / "audit.log"
        with serve_pods(pod_stage, WEB, f"--audit-log={audit}", "--audit=required") as pods:
            key_id = pods.credentials("team-a/web")["AccessKeyId"]
            pods.credentials("team-a/web", pod="pod-2", uid="2")
            one, other = map(json.loads, audit.read_text().splitlines())
        assert one["pod"], other["pod"] == ("pod-1", "pod-2")
        assert {name: one[name] for name in ("namespace", "service_account", "pod", "node", "profile")} == {
            "namespace": "team-a",
            "service_account": "web",
            "pod": "pod-1",
            "node": "node1",
            "profile": "web",
        }
        assert (one["access_key_id"], one["address"]) == (key_id, "127.0.0.1")
        assert one["session_arn"].endswith("/team-a.web.node1")

    def test_no_credentials_are_given_without_their_audit_line(self, pod_stage: Stage) -> None:
        flags = [f"--audit-log={pod_stage.folder}/audit.log", "--audit=required", "--audit-rate=1"]
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n', *flags) as pods:
            pods.credentials("team-a/web")
            assert pods.ask("team-a/web", pod="pod-2", uid="2").status == 503
            pods.credentials("team-a/db")  # The rate is each account's.

    def test_pod_that_asks_again_and_again_has_one_line_and_is_not_refused(self, pod_stage: Stage) -> None:
        audit = pod_stage.folder / "audit.log"
        with serve_pods(pod_stage, WEB, f"--audit-log={audit}", "--audit=required", "--audit-rate=2") as pods:
            for _ in range(20):
                pods.credentials("team-a/web")
            pods.credentials("team-a/web", pod="pod-2", uid="2")
        assert [json.loads(line)["pod"] for line in audit.read_text().splitlines()] == ["pod-1", "pod-2"]

    @pytest.mark.slow
    def test_log_can_be_json(self, pod_stage: Stage) -> None:
        with serve_pods(pod_stage, WEB, "--log-format=json", "--log-level=debug") as pods:
            pods.credentials("team-a/web")
            pods.process.end(signal.SIGTERM)
            lines = [json.loads(line) for line in pods.process.lines]
        [session] = [one for one in lines if "session created" in one["message"]]
        assert (session["profile"], session["account"]) == ("web", "team-a/web")
        [given] = [one for one in lines if "credentials given" in one["message"]]
        assert (given["namespace"], given["service_account"], given["pod"]) == ("team-a", "web", "pod-1")

    def test_metrics_are_of_profiles_however_many_accounts_there_are(self, pod_stage: Stage) -> None:
        port = reserve_port()
        with serve_pods(pod_stage, '[accounts]\n"team-a/*" = "web"\n', f"--metrics-listen=127.0.0.1:{port}") as pods:
            assert json.loads(_get(port, "/health")) == {"status": "ok", "profiles": 1, "failing": {}}
            for account in ("web", "db"):
                pods.credentials(f"team-a/{account}")
            text = _get(port, "/metrics")
        assert 'hwsigner_sessions_created_total{profile="web"} 2' in text
        assert "team-a" not in text


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
        found: str = response.read().decode()
        return found


class TestCommandLine:
    @pytest.fixture
    def policy(self, stage: Stage) -> Path:
        write_policy(stage.folder / "pods.toml", WEB)
        return stage.folder / "pods.toml"

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            (["web"], "--pods can't be combined with profile names. Map service accounts to them in "),
            (["--imds"], "--imds can't be combined with --pods. "),
            (["--allow-user=root"], "--allow-user can't be combined with --pods. "),
            (["--token-folder=/x"], "--token-folder can't be combined with --pods. "),
            (["--profile=web"], "--profile can't be combined with --pods. "),
            (["--certificate=/x"], "--certificate can't be combined with --pods. "),
            (["--role-arn=x"], "--role-arn can't be combined with --pods. "),
            (["--address=192.0.2.1"], "other machines can reach the address, and there is no TLS. "),
            (["--pods="], "--pods is '': write the path of the policy"),
            (["--node-name=Node1"], "'Node1' can't be the name of a node. Give it as kubectl get nodes shows it"),
            (["--node-name=node1\n"], "'node1\\n' can't be the name of a node. "),
            (["--node-name="], "--pods needs the name of this node. Give --node-name, or set NODE_NAME from "),
        ],
    )
    def test_what_does_not_fit_is_refused_in_a_line(
        self, call: Callable[..., Outcome], policy: Path, arguments: list[str], problem: str
    ) -> None:
        done = call("serve", "--pods", str(policy), "--node-name=node1", "--port=0", *arguments)
        assert done.status == 2
        assert done.err.count("\n") == 1
        assert problem in done.err

    def test_node_name_alone_is_refused(self, call: Callable[..., Outcome]) -> None:
        done = call("serve", "web", "--node-name=node1")
        assert (done.status, "--node-name is given without --pods" in done.err) == (2, True)

    def test_profile_of_the_policy_must_be_there(self, call: Callable[..., Outcome], policy: Path) -> None:
        write_policy(policy, '[accounts]\n"team-a/web" = "wbe"\n')
        done = call("serve", "--pods", str(policy), "--node-name=node1")
        assert done.status == 2
        assert "there is no profile 'wbe'" in done.err
        assert "Did you mean web?" in done.err

    def test_invalid_profile_is_named(self, call: Callable[..., Outcome], stage: Stage, policy: Path) -> None:
        file = Path(user_file(stage.environ()))
        file.write_text(re.sub("^profile-arn = .*", 'profile-arn = "arn"', file.read_text(), flags=re.MULTILINE))
        done = call("serve", "--pods", str(policy), "--node-name=node1")
        assert done.status == 2
        assert "hwsigner: profile 'web': --profile-arn is 'arn', which is not a profile ARN. Use" in done.err

    def test_missing_policy_is_named(self, call: Callable[..., Outcome]) -> None:
        done = call("serve", "--pods", "/nonexistent/pods.toml", "--node-name=node1")
        assert (done.status, "can't read /nonexistent/pods.toml" in done.err) == (2, True)

    def test_profile_of_the_environment_is_ignored(self, pod_stage: Stage) -> None:
        with ExitStack() as stack:
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(
                Stage, "environ", _with(Stage.environ, HWSIGNER_PROFILE="nowhere", NODE_NAME="node1")
            )
            pods = stack.enter_context(serve_pods(pod_stage, WEB))
            pods.credentials("team-a/web")

    @pytest.mark.parametrize(("address", "prefix"), [("169.254.170.23", 32), ("fd00:ec2::23", 128)])
    def test_missing_address_is_an_error_that_says_how_to_add_it(
        self, monkeypatch: pytest.MonkeyPatch, address: str, prefix: int
    ) -> None:
        _fail_to_listen(monkeypatch, OSError(99, "Cannot assign requested address"))
        with pytest.raises(HwsignerError) as caught:
            module._listen([address], 80, 64, is_default=False)
        add = f"ip link add hwsigner type dummy && ip address add {address}/{prefix} dev hwsigner"
        assert caught.value.hint == f"Run {add} && ip link set hwsigner up"

    def test_ipv6_address_may_be_missing_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _fail_to_listen(monkeypatch, OSError(99, "Cannot assign requested address"))
        assert module._listen(["fd00:ec2::23"], 80, 64, is_default=True) == []

    def test_port_80_without_the_right_is_an_error_that_says_what_to_give(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _fail_to_listen(monkeypatch, PermissionError(13, "Permission denied"))
        with pytest.raises(HwsignerError, match=r"CAP_NET_BIND_SERVICE, or give another --port"):
            module._listen(["169.254.170.23"], 80, 64, is_default=True)


def _with(environ: Callable[..., dict[str, str]], **more: str) -> Callable[..., dict[str, str]]:
    return lambda self, **given: environ(self, **more, **given)


def _fail_to_listen(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def create_server(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("hwsigner._serving.listener.socket.create_server", create_server)
