# SPDX-License-Identifier: MIT
"""A WebSocket that app.connect has opened: messages, masks, closing, completions, slowness, options, compression,
topics, ids."""
import zlib

import pytest
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from conftest import BINARY_OP, CLOSE, CONT, PING, PONG, TEXT, close_payload, frame
from migrating import ask, on_each_worker, tell
from upstream import CLIENTS, DIAL, Upstream, library, said


@pytest.fixture
def upstream():
    u = Upstream(receive_buffer=4096)
    yield u
    u.close()


def opened(server, upstream, options="{}", *lines, f="hear", client=None):
    """A client of /run that has connected with dial, and the server that it has connected to."""
    client = client or server.raw("/run")
    tell(client, f"return dial('{upstream.url}', {options}, {f})")
    peer = upstream.open(*lines)
    assert client.text() == "open"
    return client, peer


# ---- messages ----


def test_messages_both_ways_and_each_frame_is_masked_with_another_key(serve, upstream):  # RFC 6455, 5.3
    server = serve(DIAL)
    client, peer = opened(server, upstream)
    ask(client, "for i = 1, 50 do C:send('text ' .. i) C:send_binary('b' .. i) end return 1")
    frames = [peer.any_frame() for _ in range(100)]
    assert [(f.opcode, f.payload) for f in frames] == [
        pair for i in range(1, 51) for pair in ((TEXT, b"text %d" % i), (BINARY_OP, b"b%d" % i))]
    assert all(f.fin and not f.rsv for f in frames)
    assert len({f.mask for f in frames}) > 95
    peer.send_frame(TEXT, "h\u00e9")
    peer.send_frame(BINARY_OP, b"\0\xff")
    peer.send_frame(TEXT, b"")
    server.wait_log("client text <>")
    assert said(server) == ["text <h\u00e9>", "binary 2", "text <>"]


def test_a_fragmented_message_arrives_whole_and_control_frames_between_are_handled(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream)
    peer.send(frame(TEXT, "a", fin=False, mask=None) + frame(PING, "now", mask=None)
              + frame(CONT, "b", fin=False, mask=None) + frame(CONT, "c", mask=None))
    assert peer.frame() == (PONG, b"now")
    server.wait_log("client text <abc>")
    assert said(server) == ["ping <now>", "text <abc>"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
def test_messages_of_any_size_pass_both_ways(serve, size):
    async def handler(ws):
        async for message in ws:
            await ws.send(message)
    with library(handler) as url:
        server = serve(DIAL, send_limit="4m")
        with server.raw("/run") as client:
            assert ask(client, f"""
                local p, got = app.promise(), {{}}
                local function on(c, data) got[#got + 1] = data if #got == 2 then p:resolve() end end
                local c = app.connect('{url}', function(c) c:on_text(on) c:on_binary(on) end)
                local text = ('abcdefg'):rep({size} // 7 + 1):sub(1, {size})
                local bytes = (string.pack('<I4', 0xfffe7380)):rep({size} // 4 + 1):sub(1, {size})
                c:send(text) c:send_binary(bytes) p:await()
                return got[1] == text, got[2] == bytes""") == "true true"


def test_text_that_is_not_utf8_is_refused_both_ways(serve, upstream):  # RFC 6455, 8.1
    server = serve(DIAL)
    client, peer = opened(server, upstream)
    assert ask(client, r"return C:send('\xff')") == "nil not UTF-8"
    peer.send_frame(TEXT, b"\xff")
    assert peer.frame()[1][:2] == close_payload(1007)
    server.wait_log("client closed <1007 >")


def test_pings_and_pongs_both_ways(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream)
    assert ask(client, "return C:ping('p'), C:pong('q')") == "true true"
    assert [peer.frame(), peer.frame()] == [(PING, b"p"), (PONG, b"q")]
    peer.send_frame(PONG, "p")
    peer.send_frame(PING, "r")
    assert peer.frame() == (PONG, b"r")
    server.wait_log("client ping <r>")
    assert said(server) == ["pong <p>", "ping <r>"]


FAULTS = {
    "a masked frame (5.1)": (frame(TEXT, "x"), 1002),
    "a masked ping (5.1)": (frame(PING, "x"), 1002),
    "a reserved bit (5.2)": (frame(TEXT, "x", rsv=4, mask=None), 1002),
    "an unknown opcode (5.2)": (frame(3, "x", mask=None), 1002),
    "a fragmented ping (5.5)": (frame(PING, "x", fin=False, mask=None), 1002),
    "a ping of 126 bytes (5.5)": (frame(PING, b"x" * 126, mask=None), 1002),
    "a continuation of nothing (5.4)": (frame(CONT, "x", mask=None), 1002),
    "a new message within one (5.4)": (frame(TEXT, "x", fin=False, mask=None) + frame(TEXT, "y", mask=None), 1002),
    "a Close of one byte (5.5.1)": (frame(CLOSE, b"x", mask=None), 1002),
    "a Close with 1005 (7.4.1)": (frame(CLOSE, close_payload(1005), mask=None), 1002),
    "a Close whose reason is not UTF-8 (5.5.1)": (frame(CLOSE, close_payload(1000, b"\xff"), mask=None), 1007),
    "a message over max_message": (frame(TEXT, b"x" * 101, mask=None), 1009),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_breaks_the_protocol_is_told_and_left(serve, upstream, fault):
    server = serve(DIAL)
    client, peer = opened(server, upstream, "{max_message = 100}")
    data, code = FAULTS[fault]
    peer.send(data)
    opcode, payload = peer.frame()
    assert (opcode, payload[:2]) == (CLOSE, close_payload(code))
    peer.expect_end()
    server.wait_log(f"client closed <{code} >")
    peer.close()
    server.wait_metric(CLIENTS, 0)
    assert ask(client, "return C.is_closed, C.close_code, C:send('x')") == f"true {code} nil closed"
    assert server.log.count("client closed") == 1


# ---- the end ----


@pytest.mark.parametrize("code, reason", [(1000, b""), (3456, "b\u00fcrste".encode()), (None, b"")])
def test_the_servers_close_is_answered_and_told_once(serve, upstream, code, reason):
    server = serve(DIAL)
    client, peer = opened(server, upstream)
    payload = close_payload(code, reason) if code else b""
    peer.send_frame(CLOSE, payload)
    assert peer.frame() == (CLOSE, payload[:2])
    peer.close()
    server.wait_log(f"client closed <{code or 1005} {reason.decode()}>")
    server.wait_metric(CLIENTS, 0)
    assert ask(client, "return C.close_code, C:close()") == f"{code or 1005} nil closed"
    assert server.log.count("client closed") == 1


def test_the_clients_close_waits_for_the_answer(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream)
    assert ask(client, "C:send('last') return C:close(3001, 'enough'), C.is_closed, C.close_code, C:send('x')") == \
        "true true nil nil closed"
    assert peer.frame() == (TEXT, b"last")
    peer.send_frame(TEXT, "too late")
    peer.answer_close(3001, b"enough")
    server.wait_log("client closed <3001 >")
    assert said(server) == ["closed <3001 >"]
    server.wait_metric(CLIENTS, 0)


def test_a_close_without_an_answer_ends_after_close_timeout(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream, "{close_timeout = 0.1}")
    assert ask(client, "return C:close()") == "true"
    assert peer.frame() == (CLOSE, close_payload(1000))
    server.wait_log("client closed <1006 >")
    peer.expect_end()


def test_the_end_of_the_stream_is_1006(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream)
    peer.send(frame(TEXT, "half of it", mask=None)[:5])
    peer.close()
    server.wait_log("client closed <1006 >")
    server.wait_metric(CLIENTS, 0)


def test_an_error_in_a_handler_closes_with_1011_and_is_logged_with_its_line(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream, f="function(c) hear(c) c:on_text(function()\nerror('on purpose') end) end")
    peer.send_frame(TEXT, "x")
    assert peer.frame() == (CLOSE, close_payload(1011, b"internal error"))
    server.wait_log("code:2: on purpose\n.*traceback")
    server.wait_log("client closed <1011 >")


def test_a_handler_that_waits_is_cancelled_at_the_end(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream, f="""function(c) hear(c) c:on_text(function()
        local x <close> = setmetatable({}, {__close = function() log.info("client cancelled") end})
        log.info("client waits") pass("never") end) end""")
    peer.send_frame(TEXT, "x")
    server.wait_log("client waits")
    peer.close()
    server.wait_log("client closed")
    assert said(server) == ["waits", "cancelled", "closed <1006 >"]
    server.wait_metric("tidewire_tasks", 0)


def test_handlers_may_wait_and_messages_keep_their_order(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream, f="""function(c) hear(c) c:on_text(function(c, text)
        if text == "0" then pass("go") end app.sleep(0) c:send(text) end) end""")
    for i in range(20):
        peer.send_frame(TEXT, str(i))
    ask(client, "open('go') return 1")
    assert [peer.frame() for _ in range(20)] == [(TEXT, b"%d" % i) for i in range(20)]


# ---- sending ----


def test_done_and_promises_are_told_when_the_kernel_has_the_message(serve, upstream):
    server = serve(DIAL, send_limit="64m")
    client, peer = opened(server, upstream)
    ask(client, """C:send(('x'):rep(4 << 20), function(ok, why) log.info('client done', ok, why) end)
                   local p = app.promise() C:send_binary('y', p)
                   app.spawn(function() log.info('client promise', p:await()) end) return 1""")
    server.wait_metric("tidewire_send_queue_bytes", lambda n: n > 0)
    assert said(server) == []
    assert len(peer.any_frame().payload) == 4 << 20
    assert peer.frame() == (BINARY_OP, b"y")
    server.wait_log("client done true nil(.|\n)*client promise true")


def test_done_fails_when_the_connection_ends_first(serve, upstream):
    server = serve(DIAL, send_limit="64m")
    client, peer = opened(server, upstream)
    ask(client, "C:send(('x'):rep(8 << 20), function(ok, why) log.info('client done', ok, why) end) return 1")
    server.wait_metric("tidewire_send_queue_bytes", lambda n: n > 0)
    peer.close()
    server.wait_log("client done nil closed")
    server.wait_log("client closed <1006 >")
    server.wait_metric("tidewire_send_queue_bytes", 0)


FLOOD = """local n, ok, why = 0 repeat n = n + 1 ok, why = C:send(('x'):rep(65536)) until not ok or n > 1000
           return why, C.is_closed, n > 1"""


def test_a_server_that_does_not_read_is_closed_beyond_send_limit(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream, "{send_limit = '1m', close_timeout = 0.2}")
    assert ask(client, FLOOD) == "queue full true true"
    server.wait_log("client closed <1013 >")
    assert server.metrics()["tidewire_slow_consumers_closed_total"] == 1
    peer.close()
    server.wait_metric(CLIENTS, 0)


def test_with_drop_the_message_is_lost_and_on_drain_tells_when_there_is_room(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream, "{send_limit = '1m', on_slow = 'drop'}",
                          f="function(c) hear(c) c:on_drain(function() log.info('client drain', c.buffered) end) end")
    assert ask(client, FLOOD) == "queue full false true"
    assert int(ask(client, "return C.buffered")) > 500000
    assert server.metrics()['tidewire_messages_dropped_total{reason="slow"}'] == 1
    reading = True
    while reading:
        peer.any_frame()
        reading = server.metrics()["tidewire_send_queue_bytes"] > 0 or peer.buffer
    server.wait_log("client drain 0")
    assert ask(client, "return C:send('again')") == "true"
    while (got := peer.frame()) == (TEXT, b"x" * 65536):
        pass
    assert got == (TEXT, b"again")


# ---- options ----


def test_options_begin_as_configured_and_can_be_overridden(serve, upstream):
    server = serve(DIAL, ping_interval=77, max_message=50)
    client, peer = opened(server, upstream)
    assert ask(client, "return C.ping_interval") == "77.0"
    peer.send_frame(TEXT, b"x" * 51)
    assert peer.frame()[1][:2] == close_payload(1009)
    client, peer = opened(server, upstream, "{ping_interval = false, max_message = '1k'}", client=client)
    assert ask(client, "return C.ping_interval") == "nil"
    peer.send_frame(TEXT, b"x" * 1024)
    server.wait_log("client text <x{1024}>")
    peer.send_frame(TEXT, b"x" * 1025)
    assert peer.frame()[1][:2] == close_payload(1009)


def test_idle_timeout(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream, "{idle_timeout = 0.2}")
    peer.answer_close(1001, b"idle")
    server.wait_log("client closed <1001 >")


def test_pings_go_out_and_a_silent_server_is_cut(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream, "{ping_interval = 0.1}")
    for _ in range(3):
        assert peer.frame() == (PING, b"")
        peer.send_frame(PONG)
    assert peer.frame() == (PING, b"")
    server.wait_log("client closed <1006 >")
    assert server.metrics()["tidewire_ping_timeouts_total"] == 1
    peer.expect_end()


def test_ping_interval_can_be_set(serve, upstream):
    server = serve(DIAL, ping_interval=0)
    client, peer = opened(server, upstream)
    ask(client, "C.ping_interval = 0.1 return 1")
    assert peer.frame() == (PING, b"")


def test_max_frame_and_messages_per_second(serve, upstream):
    server = serve(DIAL)
    client, peer = opened(server, upstream, "{max_frame = 10}")
    peer.send_frame(TEXT, b"x" * 11)
    assert peer.frame()[1][:2] == close_payload(1009)
    client, peer = opened(server, upstream, "{messages_per_second = 20}", client=client)
    for i in range(30):
        peer.send_frame(TEXT, str(i))
    server.wait_log("client text <29>")


# ---- compression ----

# What the server insists on, and how its agreement reads.
DEFLATES = {
    "context takeover": {},
    "none": {"server_no_context_takeover": True, "client_no_context_takeover": True},
    "none of the server's": {"server_no_context_takeover": True},
    "none of the client's": {"client_no_context_takeover": True},
    "server_max_window_bits": {"server_max_window_bits": 9},
    "client_max_window_bits": {"client_max_window_bits": 9},
}


@pytest.mark.parametrize("takeover", ["true", "false"])
@pytest.mark.parametrize("deflate", DEFLATES)
def test_compression_both_ways_with_python_websockets(serve, deflate, takeover):  # RFC 7692, 7
    agreed = []

    async def handler(ws):
        agreed.extend(ws.extensions)
        async for message in ws:
            await ws.send(message)
    factory = ServerPerMessageDeflateFactory(**DEFLATES[deflate], compress_settings={"memLevel": 5})
    with library(handler, compression=None, extensions=[factory]) as url:
        server = serve(DIAL, compression="true", compression_min=0, compression_takeover=takeover)
        with server.raw("/run") as client:
            assert ask(client, f"""
                local p, sent, got, binary = app.promise(), {{}}, {{}}, {{}}
                local function on(c, data) got[#got + 1] = data if #got == 40 then p:resolve() end end
                local c, why = app.connect('{url}', function(c) c:on_text(on)
                    c:on_binary(function(c, data) binary[#got + 1] = true on(c, data) end) end)
                for i = 1, 40 do
                  sent[i] = ('number %d of many, many messages; '):format(i):rep(i % 7 * 50) .. i
                  if i % 3 == 0 then c:send_binary(sent[i]) else c:send(sent[i]) end
                end
                p:await()
                for i = 1, 40 do if got[i] ~= sent[i] or (i % 3 == 0) ~= (binary[i] == true) then return i end end
                return 'same'""") == "same"
            assert server.metrics()["tidewire_websockets_compressed"] == 1
    assert [e.name for e in agreed] == ["permessage-deflate"]


def test_what_the_client_sends_is_compressed_with_its_mask_over_it(serve, upstream):  # RFC 7692, 6.1
    server = serve(DIAL)
    client, peer = opened(server, upstream, "{compression = true, compression_min = 10}",
                          "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10")
    inflate = zlib.decompressobj(-15)
    sizes = []
    for _ in range(2):
        ask(client, "C:send(('0123456789abcdefghij'):rep(10)) return 1")
        f = peer.any_frame()
        sizes.append(len(f.payload))
        assert (f.opcode, f.rsv, f.fin) == (TEXT, 4, True)
        assert inflate.decompress(f.payload + b"\0\0\xff\xff") == b"0123456789abcdefghij" * 10
    assert sizes[1] < sizes[0]  # the second refers to the first
    ask(client, "C:send('short') return 1")
    f = peer.any_frame()
    assert (f.rsv, f.payload) == (0, b"short")


def test_a_compressed_message_in_fragments_and_a_bomb(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream, "{compression = true, max_message = 1000}",
                     "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12; "
                     "server_no_context_takeover")
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = (press.compress(b"hello, hello") + press.flush(zlib.Z_SYNC_FLUSH))[:-4]
    peer.send(frame(TEXT, data[:3], fin=False, rsv=4, mask=None) + frame(CONT, data[3:], mask=None))
    server.wait_log("client text <hello, hello>")
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    peer.send_frame(TEXT, (press.compress(b"x" * 100000) + press.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)
    assert peer.frame()[1][:2] == close_payload(1009)


def test_rsv1_without_the_extension_is_a_fault(serve, upstream):
    server = serve(DIAL)
    _, peer = opened(server, upstream, "{compression = true}")  # offered, but not taken
    peer.send_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)
    assert peer.frame()[1][:2] == close_payload(1002)


# ---- topics ----


@pytest.mark.parametrize("workers", [1, 2])
def test_a_client_can_subscribe_and_gets_frames_of_its_own_mask(serve, upstream, workers):
    server = serve(DIAL, workers=workers)
    for client in on_each_worker(server, workers):
        _, peer = opened(server, upstream, client=client)
        assert ask(client, "return C:subscribe('t'), app.subscribers('t')") == "true 1"
        with server.raw("/run") as other:
            ask(other, "for i = 1, 20 do app.publish('t', 'n' .. i) app.publish('t', 'b' .. i, {binary = true}) end "
                       "app.publish('t', ('z'):rep(70000)) return 1")
        frames = [peer.any_frame() for _ in range(41)]
        assert [(f.opcode, f.payload) for f in frames[:-1]] == [
            pair for i in range(1, 21) for pair in ((TEXT, b"n%d" % i), (BINARY_OP, b"b%d" % i))]
        assert frames[-1].payload == b"z" * 70000
        assert len({f.mask for f in frames}) > 38
        assert ask(client, "C:publish('t', 'not to itself') app.publish('t', 'x') C:send('y') return 1") == "1"
        assert [peer.frame(), peer.frame()] == [(TEXT, b"x"), (TEXT, b"y")]
        peer.send_frame(CLOSE, close_payload(1000))
        assert peer.frame() == (CLOSE, close_payload(1000))
        peer.close()
        server.wait_metric("tidewire_subscriptions", 0)


@pytest.mark.parametrize("takeover", [True, False])
def test_what_is_published_reaches_compressed_and_plain_clients_and_visitors_alike(serve, takeover):
    got = {}

    async def handler(ws):
        name = ws.path.strip("/")
        got[name] = []
        async for message in ws:
            got[name].append(message)
            if message == "end":
                await ws.close(1000, "got it")
    factory = ServerPerMessageDeflateFactory(server_no_context_takeover=not takeover,
                                             client_no_context_takeover=not takeover)
    published = [f"message {i} " * 200 if i % 2 else bytes(range(256)) * i for i in range(1, 30)] + ["end"]
    with library(handler, compression=None, extensions=[factory]) as url:
        server = serve(DIAL, compression_min=100)
        with server.raw("/run") as client:
            for name, on in [("packed", "true"), ("plain", "false"), ("packed2", "true")]:
                assert ask(client, f"return dial('{url}{name}', {{compression = {on}}}, function(c) hear(c, '{name}') "
                                   "c:subscribe('t') end)") == "open"
            ask(client, """local all = {} for i = 0, 255 do all[#all + 1] = string.char(i) end all = table.concat(all)
                for i = 1, 29 do
                  if i % 2 == 1 then app.publish('t', ('message %d '):format(i):rep(200))
                  else app.publish('t', all:rep(i), {binary = true}) end
                  if i == 15 then app.sleep(0) end
                end
                app.publish('t', 'end') return 1""")
            for name in "packed", "plain", "packed2":
                server.wait_log(f"{name} closed <1000 got it>")
                assert got[name] == published


def test_a_slow_subscriber_that_is_a_client_loses_the_newest_or_is_closed(serve, upstream):
    server = serve(DIAL)
    client, slow = opened(server, upstream, "{send_limit = '100k', on_slow = 'drop'}")
    ask(client, "C:subscribe('t') return 1")
    client, closed = opened(server, upstream, "{send_limit = '100k', close_timeout = 0.2}",
                            f="function(c) hear(c, 'other') c:subscribe('t') end", client=client)
    ask(client, "for i = 1, 100 do app.publish('t', (i .. ' '):rep(30000)) end return 1")
    server.wait_log("other closed <1013 >")
    dropped = server.wait_metric('tidewire_messages_dropped_total{reason="slow"}', lambda n: n > 0)
    closed.close()
    numbers = [int(slow.any_frame().payload.split()[0]) for _ in range(100 - dropped)]
    assert numbers == sorted(set(numbers)) and numbers[0] == 1
    server.wait_metric("tidewire_send_queue_bytes", 0)
    ask(client, "app.publish('t', 'again') return 1")
    assert slow.frame() == (TEXT, b"again")


# ---- ids ----


@pytest.mark.parametrize("workers", [1, 2])
def test_it_can_be_reached_by_its_id_from_any_worker(serve, upstream, workers):
    server = serve(DIAL, workers=workers)
    clients = on_each_worker(server, workers)
    _, peer = opened(server, upstream, client=clients[0])
    number = int(ask(clients[0], "return C.id"))
    assert ask(clients[-1], f"return app.send({number}, 'text'), app.send({number}, {{1, 2}}), "
                            f"app.send({number}, 'b', {{binary = true}})") == "true true true"
    assert [peer.frame() for _ in range(3)] == [(TEXT, b"text"), (BINARY_OP, b"\1\2"), (BINARY_OP, b"b")]
    assert ask(clients[-1], f"return app.close({number}, 3210, 'by id')") == "true"
    peer.answer_close(3210, b"by id")
    server.wait_log("client closed <3210 >")


def test_both_ends_in_one_server(serve):
    server = serve(DIAL)
    with server.raw("/run") as client:
        assert ask(client, f"return dial('{server.url('/echo')}')") == "open"
        ask(client, "C:send('hello') return 1")
        server.wait_log("client text <hello>")
        assert server.metrics()["tidewire_websockets"] == 2
        ask(client, "C:close(1000, 'that is all') return 1")
        server.wait_log("client closed <1000 >")
        server.wait_log("echo closed <1000 that is all>")
        server.wait_metric("tidewire_connections", 1)
        assert server.log.count("closed <") == 2
