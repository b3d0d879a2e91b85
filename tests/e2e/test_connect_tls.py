# SPDX-License-Identifier: MIT
"""app.connect to wss:// servers: whom it believes, what it shows, and what it says when it does not come about."""
import asyncio
import json
import socket
import ssl
import threading

import pytest
import websockets

from conftest import PATIENCE

# Answers a request with the first text that the other side sends when asked, or with the reason.
DIAL = """
app.post("dial", function(req)
  local o = req:json()
  local heard = app.promise()
  local options = {timeout = o.timeout, tls = o.tls}
  local ws, why = app.connect(o.url, options, function(ws) ws:on_text(function(_, text) heard:resolve(text) end) end)
  if not ws then return 502, why end
  ws:send("facts")
  local text = heard:await()
  ws:close()
  return text
end)
"""

ECHO = """
app.websocket("/", function(ws, req)
  local tls = req.tls or {}
  ws:on_text(function(ws) ws:send(json.encode({name = tls.server_name or "none", version = tls.version or "plain",
                                               client = tls.client and tls.client.subject or "none"})) end)
end)
"""


@pytest.fixture
def dial(serve):
    server = serve(DIAL)

    def ask(url, timeout=PATIENCE, **tls):
        body = json.dumps({"url": url, "timeout": timeout, **({"tls": tls} if tls else {})})
        with server.raw() as client:
            return client.request(f"POST /dial HTTP/1.1\nHost: a\nContent-Type: application/json\n"
                                  f"Content-Length: {len(body)}\n\n{body}")
    ask.server = server
    return ask


def facts(answer):
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def why(answer):
    assert answer.status == 502, answer.body
    return answer.body


def test_believes_who_is_signed_by_its_ca(dial, serve, certs):
    upstream = serve(ECHO, listen=certs.spec())
    got = facts(dial(f"wss://localhost:{upstream.port}/", ca=str(certs.ca())))
    assert got == {"name": "localhost", "version": "TLSv1.3", "client": "none"}


def test_an_address_is_checked_as_one_and_never_sent_as_a_name(dial, serve, certs):
    upstream = serve(ECHO, listen=certs.spec())
    assert facts(dial(f"wss://127.0.0.1:{upstream.port}/", ca=str(certs.ca())))["name"] == "none"


def test_shows_a_certificate_of_its_own(dial, serve, certs):
    upstream = serve(ECHO, listen=certs.spec(ca=certs.ca()))
    pair = certs.pair("alice")
    got = facts(dial(f"wss://localhost:{upstream.port}/", ca=str(certs.ca()), cert=str(pair.cert), key=str(pair.key)))
    assert got["client"].startswith("CN=alice")
    said = why(dial(f"wss://localhost:{upstream.port}/", ca=str(certs.ca())))
    assert "certificate required" in said or "without an answer" in said


def test_verify_false_believes_anybody(dial, serve, certs):
    upstream = serve(ECHO, listen=certs.spec(certs.pair(ca="stranger")))
    assert facts(dial(f"wss://localhost:{upstream.port}/", verify=False))["version"] == "TLSv1.3"


def test_believes_nobody_else(dial, serve, certs):
    wrong_ca = serve(ECHO, listen=certs.spec(certs.pair(ca="stranger")))
    wrong_name = serve(ECHO, listen=certs.spec(certs.pair("elsewhere.example")))
    expired = serve(ECHO, listen=certs.spec(certs.expired()))
    for upstream, reason in ((wrong_ca, "unable to get local issuer certificate"), (wrong_name, "hostname mismatch"),
                             (expired, "certificate has expired")):
        assert why(dial(f"wss://localhost:{upstream.port}/", ca=str(certs.ca()))) == f"TLS with localhost: {reason}"
    assert "TLS with localhost: " in why(dial(f"wss://localhost:{wrong_ca.port}/"))  # those of the system
    assert dial.server.metrics()["tidewire_clients"] == 0


def test_what_is_no_tls_is_told(dial, serve, certs):
    plain = serve(ECHO)
    assert why(dial(f"wss://localhost:{plain.port}/", verify=False)) == "TLS with localhost: wrong version number"
    secure = serve(ECHO, listen=certs.spec())
    assert why(dial(f"ws://localhost:{secure.port}/")) == "the server closed the connection without an answer"
    assert why(dial(f"ws://localhost:{plain.port}/", verify=False)) == "tls is an option for wss:// only"


def test_files_that_are_wrong_are_named(dial, certs):
    assert why(dial("wss://localhost:1/", ca="/nowhere.pem")) == "ca /nowhere.pem: No such file or directory"
    a, b = certs.pair("a"), certs.pair("b")
    assert "it is not the key of the certificate" in why(dial("wss://localhost:1/", cert=str(a.cert), key=str(b.key)))


def test_a_server_that_never_shakes_hands_is_given_up(dial):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        assert why(dial(f"wss://127.0.0.1:{mute.getsockname()[1]}/", timeout=0.3)) == "timed out after 0.3 s"
    dial.server.wait_metric("tidewire_tls_connections", 0)


def test_a_server_that_leaves_in_the_handshake(dial):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def leave():
            with server.accept()[0] as client:
                client.recv(4096)
        thread = threading.Thread(target=leave)
        thread.start()
        said = why(dial(f"wss://127.0.0.1:{server.getsockname()[1]}/"))
        thread.join()
    assert said == "TLS with 127.0.0.1: the peer ended the connection in the handshake"


@pytest.mark.parametrize("options, message", [
    ("{tls = true}", "tls is a boolean, not a table"),
    ("{tls = {ca = 1}}", "tls: ca is a number, not the path of a file"),
    ("{tls = {verify = 'no'}}", "tls: verify is a string, not true or false"),
    ("{tls = {cert = 'a.pem'}}", "tls: cert and key come together"),
    ("{tls = {cafile = 'a.pem'}}", "tls: unknown option cafile; there are ca, cert, key and verify"),
])
def test_misuse_raises(serve, options, message):
    server = serve(f"app.get('/', function() return tostring(select(2, pcall(app.connect, 'wss://a/', {options}, print))) end)")
    with server.raw() as client:
        assert message in client.request("GET / HTTP/1.1\nHost: a\n\n").body


def test_large_messages_both_ways_with_another_implementation(serve, certs):
    """From a server of another kind; 2 MiB is many records."""
    async def echo(ws):
        async for message in ws:
            await ws.send(message)

    async def run():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certs.pair())
        async with websockets.serve(echo, "127.0.0.1", 0, ssl=context, max_size=None) as upstream:
            port = upstream.sockets[0].getsockname()[1]
            server = await asyncio.to_thread(serve, f"""
app.get("/", function()
  local back = app.promise()
  local sent = string.rep("tide", 524288)
  local ws, why = app.connect("wss://localhost:{port}/", {{tls = {{ca = "{certs.ca()}"}}, max_message = "4m",
                              send_limit = "8m"}}, function(ws) ws:on_text(function(_, text) back:resolve(text) end) end)
  if not ws then return why end
  ws:send(sent)
  local same = back:await() == sent
  ws:close()
  return same and "same" or "other"
end)
""")
            def ask():
                with server.raw() as client:
                    return client.request("GET / HTTP/1.1\nHost: a\n\n").body
            return await asyncio.to_thread(ask)
    assert asyncio.run(run()) == "same"
