# SPDX-License-Identifier: MIT
"""The admin listener: what it answers to whom, and that nothing a client does makes it large, slow or silent."""
import http.client
import re
import signal
import socket
import subprocess

import pytest

from conftest import BINARY, PATIENCE, Raw, environment, run

ECHO = 'app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)'
HELLO = 'app.get("hello", function() return "hello" end)'
TOKEN = "Zm9vYmFyLWJhei1xdXV4"
CLIENTS = 64


@pytest.fixture
def admin(serve):
    """admin(script, **options) starts a server with an admin listener; server.admin is (host, port)."""
    def start(source=ECHO, *args, **options):
        options.setdefault("admin", "127.0.0.1:0")
        server = serve(source, *args, **options)
        where = re.search(r"admin listening on (\S+)", server.log).group(1)
        if not where.startswith("unix:"):
            host, port = where.rsplit(":", 1)
            server.admin = (host.strip("[]"), int(port))
        return server
    return start


def connect(server):
    return Raw(socket.create_connection(server.admin, PATIENCE))


def get(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(*server.admin, timeout=PATIENCE)
    try:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        answer.text = answer.read().decode()
        return answer
    finally:
        connection.close()


# ---- what is there ----


def test_metrics_are_prometheus_text(admin):
    server = admin()
    answer = get(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "\ntidewire_generation 1\n" in answer.text


def test_curl_gets_them_too(admin):
    host, port = admin().admin
    done = subprocess.run(["curl", "-sSf", f"http://{host}:{port}/metrics?name=x"], capture_output=True, text=True,
                          timeout=PATIENCE, check=True)
    assert done.stdout.startswith("# HELP ")


def test_health_and_readiness_say_ok(admin):
    server = admin(workers=2)
    health = get(server, "/healthz")
    assert (health.status, health.text) == (200, "ok generation 1, 2 workers, 0 connections\n")
    ready = get(server, "/readyz")
    assert (ready.status, ready.text) == (200, "ok\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/Metrics", "/metricsx", "/%6detrics", "//metrics", "/echo", "/hello"])
def test_anything_else_is_not_found(admin, path):
    assert get(admin(ECHO + "\n" + HELLO), path).status == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(admin, path, method):
    answer = get(admin(), path, method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_has_the_head_of_get(admin, path):  # RFC 9110, 9.3.2
    server = admin()
    with connect(server) as client:
        answer = client.request(f"HEAD {path} HTTP/1.1\nHost: x\n\n")
        again = client.request("GET /healthz HTTP/1.1\nHost: x\n\n")  # so there was no body
    assert again.status == 200
    asked = get(server, path)
    assert (answer.status, answer.headers["content-type"]) == (asked.status, asked.headers["Content-Type"])
    assert int(answer.headers["content-length"]) > 0


def test_the_routes_of_the_script_know_nothing_of_it(admin):
    server = admin()
    with server.raw() as client:
        assert client.request("GET /metrics HTTP/1.1\nHost: x\n\n").status == 404
    assert server.metrics()["tidewire_http_requests_total"] == 1  # and the admin listener's are no requests of it


# ---- the connection ----


def test_a_connection_is_kept(admin):
    with connect(admin()) as client:
        for _ in range(3):
            answer = client.request("GET /healthz HTTP/1.1\nHost: x\n\n")
            assert answer.status == 200 and "connection" not in answer.headers


def test_a_connection_ends_when_the_client_says_so(admin):
    with connect(admin()) as client:
        answer = client.request("GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n")
        assert answer.headers["connection"] == "close"
        client.expect_end()


def test_http_1_0(admin):
    server = admin()
    with connect(server) as client:
        assert client.request("GET /healthz HTTP/1.0\n\n").headers["connection"] == "close"
        client.expect_end()
    with connect(server) as client:
        for _ in range(2):
            answer = client.request("GET /healthz HTTP/1.0\nConnection: keep-alive\n\n")
            assert answer.headers["connection"] == "keep-alive"


def test_requests_in_a_row_are_answered_in_order(admin):
    with connect(admin()) as client:
        client.send("".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in ("/readyz", "/no", "/healthz") * 20))
        assert [client.response().status for _ in range(60)] == [200, 404, 200] * 20


def test_a_request_may_come_in_pieces(admin):
    with connect(admin()) as client:
        for piece in ("GET /read", "yz HTTP/1.1\r\nHost", ": x\r\n\r", "\n"):
            client.send(piece)
        assert client.response().status == 200


def test_what_has_a_body_is_answered_and_is_the_last(admin):
    with connect(admin()) as client:
        client.send("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 49\r\n\r\n"
                    "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        client.expect_end()


def test_a_client_that_has_ended_its_side_gets_its_answer(admin):
    with connect(admin()) as client:
        client.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert "tidewire_generation" in client.response().body


# ---- hostile clients ----


@pytest.mark.parametrize("request_text, status", [
    ("GET /metrics HTTP/1.1\r\n\r\n", 400),  # no Host
    ("GET /metrics\r\n\r\n", 505),  # HTTP/0.9
    ("GET /metrics HTTP/1.1\nHost: x\n\n", 400),
    ("GET /metrics HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
    ("GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("GET /metrics HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
    ("GET /" + "a" * 8192, 431),
    ("GET / HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 2000, 431),
])
def test_a_bad_head_is_refused_and_is_the_last(admin, request_text, status):
    with connect(admin()) as client:
        client.send(request_text.encode("latin-1"))
        answer = client.response()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        client.expect_end()


def test_many_clients_do_not_keep_others_out(admin):
    """There are places for so many; the one that has been quiet for longest makes room."""
    server = admin()
    before = server.metrics()["process_open_fds"]
    clients = [connect(server) for _ in range(3 * CLIENTS)]
    try:
        for client in clients[::2]:
            try:
                client.send("GET /metrics HTTP/1.1\r\nHo")
            except ConnectionError:
                pass  # gone already
        assert get(server, "/healthz").status == 200
        assert server.metrics()["process_open_fds"] <= before + CLIENTS
        try:
            assert clients[0].sock.recv(1) == b""
        except ConnectionResetError:
            pass
    finally:
        for client in clients:
            client.close()


def test_clients_that_do_not_read_do_not_keep_others_out(admin):
    server = admin("for i = 1, 900 do app.get('route/' .. i, function() return '' end) end")  # a long answer
    clients = []
    try:
        for _ in range(2 * CLIENTS):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(PATIENCE)
            sock.connect(server.admin)
            sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            clients.append(sock)
        assert get(server, "/healthz").status == 200
        # what a reader gets is whole, after many writes of a part
        text = get(server, "/metrics").text
        assert text.count('route="/route/900"') == 18 and text.endswith("\n")
    finally:
        for sock in clients:
            sock.close()


# ---- the token ----


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("headers", [
    {}, bearer("wrong"), bearer(""), bearer(TOKEN + "x"), bearer(TOKEN[:-1]), bearer(TOKEN.lower()),
    {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer"}])
def test_metrics_need_the_token(admin, headers):  # RFC 6750, 3
    answer = get(admin(admin_token=TOKEN), "/metrics", **headers)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="tidewire"')
    assert "tidewire_generation" not in answer.text and TOKEN not in answer.text


@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
def test_the_token_opens_the_metrics(admin, value):
    assert get(admin(admin_token=TOKEN), "/metrics", Authorization=value).status == 200


def test_two_tokens_are_none(admin):
    with connect(admin(admin_token=TOKEN)) as client:
        answer = client.request(f"GET /metrics HTTP/1.1\nHost: x\nAuthorization: Bearer {TOKEN}\n"
                                f"Authorization: Bearer {TOKEN}\n\n")
        assert answer.status == 401


def test_without_the_token_nobody_learns_what_there_is(admin):
    server = admin(admin_token=TOKEN)
    assert get(server, "/nothing").status == 401
    assert get(server, "/metrics", "POST").status == 401
    assert get(server, "/nothing", **bearer(TOKEN)).status == 404


def test_health_and_readiness_need_no_token(admin):
    server = admin(admin_token=TOKEN)
    assert get(server, "/healthz").status == 200 and get(server, "/readyz").status == 200


def test_the_token_may_be_in_a_file(admin, tmp_path):
    path = tmp_path / "token"
    path.write_text(f"  {TOKEN}\r\n\n")
    server = admin(admin_token_file=path)
    assert get(server, "/metrics", **bearer(TOKEN)).status == 200
    assert get(server, "/metrics").status == 401


# ---- what is refused at the start ----


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "*:0"])
def test_others_are_not_let_in_without_a_token(tmp_path, address):
    script = tmp_path / "main.lua"
    script.write_text(HELLO)
    done = run(script, "--listen", "127.0.0.1:0", "--admin", address)
    assert done.returncode == 2
    assert re.search(r"admin: \S+ can be reached from other machines.* set admin_token_file .*127\.0\.0\.1", done.stderr)


def test_others_are_let_in_with_one(admin):
    server = admin(admin="0.0.0.0:0", admin_token=TOKEN)
    server.admin = ("127.0.0.1", server.admin[1])
    assert get(server, "/metrics", **bearer(TOKEN)).status == 200


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.1.2.3:0", "localhost:0", "[::1]:0"])
def test_this_machine_needs_no_token(admin, address):
    try:
        family = socket.AF_INET6 if "::" in address else socket.AF_INET
        socket.socket(family).bind(("::1" if "::" in address else "127.0.0.1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    assert get(admin(admin=address), "/metrics").status == 200


def test_a_unix_socket(admin, tmp_path):
    path = tmp_path / "admin.sock"
    server = admin(admin=f"unix:{path}")
    with Raw(socket.socket(socket.AF_UNIX)) as client:
        client.sock.connect(str(path))
        assert "tidewire_generation" in client.request("GET /metrics HTTP/1.1\nHost: x\n\n").body
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("options, words", [
    ({"admin": "127.0.0.1"}, "admin: .*expected ADDRESS:PORT"),
    ({"admin": ""}, "admin: .*expected ADDRESS:PORT"),
    ({"admin": "proxy:127.0.0.1:0"}, "admin: .*for `listen` only"),
    ({"admin": "tls:127.0.0.1:0"}, "admin: .*for `listen` only"),
    ({"admin": "127.0.0.1:0", "admin_token": ""}, "admin_token: the token is empty"),
    ({"admin": "127.0.0.1:0", "admin_token": "two words"}, "admin_token: the token has blanks"),
    ({"admin": "127.0.0.1:0", "admin_token": "x" * 1025}, "admin_token: the token is longer than 1024"),
    ({"admin": "127.0.0.1:0", "admin_token_file": "/nowhere/token"}, "cannot read /nowhere/token: No such file"),
    ({"admin": "127.0.0.1:0", "admin_token_file": "/dev/null"}, "/dev/null: the token is empty"),
    ({"admin": "127.0.0.1:0", "admin_token_file": "/"}, "cannot read /: Is a directory"),
    ({"admin": "127.0.0.1:0", "admin_token_file": "/x", "admin_token": "x"}, "one of them is enough"),
])
def test_what_cannot_be_used_is_told_at_the_start(tmp_path, options, words):
    script = tmp_path / "main.lua"
    script.write_text(HELLO)
    done = run(script, env={"listen": "127.0.0.1:0", **options})
    assert done.returncode == 2 and re.search(words, done.stderr), done.stderr


def test_an_address_in_use_is_told_at_the_start(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text(HELLO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(script, "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 1 and re.search("admin: cannot listen on .*already in use", done.stderr)


def test_it_is_off_by_default(serve):
    assert "admin" not in serve(ECHO).log


# ---- health and readiness over a server's life ----


def test_not_ready_while_the_first_code_loads(tmp_path):
    """The listener is there before the script has loaded, and says so."""
    script = tmp_path / "main.lua"
    script.write_text("while true do end")
    process = subprocess.Popen(
        [BINARY, str(script), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--load-budget",
         str(PATIENCE), "--control", f"{tmp_path}/c"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment())
    try:
        port = int(re.search(r"admin listening on \S+:(\d+)", process.stderr.readline()).group(1))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (503, b"not ready: starting\n")
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_not_ready_from_the_beginning_of_a_stop_on(admin):
    """Load balancers are to send nobody any more; but the server is well, and nobody should kill it."""
    server = admin(close_timeout=PATIENCE, drain_timeout=PATIENCE)
    with server.raw("/echo") as client:
        assert get(server, "/readyz").status == 200
        server.send_signal(signal.SIGTERM)
        client.frame()  # its Close: the server stops, and waits for the answer
        ready = get(server, "/readyz")
        assert (ready.status, ready.text) == (503, "not ready: stopping\n")
        health = get(server, "/healthz")
        assert health.status == 200 and health.text.startswith("ok ")
        assert get(server, "/metrics").status == 200
    assert server.stop(None) == 0


STUCK = """
app.get("stuck", function()
  string.find(("a"):rep(40), ("a-"):rep(39) .. "b")
  return "never"
end)
"""


def test_unhealthy_when_a_worker_does_not_answer(admin):
    server = admin(STUCK, handler_budget="50ms", drain_timeout="100ms")
    server.expected_exit = 1  # that worker cannot be stopped
    with server.raw() as client:
        client.send("GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_log("stuck: ")
        health = get(server, "/healthz")
        assert (health.status, health.text) == (503, "error worker 1 does not answer\n")
        assert get(server, "/metrics").status == 200


def test_it_answers_on_after_reloads(admin):
    server = admin()
    with connect(server) as client:
        for generation in (2, 3):
            assert server.reload(ECHO)
            assert f"generation {generation}," in client.request("GET /healthz HTTP/1.1\nHost: x\n\n").body
