"""Both endpoints over real sockets: what they answer to whom."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess

import pytest

from hwsigner._serving import credentials, imds, peer, server
from hwsigner._system import loopback
from hwsigner.errors import ServiceError
from judges import needs_netlink
from serving.conftest import ROLE, TOKEN, Running, run_server
from serving.connected import NOBODY, PYTHON
from serving.raw import Client, Response

READY = b'{"AccessKeyId": "ASIAREADY"}'
LATER = b'{"AccessKeyId": "ASIALATER"}'
WEB = "/credentials/web"
AUTHORIZED = {"Authorization": TOKEN.decode()}
SECONDS = "X-aws-ec2-metadata-token-ttl-seconds"
CREDENTIALS = f"/latest/meta-data/iam/security-credentials/{ROLE}"


def get_token(client: Client, seconds: str = "60") -> dict[str, str]:
    answer = client.ask("PUT", "/latest/api/token", {SECONDS: seconds})
    assert answer.status == 200
    return {"X-aws-ec2-metadata-token": answer.body.decode()}


def _message(answer: Response) -> str:
    body = json.loads(answer.body)
    assert (body["Code"], body["Message"]) == (body["code"], body["message"])
    assert answer.headers["connection"] == "close"
    message: str = body["message"]
    return message


class TestContainer:
    def test_client_with_the_token_gets_the_credentials(self, client: Client) -> None:
        answer = client.ask("GET", WEB, AUTHORIZED)
        assert (answer.status, answer.body) == (200, READY)
        assert answer.headers == {"content-type": "application/json", "content-length": str(len(READY))}

    @pytest.mark.parametrize("sent", ["", "t", "t" * 42, "t" * 44, "T" * 43, "Bearer " + "t" * 43, "t" * 43 + "\xff"])
    def test_client_without_the_token_gets_401(self, client: Client, running: Running, sent: str) -> None:
        answer = client.ask("GET", WEB, {"Authorization": sent})
        assert answer.status == 401
        assert _message(answer) == "the Authorization header is not the token of this profile"
        assert [line.partition(" GET ")[2] for line in running.log] == [f"{WEB}: 401, {_message(answer)}"]

    def test_token_is_checked_at_each_request(self, client: Client) -> None:
        assert client.ask("GET", WEB, AUTHORIZED).status == 200
        assert client.ask("GET", WEB, {"Authorization": "u" * 43}).status == 401

    @needs_netlink
    def test_imds_token_gets_401(self, client: Client) -> None:
        assert client.ask("GET", WEB, get_token(client)).status == 401

    def test_new_credentials_are_given(self, client: Client, running: Running) -> None:
        assert client.ask("GET", WEB, AUTHORIZED).body == READY
        running.source.ready = b'{"AccessKeyId": "ASIANEXT"}'
        assert client.ask("GET", WEB, AUTHORIZED).body == b'{"AccessKeyId": "ASIANEXT"}'


@needs_netlink
class TestIMDS:
    def test_token_gets_the_role_and_its_credentials(self, client: Client) -> None:
        answer = client.ask("PUT", "/latest/api/token", {SECONDS: "21600", "Content-Length": "0"})
        assert (answer.status, answer.headers[SECONDS.lower()]) == (200, "21600")
        token = {"X-aws-ec2-metadata-token": answer.body.decode()}
        for path in ("/latest/meta-data/iam/security-credentials/", "/latest/meta-data/iam/security-credentials"):
            answer = client.ask("GET", path, token)
            assert (answer.status, answer.body) == (200, ROLE.encode())
            assert 21500 < int(answer.headers[SECONDS.lower()]) <= 21600
        for path in (CREDENTIALS, f"{CREDENTIALS}/"):
            assert client.ask("GET", path, token)[::2] == (200, READY)

    def test_token_s_path_may_end_with_a_slash(self, client: Client) -> None:
        assert client.ask("PUT", "/latest/api/token/", {SECONDS: "60"}).status == 200

    @pytest.mark.parametrize(
        "path", ["/latest/meta-data/iam/security-credentials/", CREDENTIALS, "/latest/meta-data/ami-id"]
    )
    @pytest.mark.parametrize("sent", ["", "0" * 80, TOKEN.decode()])
    def test_client_without_a_token_gets_401(self, client: Client, path: str, sent: str) -> None:
        answer = client.ask("GET", path, {"X-aws-ec2-metadata-token": sent, **AUTHORIZED})
        assert answer.status == 401

    @pytest.mark.parametrize("seconds", ["", "0", "21601", "-1", "1.5", "ten", "9" * 30, "١"])
    def test_token_request_without_1_to_21600_seconds_gets_400(self, client: Client, seconds: str) -> None:
        answer = client.ask("PUT", "/latest/api/token", {SECONDS: seconds.encode().decode("latin-1")})
        assert answer.status == 400
        assert "is not 1 to 21600" in _message(answer)

    def test_token_expires_on_an_open_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = [1000.0]
        monkeypatch.setattr(imds.SessionTokens.__init__, "__defaults__", (lambda: now[0],))
        with run_server() as running, running.client() as client:
            token = get_token(client)
            for moment, status in ((1000, 200), (1059.9, 200), (1060, 401)):
                now[0] = moment
                answer = client.ask("GET", CREDENTIALS, token)
                assert answer.status == status
            assert _message(answer) == "the token has expired"
            for path in ("/latest/meta-data/iam/security-credentials/", "/latest/meta-data/ami-id"):
                with running.client() as other:
                    assert _message(other.ask("GET", path, token)) == "the token has expired"

    def test_another_role_gets_404(self, client: Client) -> None:
        answer = client.ask("GET", f"{CREDENTIALS}x", get_token(client))
        assert (answer.status, _message(answer)) == (404, "there is nothing at this path")

    @pytest.mark.parametrize("error", [errno.ENOENT, errno.EPERM])
    def test_no_token_is_given_when_the_kernel_can_t_tell_the_user(
        self, monkeypatch: pytest.MonkeyPatch, error: int
    ) -> None:
        def find(own: loopback.Address, other: loopback.Address) -> None:
            if error != errno.ENOENT:
                raise OSError(error, os.strerror(error))

        monkeypatch.setattr(loopback, "find_socket", find)
        with run_server() as running:
            for _ in range(2):
                with running.client() as client:
                    answer = client.ask("PUT", "/latest/api/token", {SECONDS: "60"})
                    assert (answer.status, "modprobe tcp_diag" in _message(answer)) == (503, True)
                    assert client.rest() == b""
            with running.client() as client:
                assert client.ask("GET", WEB, AUTHORIZED).status == 200
        reason = "the kernel module tcp_diag is missing" if error == errno.ENOENT else "Operation not permitted"
        once = f"the kernel does not tell which user a client is ({reason}): IMDS requests are refused, and container "
        once += "requests need only their token. Run modprobe tcp_diag"
        assert [line for line in running.log if not line.startswith("refused ")] == [once]

    def test_error_that_may_pass_gives_no_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def find(own: loopback.Address, other: loopback.Address) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(loopback, "find_socket", find)
        with run_server() as running, running.client() as client:
            assert client.ask("GET", WEB, AUTHORIZED).status == 503

    def test_client_that_is_not_found_gets_no_token(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peer, "find_owner", lambda client, server: None)
        with run_server() as running, running.client() as client:
            answer = client.ask("PUT", "/latest/api/token", {SECONDS: "60"})
        assert (answer.status, _message(answer)[:42]) == (403, "the connection is that of another machine ")

    def test_token_is_given_over_ipv6(self) -> None:
        with run_server(address="::1") as running, Client(running.port, "::1") as client:
            for host in ("[::1]", f"[::1]:{running.port}", "localhost"):
                assert client.ask("PUT", "/latest/api/token", {SECONDS: "60", "Host": host}).status == 200


REQUESTS = [
    ("PUT", "/latest/api/token", {SECONDS: "60"}),
    ("GET", CREDENTIALS, {"X-aws-ec2-metadata-token": "collected"}),
    ("GET", "/latest/meta-data/iam/security-credentials/", {"X-aws-ec2-metadata-token": "collected"}),
    ("GET", WEB, AUTHORIZED),
]


@needs_netlink
class TestUsers:
    @pytest.mark.parametrize(("method", "path", "headers"), REQUESTS)
    def test_another_user_gets_403_with_a_collected_token(
        self, monkeypatch: pytest.MonkeyPatch, method: str, path: str, headers: dict[str, str]
    ) -> None:
        monkeypatch.setattr(imds.SessionTokens, "expiry", lambda *_: math.inf)
        with run_server(users={os.geteuid() + 1}) as running, running.client() as client:
            answer = client.ask(method, path, headers)
        assert answer.status == 403
        assert _message(answer) == f"the connection is uid {os.geteuid()}'s; --allow-user would let one in"
        assert len(running.log) == 1

    def test_user_is_asked_for_once_a_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[loopback.Address] = []

        def find(client: loopback.Address, server: loopback.Address) -> int:
            asked.append(client)
            return os.geteuid()

        monkeypatch.setattr(peer, "find_owner", find)
        with run_server() as running:
            with running.client() as client:
                assert {client.ask("GET", WEB, AUTHORIZED).status for _ in range(3)} == {200}
                assert client.ask("GET", CREDENTIALS, get_token(client)).status == 200
            assert len(asked) == 1
            with running.client() as client:
                assert client.ask("GET", WEB, AUTHORIZED).status == 200
            assert len(asked) == 2

    @pytest.mark.root
    @pytest.mark.parametrize(("users", "status"), [({0}, 403), ({0, NOBODY}, 200)])
    @pytest.mark.parametrize(("method", "path", "headers"), [REQUESTS[0], REQUESTS[3]])
    def test_process_of_another_user_is_answered_if_allowed(
        self, users: set[int], status: int, method: str, path: str, headers: dict[str, str]
    ) -> None:
        with run_server(users=users) as running:
            code = """if True:
                import http.client, json, sys
                connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
                connection.request(*sys.argv[2:4], headers=json.loads(sys.argv[4]))
                print(connection.getresponse().status)
            """
            command = [PYTHON, "-I", "-c", code, str(running.port), method, path, json.dumps(headers)]
            done = subprocess.run(command, user=NOBODY, capture_output=True, text=True, timeout=30)
        assert done.stdout == f"{status}\n"
        assert [f"uid {NOBODY}'s" in line for line in running.log] == [True] * (status == 403)


class TestBothEndpoints:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:80", "127.0.0.2", "127.0.0.1.evil.example", "127.0.0.1:1", "localhost."]
    )
    @pytest.mark.parametrize(("method", "path"), [("GET", WEB), ("PUT", "/latest/api/token")])
    def test_foreign_host_gets_403(self, client: Client, running: Running, method: str, path: str, host: str) -> None:
        answer = client.ask(method, path, {"Host": host, SECONDS: "60", **AUTHORIZED})
        assert (answer.status, _message(answer)) == (403, f"the Host header is {host!r}")
        assert len(running.log) == 1

    def test_names_of_the_server_are_accepted_as_host(self, running: Running) -> None:
        for host in ("127.0.0.1", "localhost", "LocalHost", f"localhost:{running.port}"):
            with running.client() as client:
                assert client.ask("GET", WEB, {"Host": host, **AUTHORIZED}).status == 200

    @pytest.mark.parametrize("name", ["Origin", "X-Forwarded-For", "Forwarded"])
    @pytest.mark.parametrize(("method", "path"), [("GET", WEB), ("PUT", "/latest/api/token")])
    def test_request_from_a_web_page_or_proxy_gets_403(self, client: Client, method: str, path: str, name: str) -> None:
        answer = client.ask(method, path, {name: "http://127.0.0.1", SECONDS: "60", **AUTHORIZED})
        assert answer.status == 403
        assert _message(answer) == f"the request has {name.lower()}: it comes from a web page or through a proxy"

    @pytest.mark.parametrize(
        ("method", "path", "allow"),
        [(m, WEB, "GET") for m in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")]
        + [(m, "/latest/api/token", "PUT") for m in ("POST", "GET")]
        + [(m, "/nothing", "GET, PUT") for m in ("POST", "OPTIONS")],
    )
    def test_another_method_gets_405(self, client: Client, method: str, path: str, allow: str) -> None:
        client.send(method, path, {SECONDS: "60", **AUTHORIZED})
        head = client.rest().split(b"\r\n")
        assert head[0] == b"HTTP/1.1 405 Method Not Allowed"
        assert f"allow: {allow}".encode() in head

    @pytest.mark.parametrize(
        "path", ["/", "/credentials", "/credentials/", "/credentials/db", "//credentials/web", "/x/../credentials/web"]
    )
    def test_another_path_gets_404(self, client: Client, path: str) -> None:
        answer = client.ask("GET", path, AUTHORIZED)
        assert (answer.status, _message(answer)) == (404, "there is nothing at this path")

    def test_query_is_ignored(self, client: Client) -> None:
        assert client.ask("GET", f"{WEB}?x=1", AUTHORIZED).status == 200

    def test_refusal_of_control_characters_is_one_log_line(self, client: Client, running: Running) -> None:
        client.ask("GET", "/%1b[31m%0aforged%00")
        assert len(running.log) == 1
        assert "1b" not in running.log[0]  # Decoded; the log escapes it: see test_log.py.

    def test_unexpected_error_gets_500_and_is_not_shown(self, client: Client, running: Running) -> None:
        running.source.ready = ValueError("a secret")
        answer = client.ask("GET", WEB, AUTHORIZED)
        assert (answer.status, _message(answer)) == (500, "internal error: ValueError")
        assert [line.partition(": ")[2] for line in running.log] == ["500, internal error: ValueError"]


class TestWithoutCredentials:
    def test_request_waits_for_the_first_credentials(self, client: Client, running: Running) -> None:
        running.source.ready = None
        assert client.ask("GET", WEB, AUTHORIZED)[::2] == (200, LATER)

    def test_failure_gets_503_with_the_reason(self, client: Client, running: Running) -> None:
        running.source.ready, running.source.later = None, ServiceError("the service said no", "Ask it why")
        answer = client.ask("GET", WEB, AUTHORIZED)
        assert answer.status == 503
        assert _message(answer) == "no credentials for web: the service said no. Ask it why"
        assert running.log == [f"refused 127.0.0.1:{client.sock.getsockname()[1]} GET {WEB}: 503, {_message(answer)}"]

    def test_unexpected_error_gets_503_and_is_not_shown(self, client: Client, running: Running) -> None:
        running.source.ready, running.source.later = None, ValueError("a secret")
        answer = client.ask("GET", WEB, AUTHORIZED)
        assert (answer.status, _message(answer)) == (503, "no credentials for web: internal error: ValueError")

    @needs_netlink
    def test_waiting_requests_cause_one_call_and_others_are_answered_meanwhile(self, running: Running) -> None:
        running.source.ready = None
        running.source.may_answer.clear()
        clients = [running.client() for _ in range(200)]
        for client in clients:
            client.send("GET", WEB, AUTHORIZED)
        with running.client() as other:
            assert other.ask("GET", WEB).status == 401
            assert other.rest() == b""
        with running.client() as other:
            assert get_token(other)
        running.source.may_answer.set()
        assert {client.receive()[::2] for client in clients} == {(200, LATER)}
        assert running.source.asked == 1
        for client in clients:
            client.sock.close()

    def test_request_waits_for_a_limited_time(
        self, client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(credentials, "WAIT_SECONDS", 0.05)
        running.source.ready = None
        running.source.may_answer.clear()
        answer = client.ask("GET", WEB, AUTHORIZED)
        assert (answer.status, _message(answer)) == (503, "no credentials for web: none came within 0.05 s")

    def test_waiting_request_is_answered_when_the_server_is_stopped(self) -> None:
        with run_server() as running:
            running.source.ready = None
            running.source.may_answer.clear()
            with running.client() as client, running.client() as other:
                client.send("GET", WEB, AUTHORIZED)
                assert other.ask("GET", WEB).status == 401  # The request before has been read by now.
                running.server.stop()
                running.source.may_answer.set()
                answer = client.receive()
                assert (answer.status, answer.body) == (200, LATER)
                assert client.rest() == b""

    def test_waiting_request_is_refused_when_the_server_is_stopped_and_the_credentials_are_late(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "DRAIN_SECONDS", 0.05)
        with run_server() as running, running.client() as client, running.client() as other:
            running.source.ready = None
            running.source.may_answer.clear()
            client.send("GET", WEB, AUTHORIZED)
            assert other.ask("GET", WEB).status == 401  # The request before has been read by now.
            running.server.stop()
            answer = client.receive()
            assert (answer.status, _message(answer)) == (503, "the server is being stopped")

    def test_server_ends_at_once_when_no_request_is_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "DRAIN_SECONDS", 1000)
        with run_server() as running, running.client() as idle, running.client() as unfinished:
            assert idle.ask("GET", WEB, AUTHORIZED).status == 200
            unfinished.sock.sendall(b"GET /")
            running.server.stop()
            assert (idle.rest(), unfinished.rest()) == (b"", b"")
