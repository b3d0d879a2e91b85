# SPDX-License-Identifier: MIT
"""app.connect: what it asks a server for, what it returns, when its function runs (RFC 6455, 4.1)."""
import base64
import re

import pytest

from conftest import CLOSE, PING, PONG, TEXT, close_payload, frame, run
from migrating import ask, tell
from upstream import CLIENTS, DIAL, FAILED, OPENED, Upstream, accept_of, free_port, library, said


@pytest.fixture
def upstream():
    u = Upstream()
    yield u
    u.close()


def dialled(server, upstream, options="{}", url=None):
    """A client of /run that has called dial, and the request that arrived."""
    client = server.raw("/run")
    tell(client, f"return dial('{url or upstream.url}', {options})")
    return client, upstream.accept().ask()


def failed(server, count=1):
    """So many attempts have failed, and nothing of them is left."""
    server.wait_metric(FAILED, count)
    server.wait_metric(CLIENTS, 0)
    server.wait_metric("tidewire_tasks", 0)


# ---- what it returns ----


def test_it_returns_an_open_websocket(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    assert server.metrics()[CLIENTS] == 1
    peer.switch()
    assert client.text() == "open"
    assert ask(client, "return C.is_closed, math.type(C.id), C.id ~= ws.id, C.close_code, C.migrated, C.generation, "
                       "C.protocol, C.buffered") == "false integer true nil false 1 nil 0"
    metrics = server.metrics()
    assert (metrics[CLIENTS], metrics[OPENED], metrics[FAILED]) == (1, 1, 0)
    assert metrics["tidewire_websockets"] == 1  # the one that clients have opened


def test_a_client_has_an_address_and_a_state_but_no_request_and_no_params(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    peer.switch()
    assert client.text() == "open"
    assert ask(client, "C.state.n = 1 return C.remote_address, C.request, C.params, C.state.n") == "127.0.0.1 nil nil 1"
    peer.close()
    server.wait_log("client closed <1006 >")
    assert ask(client, "return C.remote_address, C.request, C.params, C.state.n") == "nil nil nil 1"


BAD_URLS = {
    "": 'bad URL "": it must begin with ws:// or wss://',
    "example.com/chat": 'bad URL "example.com/chat": it must begin with ws:// or wss://',
    "ftp://example.com/": 'bad URL "ftp://example.com/": it must begin with ws:// or wss://',
    "file:///etc/passwd": 'bad URL "file:///etc/passwd": it must begin with ws:// or wss://',
    "ws:example.com": 'bad URL "ws:example.com": it must begin with ws:// or wss://',
    "ws://": "bad URL: it has no host",
    "ws:///chat": "bad URL: it has no host",
    "ws://host:99999/": "bad URL: ",
    "ws://host:0/": "bad URL: port 0",
    "ws://host:x/": "bad URL: ",
    "ws://[::1/": "bad URL: ",
    "ws://host/#part": "bad URL: a WebSocket's has no fragment ('#')",  # RFC 6455, 3
    "ws://host/a b": "bad URL: it has a blank; write it as %20",
    "ws://a%0d%0ab/": "bad URL: ",
    "ws://bücher.example/": "bad URL: the host is not ASCII; write it in its form that begins with xn--",
    "ws://a%3Ab:c@host/": "bad URL: its user name or password cannot be sent as Basic credentials (RFC 7617)",
}


def test_a_bad_url_gives_nil_and_a_message(serve):
    server = serve(DIAL)
    with server.raw("/run") as client:
        for url, why in BAD_URLS.items():
            assert ask(client, f"return dial([==[{url}]==])").startswith(why), url
        assert ask(client, r"return dial('ws://host/\r\nX: y')").startswith("bad URL: ")
        metrics = server.metrics()
        assert (metrics[CLIENTS], metrics[OPENED], metrics[FAILED]) == (0, 0, 0)  # nothing was tried


def test_a_port_that_refuses_gives_nil_and_a_message(serve):
    server = serve(DIAL)
    held, port = free_port()
    with held, server.raw("/run") as client:
        assert ask(client, f"return dial('ws://127.0.0.1:{port}/')") == \
            f"connect to 127.0.0.1:{port}: Connection refused"
        failed(server)


def test_a_name_that_cannot_be_resolved_gives_nil_and_a_message(serve):
    server = serve(DIAL)
    name = "x" * 60 + "." + "y" * 60 + "." + "z" * 60 + ".invalid"  # RFC 6761, 6.4: nobody's
    with server.raw("/run") as client:
        assert ask(client, f"return dial('ws://{name}/')") == f"{name}: could not be resolved"
        failed(server)


HEAD = ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: {accept}\r\n")
ANSWERS = {
    "404": ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the server answered 404 Not Found"),
    "403 with a body": ("HTTP/1.1 403 Go away\r\nContent-Length: 3\r\n\r\nno!", "the server answered 403 Go away"),
    "200": ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "the server answered 200 OK"),
    "a status without a phrase": ("HTTP/1.1 503\r\n\r\n", "the server answered 503"),
    "a redirect": ("HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n",
                   "the server redirects to ws://127.0.0.1:1/ (302); redirects are not followed"),
    "a phrase with control bytes": ("HTTP/1.1 400 a\tb\xff\r\n\r\n", "the server answered 400 a?b?"),
    "HTTP/1.0": (HEAD.replace("1.1", "1.0", 1) + "\r\n", "the server answered in HTTP/1.0"),
    "no Upgrade": (HEAD.replace("Upgrade: websocket\r\n", "") + "\r\n", "the answer's Upgrade is not \"websocket\""),
    "another Upgrade": (HEAD.replace("websocket\r\n", "h2c\r\n") + "\r\n", "the answer's Upgrade is not \"websocket\""),
    "no Connection": (HEAD.replace("Connection: Upgrade\r\n", "") + "\r\n",
                      "the answer's Connection does not say \"upgrade\""),
    "no Accept": (HEAD.replace("Sec-WebSocket-Accept: {accept}\r\n", "") + "\r\n",
                  "the answer's Sec-WebSocket-Accept is missing"),
    "a wrong Accept": (HEAD.replace("{accept}", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") + "\r\n",
                       "the answer's Sec-WebSocket-Accept is wrong"),
    "a protocol that was not offered": (HEAD + "Sec-WebSocket-Protocol: other\r\n\r\n",
                                        "the server chose the protocol \"other\", which was not offered"),
    "an unknown extension": (HEAD + "Sec-WebSocket-Extensions: x-mine\r\n\r\n", "extension"),
    "permessage-deflate, not offered": (HEAD + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "extension"),
    "a folded line": (HEAD + "X: a\r\n b\r\n\r\n", "the server's answer is malformed"),
    "line feeds alone": (HEAD.replace("\r", "") + "\n", "the server's answer is malformed"),
    "no HTTP": ("SSH-2.0-OpenSSH_9.2\r\n", "the server does not speak HTTP/1.1 on this port"),
    "five interim answers": ("HTTP/1.1 100 Continue\r\n\r\n" * 5, "the server sent more than 4 interim answers"),
    "a head that is too long": (HEAD + "X: " + "y" * 20000,
                                "the head of the server's answer is longer than 16384 bytes"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_any_other_answer_than_the_right_101_gives_nil_and_a_message(serve, upstream, answer):  # RFC 6455, 4.1
    server = serve(DIAL)
    client, peer = dialled(server, upstream, "{protocols = {'chat'}}")
    data, why = ANSWERS[answer]
    peer.send(data.replace("{accept}", accept_of(peer.field("sec-websocket-key"))).encode("latin-1"))
    said_why = client.text()
    assert said_why == why or (why == "extension" and "extension" in said_why.lower()), said_why
    peer.expect_gone()
    failed(server)


def test_interim_answers_are_passed_over(serve, upstream):  # RFC 9110, 15.2
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    peer.switch()
    assert client.text() == "open"


def test_an_answer_may_arrive_byte_by_byte(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    whole = b"".join(peer_bytes(peer))
    server.send_apart(peer, *(whole[i:i + 1] for i in range(len(whole))))
    assert client.text() == "open"
    server.wait_log("client text <early>")


def peer_bytes(peer):
    """The pieces that Peer.switch would send, with a message behind them."""
    sent = []
    peer.send = sent.append
    peer.switch(behind=frame(TEXT, "early", mask=None))
    del peer.send
    return sent


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: web"], ids=["nothing", "a part"])
def test_silence_ends_at_the_timeout(serve, upstream, sent):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, "{timeout = '200ms'}")
    peer.send(sent)
    assert client.text() == "timed out after 0.2 s"
    peer.expect_end()
    failed(server)


def test_connect_timeout_of_the_configuration_is_the_default(serve, upstream):
    server = serve(DIAL, connect_timeout=0.15)
    client, peer = dialled(server, upstream)
    assert client.text() == "timed out after 0.15 s"
    peer.expect_end()


def test_after_the_timeout_has_been_met_it_does_not_count_any_more(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, "{timeout = 0.3}")
    peer.switch()
    assert client.text() == "open"
    # a later attempt that nobody answers has the same time: when that is over, so is the first one's
    later = f"local _, why = app.connect('{upstream.url}', {{timeout = 0.3}}, hear) return why .. tostring(C.is_closed)"
    assert ask(client, later) == "timed out after 0.3 sfalse"
    peer.send_frame(TEXT, "late")
    server.wait_log("client text <late>")


@pytest.mark.parametrize("sent, where", [(b"", "without an answer"),
                                         (b"HTTP/1.1 101 S", "in the middle of its answer")], ids=["nothing", "a part"])
def test_the_end_of_the_stream_gives_nil_and_a_message(serve, upstream, sent, where):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    peer.send(sent)
    peer.close()
    assert client.text() == f"the server closed the connection {where}"
    failed(server)


TIDEWIRE = DIAL + """
app.websocket("/no", {should_upgrade = function() return false, 401, "who?" end}, function() end)
app.websocket("/page", {origins = "https://example.com"}, function() end)
app.websocket("/chat", {protocols = {"v2", "v1"}}, function(ws, req)
  local user = tostring(req.headers.authorization)
  ws:send(tostring(ws.protocol) .. " " .. user .. " " .. req.path .. "?" .. req.query_string)
end)
app.get("/plain", function() return "text" end)
app.get("/away", function() return 301, "", {Location = "/echo"} end)
"""


def test_what_tidewire_itself_answers(serve):
    server = serve(TIDEWIRE)
    with server.raw("/run") as client:
        for path, why in {"none": "404 Not Found", "no": "401 Unauthorized", "plain": "200 OK"}.items():
            assert ask(client, f"return dial('{server.url('/')}{path}')") == f"the server answered {why}"
        for origin, result in [("example.org", "the server answered 403 Forbidden"), ("example.com", "open")]:
            headers = f"{{headers = {{Origin = 'https://{origin}'}}}}"
            assert ask(client, f"return dial('{server.url('/page')}', {headers})") == result
        assert ask(client, f"return dial('{server.url('/away')}')") == \
            "the server redirects to /echo (301); redirects are not followed"
        url = server.url("/chat?a=b").replace("//", "//ann:tea%20pot@")
        assert ask(client, f"return dial('{url}', {{protocols = {{'v1', 'v2'}}}})") == "open"
        server.wait_log(r"client text <v2 Basic YW5uOnRlYSBwb3Q= /chat\?a=b>")
        assert ask(client, "return C.protocol") == "v2"


# ---- what it asks for ----


def test_the_request_is_the_one_of_rfc_6455_4_1(serve, upstream):
    server = serve(DIAL)
    _, peer = dialled(server, upstream, url=upstream.url + "chat/a%2Fb?x=1&y=%20")
    assert peer.line == "GET /chat/a%2Fb?x=1&y=%20 HTTP/1.1"
    fields = dict(peer.fields)
    key = fields.pop("sec-websocket-key")
    assert len(base64.b64decode(key, validate=True)) == 16
    agent = fields.pop("user-agent")
    assert fields == {"host": f"127.0.0.1:{upstream.port}", "upgrade": "websocket", "connection": "Upgrade",
                      "sec-websocket-version": "13"}
    assert agent == "tidewire/" + run("version").stdout.split()[1]
    assert len(peer.fields) == 6


def test_each_request_has_another_key(serve, upstream):
    server = serve(DIAL)
    keys = {dialled(server, upstream)[1].field("sec-websocket-key") for _ in range(5)}
    assert len(keys) == 5


def test_http_urls_mean_the_same_and_the_path_may_be_missing(serve, upstream):  # WHATWG WebSockets, 3.1
    server = serve(DIAL)
    for url, line in [(f"http://127.0.0.1:{upstream.port}", "GET / HTTP/1.1"),
                      (f"WS://127.0.0.1:{upstream.port}?q", "GET /?q HTTP/1.1"),
                      (f"ws://127.0.0.1:{upstream.port}/?", "GET / HTTP/1.1")]:
        _, peer = dialled(server, upstream, url=url)
        assert peer.line == line


def test_bytes_beyond_ascii_in_path_and_query_are_encoded(serve, upstream):
    server = serve(DIAL)
    _, peer = dialled(server, upstream, url=upstream.url + "caf\u00e9?q=\u00fc")
    assert peer.line.lower() == "get /caf%c3%a9?q=%c3%bc http/1.1"


def test_headers_that_are_given_are_sent_and_replace_the_servers_own(serve, upstream):
    server = serve(DIAL)
    _, peer = dialled(server, upstream, """{headers = {Origin = "https://example.com", Host = "inner.example",
        Authorization = "Bearer tea", ["user-agent"] = "mine/1", Cookie = "a=1; b=2", ["X-Empty"] = ""}}""",
                      url=upstream.url.replace("//", "//ann:tea@"))
    assert peer.field("origin") == "https://example.com"
    assert peer.field("host") == "inner.example"
    assert peer.field("authorization") == "Bearer tea"
    assert peer.field("user-agent") == "mine/1"
    assert peer.field("cookie") == "a=1; b=2"
    assert peer.field("x-empty") == ""


@pytest.mark.parametrize("user, coded", [("ann:tea", b"ann:tea"), ("ann", b"ann:"), (":tea", b":tea"),
                                         ("a%40b:c%2Fd%3A", b"a@b:c/d:")])
def test_user_and_password_of_the_url_become_basic_credentials(serve, upstream, user, coded):  # RFC 7617
    server = serve(DIAL)
    _, peer = dialled(server, upstream, url=upstream.url.replace("//", f"//{user}@"))
    assert peer.field("authorization") == "Basic " + base64.b64encode(coded).decode()
    assert peer.field("host") == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("headers, why", [
    ('Upgrade = "x"', 'header "Upgrade" belongs to the handshake and cannot be given'),
    ('["sec-websocket-KEY"] = "x"', 'header "sec-websocket-KEY" belongs to the handshake and cannot be given'),
    ('["Content-Length"] = "5"', 'header "Content-Length" belongs to the handshake and cannot be given'),
    ('["X Y"] = "x"', 'header "X Y" has a name that is not a token (RFC 9110, 5.6.2)'),
    ('["X:"] = "x"', 'header "X:" has a name that is not a token (RFC 9110, 5.6.2)'),
    ('[""] = "x"', 'header "" has a name that is not a token (RFC 9110, 5.6.2)'),
    ('X = "a\\r\\nY: b"', 'header "X" has a control character in its value'),
    ('X = "a\\0b"', 'header "X" has a control character in its value'),
])
def test_a_header_that_cannot_be_sent_gives_nil_and_a_message(serve, upstream, headers, why):
    server = serve(DIAL)
    with server.raw("/run") as client:
        assert ask(client, f"return dial('{upstream.url}', {{headers = {{{headers}}}}})") == why
        assert server.metrics()[CLIENTS] == 0


def test_protocols_are_offered_in_order_and_the_chosen_one_is_told(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, '{protocols = {"v2", "v1", "V1"}}')
    assert peer.field("sec-websocket-protocol") == "v2, v1, V1"
    peer.switch("Sec-WebSocket-Protocol: v1")
    assert client.text() == "open"
    assert ask(client, "return C.protocol") == "v1"
    client, peer = dialled(server, upstream, '{protocols = "only"}')
    assert peer.field("sec-websocket-protocol") == "only"
    peer.switch()  # it need not choose one
    assert client.text() == "open"
    assert ask(client, "return C.protocol") == "nil"


def test_compression_is_offered_only_when_it_is_on(serve, upstream):
    server = serve(DIAL)
    assert dialled(server, upstream)[1].field("sec-websocket-extensions") is None
    offer = dialled(server, upstream, "{compression = true}")[1].field("sec-websocket-extensions")
    assert offer.startswith("permessage-deflate")
    server = serve(DIAL, compression="true")
    assert dialled(server, upstream)[1].field("sec-websocket-extensions") == offer
    assert dialled(server, upstream, "{compression = false}")[1].field("sec-websocket-extensions") is None


# ---- what raises ----


@pytest.mark.parametrize("arguments, why", [
    ("", "bad argument #1 to 'connect' (string expected, got no value)"),
    ("{}, print", "bad argument #1 to 'connect' (string expected, got table)"),
    ("'ws://a\\0b/', print", "bad argument #1 to 'connect' (the URL has a zero byte)"),
    ("URL", "bad argument #2 to 'connect' (function expected, got no value)"),
    ("URL, 'x'", "bad argument #2 to 'connect' (function expected, got string)"),
    ("URL, {}", "bad argument #3 to 'connect' (function expected, got no value)"),
    ("URL, print, {}", "app.connect: expected (url, [options,] function), got 3 arguments"),
    ("URL, {max_mesage = 1}, print", "app.connect: unknown option max_mesage; there are close_timeout, "),
    ("URL, {origins = '*'}, print", "app.connect: origins cannot be set here"),
    ("URL, {should_upgrade = print}, print", "app.connect: unknown option should_upgrade; there are "),
    ("URL, {'x'}, print", "app.connect: every option has a name, as in {timeout = 5}"),
    ("URL, {timeout = 'soon'}, print", "app.connect: "),
    ("URL, {timeout = 0}, print", "app.connect: "),
    ("URL, {timeout = {}}, print", "app.connect: timeout cannot be a table"),
    ("URL, {max_message = true}, print", "app.connect: max_message cannot be a boolean"),
    ("URL, {on_slow = 'wait'}, print", "app.connect: "),
    ("URL, {headers = 'X: y'}, print", "app.connect: headers is a string, not a table"),
    ("URL, {headers = {'X: y'}}, print", "app.connect: headers is a table of strings by name, as in "),
    ("URL, {headers = {X = 1}}, print", "app.connect: headers is a table of strings by name, as in "),
    ("URL, {headers = MANY}, print", "app.connect: more than 100 headers"),
    ("URL, {protocols = {1}}, print", "app.connect: protocols: an element is a number, not a string"),
    ("URL, {protocols = {a = 'b'}}, print", "app.connect: protocols is a list, as in {\"one\", \"two\"}"),
    ("URL, {protocols = 'a b'}, print", 'app.connect: protocols: "a b": not a name that a protocol can have'),
])
def test_misuse_raises_with_the_scripts_line(serve, upstream, arguments, why):
    server = serve(DIAL + f"URL = '{upstream.url}' MANY = {{}} for i = 1, 101 do MANY['X' .. i] = 'y' end")
    with server.raw("/run") as client:
        assert ask(client, f"\nreturn app.connect({arguments})").startswith("error: code:2: " + why)
        assert server.metrics()[CLIENTS] == 0
        assert ask(client, "collectgarbage() return 1") == "1"


def test_with_a_colon_it_raises(serve):
    server = serve(DIAL)
    with server.raw("/run") as client:
        assert ask(client, "return app:connect('ws://x/', print)").startswith("error: code:1: app.connect")


@pytest.mark.parametrize("around", ["{}", "pcall(function() error((select(2, pcall(function() {} end))), 0) end) {}",
                                    "coroutine.wrap(function() {} end)()"], ids=["plain", "pcall", "coroutine"])
def test_while_the_script_loads_it_raises(tmp_path, around):
    script = tmp_path / "main.lua"
    script.write_text("\n" + around.replace("{}", "app.connect('ws://127.0.0.1:1/', function() end)"))
    tried = run("check", script)
    assert tried.returncode == 1
    assert re.search(r"main\.lua:2: app\.connect cannot be called while the script loads", tried.stderr), tried.stderr


@pytest.mark.parametrize("where", ["table.sort({2, 1}, function() CALL end)", "('x'):gsub('x', function() CALL end)",
                                   "tostring(setmetatable({}, {__tostring = function() CALL return '' end}))"])
def test_where_nothing_can_wait_it_raises_and_nothing_is_left(serve, upstream, where):
    server = serve(DIAL)
    call = f"app.connect('{upstream.url}', print)"
    with server.raw("/run") as client:
        assert ask(client, where.replace("CALL", call)).startswith("error: code:1: app.connect: cannot wait here")
        server.wait_metric(CLIENTS, 0)
        assert ask(client, f"return dial('{server.url('/echo')}')") == "open"


# ---- the function ----

EARLY = frame(TEXT, "one", mask=None) + frame(PING, b"p", mask=None) + frame(TEXT, "two", mask=None)


def test_the_function_runs_before_what_came_with_the_101_is_handled(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    peer.switch(behind=EARLY)
    assert client.text() == "open"
    server.wait_log("client text <two>")
    assert said(server) == ["text <one>", "ping <p>", "text <two>"]
    assert peer.frame() == (PONG, b"p")


def test_a_close_that_came_with_the_101_is_told(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    peer.switch(behind=frame(TEXT, "one", mask=None) + frame(CLOSE, close_payload(3000, b"bye"), mask=None))
    assert client.text() == "open"
    assert peer.frame() == (CLOSE, close_payload(3000))
    peer.close()
    server.wait_log("client closed <3000 bye>")
    assert said(server) == ["text <one>", "closed <3000 bye>"]
    server.wait_metric(CLIENTS, 0)


def test_the_end_that_came_with_the_101_is_told(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream)
    peer.switch(behind=frame(TEXT, "one", mask=None))
    peer.close()
    assert client.text() == "open"
    server.wait_log("client closed <1006 >")
    assert said(server) == ["text <one>", "closed <1006 >"]
    server.wait_metric(CLIENTS, 0)


def test_the_function_may_wait_and_messages_wait_meanwhile(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, "{}, function(c) hear(c) c:on_ping(nil) c:send('a') log.info('waits') "
                           "pass('go') c:send('b') log.info('client ready') end")
    peer.switch(behind=EARLY)
    server.wait_log("waits")
    assert client.text() == "open"
    assert [peer.frame(), peer.frame()] == [(TEXT, b"a"), (PONG, b"p")]
    peer.send_frame(TEXT, "three")
    assert said(server) == []
    assert ask(client, "open('go') return 1") == "1"
    assert peer.frame() == (TEXT, b"b")
    server.wait_log("client text <three>")
    assert said(server) == ["ready", "text <one>", "text <two>", "text <three>"]


def test_the_function_gets_the_websocket_that_is_returned(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, "{}, function(c) FIRST = c c.state.n = 5 end")
    peer.switch()
    assert client.text() == "open"
    assert ask(client, "return C == FIRST, C.state.n") == "true 5"


@pytest.mark.parametrize("wait", ["", "app.sleep(0) "], ids=["at once", "after waiting"])
def test_an_error_in_the_function_closes_with_1011_and_is_logged_with_its_line(serve, upstream, wait):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, f"{{}}, function(c) hear(c) {wait}\nerror('on purpose') end")
    peer.switch(behind=EARLY)
    answer = client.text()
    assert answer == ("open" if wait else "the function that was to set up the WebSocket failed")
    while (got := peer.frame()) == (PONG, b"p"):
        pass
    assert got == (CLOSE, close_payload(1011, b"internal error"))
    server.wait_log("error .*code:2: on purpose\n.*traceback")
    server.wait_log("client closed <1011 >")
    assert not [what for what in said(server) if what.startswith("text")]
    peer.close()
    server.wait_metric(CLIENTS, 0)
    assert ask(client, "return 'alive'") == "alive"


def test_a_function_over_its_budget_closes_with_1011(serve, upstream):
    server = serve(DIAL, handler_budget=0.2)
    client, peer = dialled(server, upstream, "{}, function(c) while true do end end")
    peer.switch()
    assert client.text() == "the function that was to set up the WebSocket failed"
    assert peer.frame() == (CLOSE, close_payload(1011, b"internal error"))


def test_the_function_may_close(serve, upstream):
    server = serve(DIAL)
    client, peer = dialled(server, upstream, "{}, function(c) hear(c) c:close(3333, 'no thanks') end")
    peer.switch(behind=EARLY)
    assert client.text() == "open"
    assert ask(client, "return C.is_closed, C:send('x')") == "true nil closed"
    peer.answer_close(3333, b"no thanks")
    server.wait_log("client closed <3333 >")
    assert said(server) == ["closed <3333 >"]


def test_the_function_may_connect_in_turn(serve):
    server = serve(DIAL)
    with server.raw("/run") as client:
        assert ask(client, f"""return dial('{server.url("/echo")}', {{}}, function(c)
            hear(c, "outer")
            INNER = app.connect('{server.url("/echo")}', function(d) hear(d, "inner") d:send("in") end)
            c:send("out") INNER:send("twice") end)""") == "open"
        server.wait_log("inner text <twice>")
        server.wait_log("outer text <out>")
        assert server.metrics()[CLIENTS] == 2


def test_what_python_websockets_answers(serve):
    async def handler(ws):
        async for message in ws:
            await ws.send(message)
    with library(handler, subprotocols=["b", "a"]) as url:
        server = serve(DIAL)
        with server.raw("/run") as client:
            assert ask(client, f"return dial('{url}', {{protocols = {{'a', 'b'}}}})") == "open"
            assert ask(client, "C:send('hello') C:send({1, 2, 3}) return C.protocol") in "a b"
            server.wait_log("client text <hello>(.|\n)*client binary 3")
            assert ask(client, "C:close(1000, 'done') return C.is_closed") == "true"
            server.wait_log("client closed <1000 done>")
        server.wait_metric(CLIENTS, 0)
