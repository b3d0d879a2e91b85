# SPDX-License-Identifier: MIT
"""What goes through TLS: WebSocket messages and HTTP of all sizes, both ways, slow readers, ends, reloads, stopping, and the
clients that people use."""
import asyncio
import os
import random
import socket
import subprocess
import threading
import time
from ssl import TLSVersion

import pytest
import websockets

from conftest import BINARY_OP, CLOSE, PATIENCE, PING, PONG, TEXT, close_payload, frame, not_under_tsan
from test_clients import BROWSER_ECHO, open_browser, page  # noqa: F401
from test_limits import measured, resident  # noqa: F401

VERSIONS = pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
KIB, MIB = 1 << 10, 1 << 20

SITE = """
app.websocket("echo", {max_message = 8388608, send_limit = 16777216, origins = "*"}, function(ws)
  ws:on_text(function(ws, text) ws:send(text) end)
  ws:on_binary(function(ws, bytes) ws:send_binary(bytes) end)
end)
app.websocket("slow", function(ws)
  ws:on_text(function(ws, text) app.sleep(0.005) ws:send(text) end)
end)
app.websocket("push", {send_limit = 16777216}, function(ws)
  ws:on_text(function(ws, size) ws:send_binary(("x"):rep(tonumber(size))) end)
end)
app.websocket("news", function(ws) ws:subscribe("news") ws:on_text(function(ws, text) app.publish("news", text) end) end)
app.get("size/:n", function(req) return ("x"):rep(tonumber(req.params.n)) end)
app.post("len", {max_body = 4194304}, function(req) return tostring(#req.body) end)
app.get("stream/:n", function(req)
  return 200, function(write) for i = 1, tonumber(req.params.n) do write(("%07d\\n"):format(i):rep(128)) end end
end)
app.get("events", function(req)
  return 200, function(write) for i = 1, 3 do write("data: " .. i .. "\\n\\n") app.sleep(0.01) end end,
         {["content-type"] = "text/event-stream"}
end)
"""


@pytest.fixture
def server(serve, certs):
    return serve(SITE, listen=certs.spec())


@pytest.fixture
def context(certs):
    return certs.context()


def connect(server, context, path="/echo"):
    return websockets.connect(f"wss://localhost:{server.port}{path}", host="127.0.0.1", ssl=context, max_size=None,
                              compression=None, open_timeout=PATIENCE, close_timeout=PATIENCE)


def small_receiver(server, context, path=None, receive=32 * KIB):
    """A client whose kernel takes little."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    sock.connect(("127.0.0.1", server.port))
    server.context = context
    client = server.wrap(sock)
    return client.upgrade(path) if path else client


def ask(client, path, more=""):
    client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n")


# ---- WebSockets ----

SIZES = [0, 1, 125, 126, 16383, 16384, 16385, 65525, 65526, 65527, 65535, 65536, 131072, MIB, 4 * MIB]


@VERSIONS
def test_messages_of_all_sizes_come_back(server, certs, version):
    async def talk():
        async with connect(server, certs.context(version=version)) as ws:
            for size in SIZES:
                data = random.Random(size).randbytes(size)
                await ws.send(data)
                assert await ws.recv() == data, size
            await ws.send("täxt" * 1000)
            assert await ws.recv() == "täxt" * 1000
    asyncio.run(talk())


@VERSIONS
def test_many_small_frames_at_once_come_back_in_order(server, certs, version):
    n = 20000
    with server.secure(certs.context(version=version), "/echo") as client:
        sender = threading.Thread(target=lambda: client.send(b"".join(frame(TEXT, f"{i:06}") for i in range(n))))
        sender.start()
        for i in range(n):
            assert client.text() == f"{i:06}"
        sender.join()


def test_frames_that_are_cut_anywhere_come_back(server, context):
    data = b"".join(frame(BINARY_OP, bytes([i]) * 300) for i in range(40))
    with server.secure(context, "/echo") as client:
        for i in range(0, len(data), 7):
            client.send(data[i:i + 7])  # a record each
        for i in range(40):
            assert client.frame() == (BINARY_OP, bytes([i]) * 300)


@pytest.mark.parametrize("size", [65526, 200000, 3 * MIB])
def test_a_slow_reader_gets_everything(server, context, size):
    with small_receiver(server, context, "/push", receive=4096) as client:
        client.send(3 * frame(TEXT, str(size)))  # at once: one who takes nothing is not read from
        server.wait_metric("tidewire_messages_sent_total", 3)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        assert all([client.frame() == (BINARY_OP, b"x" * size) for _ in range(3)])
        server.wait_metric("tidewire_send_queue_bytes", 0)
        client.send_frame(PING, b"still")
        assert client.frame() == (PONG, b"still")


# What the kernel takes of an answer at once is known to nobody: among these sizes are some of which it takes all but a part
# of the last records.
AROUND = range(2 * MIB + 40 * KIB, 4 * MIB, 112 * KIB)


def test_the_last_records_need_nothing_more_to_leave(server, context):
    clients = [small_receiver(server, context, "/push") for _ in AROUND]
    for client, size in zip(clients, AROUND):
        client.send_frame(TEXT, str(size))
    server.wait_metric("tidewire_messages_sent_total", len(AROUND))
    for client, size in zip(clients, AROUND):
        whole = client.frame() == (BINARY_OP, b"x" * size)
        assert whole, size
        client.close()


def test_reading_pauses_behind_a_suspended_handler_and_goes_on(server, context):
    texts = [f"{i:02}" * 8000 for i in range(40)]  # many times read_ahead
    with server.secure(context, "/slow") as client:
        threading.Thread(target=lambda: client.send(b"".join(frame(TEXT, text) for text in texts))).start()
        for text in texts:
            assert client.text() == text
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)


def test_a_peer_that_says_its_end_ends_the_websocket(server, context):
    with server.secure(context, "/echo") as client:
        client.send_frame(TEXT, "last")
        assert client.text() == "last"
        client.sock.unwrap()  # sends close_notify, and waits for ours
    server.wait_metric("tidewire_tls_connections", 0)


def test_closing_ends_with_close_notify(server, context):
    with server.secure(context, "/echo") as client:
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
    server.wait_metric("tidewire_tls_connections", 0)


@VERSIONS
@pytest.mark.parametrize("workers", [1, 2])
def test_broadcasts_reach_many(serve, certs, version, workers):
    server = serve(SITE, listen=certs.spec(), workers=workers)
    context, n, messages = certs.context(version=version), 100, 50

    async def follow(ws):
        return [await ws.recv() for _ in range(messages)]

    async def talk():
        all_of_them = [await connect(server, context, "/news") for _ in range(n)]
        for i in range(messages):
            await all_of_them[i % 2].send(f"{i:03}" + "x" * (i * 400))
            if i % 2:
                await asyncio.sleep(0)
        for got in await asyncio.gather(*map(follow, all_of_them)):
            assert sorted(got) == [f"{i:03}" + "x" * (i * 400) for i in range(messages)]
        for ws in all_of_them:
            await ws.close()
    asyncio.run(talk())


# ---- reload and stop ----

def test_a_reload_keeps_connections_under_traffic(server, context):
    async def traffic(stop):
        async with connect(server, context) as ws:
            n = 0
            while n == 0 or not stop.is_set():
                await ws.send(f"{n}")
                assert await ws.recv() == f"{n}"
                n += 1
            return n

    async def talk():
        stop = asyncio.Event()
        clients = [asyncio.create_task(traffic(stop)) for _ in range(20)]
        for i in range(5):
            assert await asyncio.to_thread(server.reload, SITE + f"-- {i}")
        stop.set()
        assert all(n > 0 for n in await asyncio.gather(*clients))
    asyncio.run(talk())
    assert server.metrics()['tidewire_tls_handshakes_total{outcome="ok"}'] == 20


def test_stopping_says_1001_and_ends_cleanly(server, context):
    clients = [server.secure(context, "/echo") for _ in range(20)]
    idle = server.secure(context)
    server.send_signal(15)
    for client in clients:
        opcode, payload = client.frame()
        assert (opcode, payload[:2]) == (CLOSE, close_payload(1001))
        client.send_frame(CLOSE, payload[:2])
        client.expect_end()
        client.close()
    idle.expect_end()
    idle.close()
    assert server.stop(None) == 0


# ---- HTTP ----

def test_keep_alive_and_pipelining(server, context):
    with server.secure(context) as client:
        for n in (0, 1, 16384, 65536, MIB):
            ask(client, f"/size/{n}")
            assert client.response().body == "x" * n
        client.send("".join(f"GET /size/{n} HTTP/1.1\r\nHost: a\r\n\r\n" for n in range(100)))
        for n in range(100):
            assert client.response().body == "x" * n


@pytest.mark.parametrize("size", [0, 1, 16384, MIB, 4 * MIB])
def test_request_bodies(server, context, size):
    with server.secure(context) as client:
        client.send(f"POST /len HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode() + b"y" * size)
        assert client.response().body == str(size)
        client.send(f"POST /len HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n".encode() + b"y" * size
                    + (b"\r\n0\r\n\r\n" if size else b"\r\n"))
        assert client.response().body == str(size)


def test_limits_answer_and_end(serve, certs):
    server = serve(SITE, listen=certs.spec(), handshake_timeout=0.3)
    for request, status in [("POST /len HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
                            ("GET / HTTP/1.1\r\nX: " + "x" * 20000, 431), ("GET /" + "x" * 20000, 414),
                            ("GET / HTTP/1.1\r\nHo", 408), ("GET / HTTP/1.1\nHost: a\n\n", 400)]:
        with server.secure(certs.context()) as client:
            client.send(request)
            assert client.response().status == status
            client.expect_end()


def chunks(client):
    """The pieces of a chunked body."""
    client.until(b"\r\n\r\n")
    while size := int(client.until(b"\r\n"), 16):
        yield client.take(size + 2)[:-2]
    client.take(2)


def test_a_streamed_answer_waits_for_a_slow_reader(server, context):
    with small_receiver(server, context, receive=4096) as client:
        ask(client, "/stream/4000")
        server.wait_metric("tidewire_tasks", 1)  # it waits
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        assert b"".join(chunks(client)) == b"".join(b"%07d\n" % i * 128 for i in range(1, 4001))


def test_events_arrive_one_by_one(server, context):
    with server.secure(context) as client:
        ask(client, "/events")
        assert list(chunks(client)) == [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"]


@pytest.mark.parametrize("end", ["half-closed", "Connection: close\r\n"])
def test_a_slow_client_gets_its_last_answer_to_the_end(server, context, end):
    clients = [small_receiver(server, context) for _ in AROUND]
    for client, size in zip(clients, AROUND):
        ask(client, f"/size/{size}", end if ":" in end else "")
        if end == "half-closed":
            client.sock.shutdown(socket.SHUT_WR)
    server.wait_metric('tidewire_http_responses_total{class="2xx"}', len(AROUND))
    time.sleep(2.5)  # longer than the server lingers for one that takes nothing any more
    for client, size in zip(clients, AROUND):
        assert len(client.response().body) == size
        client.expect_end()
        client.close()


# ---- other clients ----

NODE = """
const WebSocket = require('ws');
const ws = new WebSocket(process.argv[1] + '/echo');
ws.on('open', () => ws.send('hello'));
ws.on('message', (data) => { console.log(String(data)); ws.close(1000, 'done'); });
ws.on('close', (code) => {
  console.log('closed ' + code);
  require('https').get(process.argv[1].replace('wss', 'https') + '/size/5', (answer) => {
    answer.on('data', (data) => console.log(answer.statusCode + ' ' + data));
  });
});
ws.on('error', (e) => { console.log('error ' + e.message); process.exit(1); });
"""


def test_node(server, certs):
    env = {**os.environ, "NODE_PATH": "/usr/share/nodejs", "NODE_EXTRA_CA_CERTS": str(certs.ca())}
    client = subprocess.run(["node", "-e", NODE, f"wss://localhost:{server.port}"], env=env, text=True, capture_output=True,
                            timeout=PATIENCE, check=False)
    assert client.stdout == "hello\nclosed 1000\n200 xxxxx\n", client.stderr


@pytest.fixture(scope="module")
def trusting_browser(tmp_path_factory, page, certs):  # noqa: F811
    key = subprocess.run(f"openssl x509 -in {certs.pair().cert} -pubkey -noout | openssl pkey -pubin -outform der | "
                         "openssl dgst -sha256 -binary | openssl base64 -A", shell=True, capture_output=True, check=True).stdout
    driver = open_browser(tmp_path_factory.mktemp("chromium"), page, f"--ignore-certificate-errors-spki-list={key.decode()}")
    yield driver
    driver.quit()


def test_chromium(server, trusting_browser):
    sizes = [0, 1, 125, 126, 16384, 65535, 65536, 1000000]
    url = f"wss://localhost:{server.port}/echo"
    assert trusting_browser.execute_async_script(BROWSER_ECHO, url, sizes) == {"answers": len(sizes), "wrong": [], "code": 1005}
    assert trusting_browser.execute_async_script(BROWSER_ECHO, url, sizes)["answers"] == len(sizes)
    assert server.metrics()["tidewire_tls_resumed_total"] == 1


# ---- much of it ----

@not_under_tsan
def test_memory_and_descriptors_are_flat_over_many_connections(measured, server, context):  # noqa: F811
    def some(n):
        for i in range(n):
            if i % 4 == 0:  # gives up in the handshake
                with server.raw() as client:
                    client.send(b"\x16\x03\x01\x02\x00\x01")
                continue
            with server.secure(context, "/echo") as client:
                client.send_frame(TEXT, "x" * 1000)
                if i % 4 != 1:
                    assert client.text() == "x" * 1000
        server.wait_metric("tidewire_connections", 0)
    some(400)
    memory, descriptors = resident(server), len(os.listdir(f"/proc/{server.pid}/fd"))
    some(1200)
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == descriptors
    assert resident(server) < memory + 2 * MIB
    metrics = server.metrics()
    assert metrics["tidewire_tls_handshaking"] == metrics["tidewire_tls_connections"] == 0
