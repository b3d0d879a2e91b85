# SPDX-License-Identifier: MIT
"""Topics in one worker: who gets what, in which order (everything that one sender sends and publishes, in the order
made), when a subscription begins and ends, what becomes of slow subscribers."""
import random
import re
import socket
import struct

import pytest

from conftest import BINARY_OP, CLOSE, PATIENCE, TEXT, close_payload, run

MIB = 1 << 20
DROPPED = 'tidewire_messages_dropped_total{reason="slow"}'
SUBSCRIPTIONS = "tidewire_subscriptions"

# A text is code to run, which is answered with "= " and its results. A binary message is a program for OPS.
SCRIPT = """
kept = {}
local ops = {
  publish = function(id, topic, data) return kept[id]:publish(topic, data) end,
  publish_to_all = function(_, topic, data) return app.publish(topic, data) end,
  send = function(id, _, data) return kept[id]:send(data) end,
  letter = function(id, _, data) return app.send(id, data) end,
  subscribe = function(id, topic) return kept[id]:subscribe(topic) end,
  unsubscribe = function(id, topic) return kept[id]:unsubscribe(topic) end,
}
local function connected(ws)
  kept[ws.id] = ws
  ws:on_text(function(ws, code)
    local results = table.pack(pcall(assert(load("local ws = ...; " .. code, "=code")), ws))
    for i = 1, results.n do results[i] = tostring(results[i]) end
    ws:send("= " .. table.concat(results, " ", results[1] == "true" and 2 or 1))
  end)
  ws:on_binary(function(_, program)
    for op, id, topic, data in program:gmatch("(%S+) (%S+) (%S+) (%S+)\\n") do
      assert(ops[op](tonumber(id), topic, (data:gsub("^(%w+)%*(%d+)$", string.rep))))
    end
  end)
  ws:on_close(function(ws) kept[ws.id] = nil end)
end
app.websocket("/run", connected)
app.websocket("/drop", {on_slow = "drop"}, connected)
"""


class Client:
    """A WebSocket of SCRIPT. `got` is what came besides answers."""

    def __init__(self, raw):
        self.raw = raw
        self.got = []
        self.id, self.worker = map(int, self.ask("return ws.id, app.worker").split())

    def ask(self, code):
        """Runs code; its results. What was published before has come by then."""
        self.raw.send_frame(TEXT, code)
        while not (frame := self.raw.frame())[1].startswith(b"= "):
            self.got.append(frame)
        return frame[1][2:].decode()

    def do(self, code):
        assert self.ask(code) in ("true", "")

    def received(self):
        """What came, up to now, as [(opcode, payload)]."""
        self.ask("")
        got, self.got = self.got, []
        return got

    def texts(self):
        got = self.received()
        assert all(opcode == TEXT for opcode, _ in got), got
        return [payload.decode() for _, payload in got]

    def until(self, last):
        """The texts before the text `last`."""
        while (TEXT, last.encode()) not in self.got[-1:]:
            self.got.append(self.raw.frame())
        texts = [payload.decode() for _, payload in self.got[:-1]]
        self.got = []
        return texts

    def subscribe(self, *topics):
        for topic in topics:
            self.do(f"return ws:subscribe({topic!r})")

    def close(self):
        self.raw.close()

    def reset(self):
        self.raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def clients(server, n, *topics, path="/run"):
    """n clients that subscribe to the topics."""
    made = [Client(server.raw(path)) for _ in range(n)]
    for client in made:
        client.subscribe(*topics)
    return made


def slow(server, path):
    """A client whose kernel takes little, so that what it does not read soon waits in the server."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    return Client(server.wrap(sock).upgrade(path))


def hurry(client):
    """From now on it can read fast."""
    client.raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
    return client.raw


def closing_code(client):
    opcode, payload = client.raw.frame()
    return struct.unpack(">H", payload[:2])[0] if opcode == CLOSE else (opcode, payload[:40])


# ---- who gets it ----

def test_a_message_reaches_every_subscriber_and_nobody_else(serve):
    server = serve(SCRIPT)
    a, b = clients(server, 2, "t")
    other, nobody = clients(server, 1, "T", "t\0", "tt") + clients(server, 1)
    nobody.do("return app.publish('t', 'hello')")
    assert a.texts() == b.texts() == ["hello"]
    assert other.texts() == nobody.texts() == []


@pytest.mark.parametrize("data, expected", [
    ("'text'", (TEXT, b"text")),
    ("''", (TEXT, b"")),
    ("'\\u{20AC}', {}", (TEXT, "€".encode())),
    ("'text', nil", (TEXT, b"text")),
    ("'text', {binary = false}", (TEXT, b"text")),
    ("'\\xff\\0', {binary = true}", (BINARY_OP, b"\xff\0")),
    ("'', {binary = true}", (BINARY_OP, b"")),
    ("{0, 1, 255}", (BINARY_OP, b"\0\1\xff")),
    ("{}", (BINARY_OP, b"")),
    ("('x'):rep(125)", (TEXT, b"x" * 125)),
    ("('x'):rep(126)", (TEXT, b"x" * 126)),
    ("('x'):rep(65535)", (TEXT, b"x" * 65535)),
    ("('x'):rep(65536)", (TEXT, b"x" * 65536)),
    ("12", (TEXT, b"12")),
])
def test_what_is_published_is_what_arrives(serve, data, expected):
    a, b = clients(serve(SCRIPT), 2, "t")
    a.do(f"return app.publish('t', {data})")
    a.do(f"return ws:publish('t', {data})")
    assert a.received() == [expected]
    assert b.received() == [expected, expected]


@pytest.mark.parametrize("call", ["ws:publish", "app.publish"])
def test_text_that_is_not_utf8_is_refused(serve, call):
    a, b = clients(serve(SCRIPT), 2, "t")
    assert a.ask(f"return {call}('t', 'x\\xff')") == "nil not UTF-8"
    assert a.ask(f"return {call}('no subscribers', 'x\\xff')") == "nil not UTF-8"
    assert a.received() == b.received() == []


@pytest.mark.parametrize("name", ["'\\0'", "' '", "'\\xff\\xfe'", "('n'):rep(255)", "'a/b.*'"])
def test_a_name_has_1_to_255_bytes_of_any_kind(serve, name):
    a, b = clients(serve(SCRIPT), 2)
    b.do(f"return ws:subscribe({name})")
    assert a.ask(f"return ws:publish({name}, 'x'), app.publish({name}, 'y'), app.subscribers({name})") == "true true 1"
    assert b.texts() == ["x", "y"]
    b.do(f"return ws:unsubscribe({name})")


WRONG = {
    "''": "has 0 bytes; it can have 1 to 255",
    "('n'):rep(256)": "has 256 bytes; it can have 1 to 255",
    "nil": "is a nil, not a string",
    "7": "is a number, not a string",
    "{}": "is a table, not a string",
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call, rest", [("ws:subscribe", ""), ("ws:unsubscribe", ""), ("ws:publish", ", 'x'"),
                                        ("app.publish", ", 'x'"), ("app.subscribers", "")])
def test_other_names_raise(serve, call, rest, name):
    server = serve(SCRIPT)
    with server.raw("/run") as raw:
        client = Client(raw)
        assert client.ask(f"{call}({name}{rest})") == f"false code:1: {call}: the topic {WRONG[name]}"
    assert server.metrics()["tidewire_topics"] == 0


@pytest.mark.parametrize("code, error", [
    ("app:publish('t', 'x')", "app.publish: call it with a dot: app.publish(...)"),
    ("app:subscribers('t')", "app.subscribers: call it with a dot: app.subscribers(...)"),
    ("app.publish('t', 'x', {bin = true})", "unknown option bin; there is binary"),
    ("ws:publish('t', 'x', {bin = true})", "unknown option bin; there is binary"),
    ("ws:publish('t', {256})", "not an integer from 0 to 255"),
    ("ws:publish('t', {a = 1})", "for JSON send json.encode(table)"),
    ("app.publish('t')", "string expected"),
    ("ws.publish('t', 'x')", "colon"),
])
def test_misuse_raises_with_a_hint(serve, code, error):
    client, = clients(serve(SCRIPT), 1, "t")
    answer = client.ask(code)
    assert answer.startswith("false code:1: ") and error in answer, answer
    assert client.received() == []


@pytest.mark.parametrize("call", ["app.publish('t', 'x')", "app.subscribers('t')"])
def test_while_a_script_loads_they_raise(tmp_path, call):
    script = tmp_path / "main.lua"
    script.write_text("\n" + call)
    done = run("check", script)
    assert done.returncode == 1
    assert f"main.lua:2: {call.split('(', maxsplit=1)[0]} cannot be called while the script loads" in done.stderr


def test_publishing_to_nobody_succeeds_and_makes_no_topic(serve):
    server = serve(SCRIPT)
    client, = clients(server, 1)
    client.do("for i = 1, 1000 do assert(app.publish('t' .. i, 'x') and ws:publish('t' .. i, 'x')) end")
    metrics = server.metrics()
    assert (metrics["tidewire_topics"], metrics["tidewire_published_total"]) == (0, 2000)
    assert client.ask("return math.type(app.subscribers('t1')), app.subscribers('t1')") == "integer 0"


def test_subscribing_twice_delivers_once_and_one_unsubscribe_ends_it(serve):
    server = serve(SCRIPT)
    client, = clients(server, 1, "t", "t")
    client.do("return app.publish('t', '1')")
    client.subscribe("t")
    client.do("return app.publish('t', '2')")
    assert client.texts() == ["1", "2"]
    assert client.ask("return app.subscribers('t'), ws:unsubscribe('t'), ws:unsubscribe('t'), "
                      "ws:unsubscribe('never'), app.subscribers('t')") == "1 true false false 0"
    client.do("return app.publish('t', '3')")
    assert client.texts() == []


# ---- order ----

def play(rng, everyone, topics, steps):
    """A random program of what one handler can do, and what each of everyone gets by the rules."""
    members = {(c.id, t) for c in everyone for t in topics if rng.random() < 0.5}
    program = [f"subscribe {who} {topic} -" for who, topic in sorted(members)]
    expected = {c.id: [] for c in everyone}
    near = [t for t in topics if rng.random() < 0.2] or topics
    for i in range(steps):
        op = rng.choices(["publish", "publish_to_all", "send", "letter", "subscribe", "unsubscribe"],
                         [8, 8, 3, 3, 2, 2])[0]
        who, topic = rng.choice(everyone).id, rng.choice(near if rng.random() < 0.5 else topics)
        size = rng.choices([1, 300, 5000], [60, 5, 1])[0]
        data = f"m{i}x*{size}"
        if op == "unsubscribe" and (who, topic) not in members:
            op = "subscribe"
        program.append(f"{op} {who} {topic} {data}")
        if op == "subscribe":
            members.add((who, topic))
        elif op == "unsubscribe":
            members.remove((who, topic))
        elif op in ("send", "letter"):
            expected[who].append(data)
        else:
            for c in everyone:
                if (c.id, topic) in members and (op == "publish_to_all" or c.id != who):
                    expected[c.id].append(data)
    return program, expected


def pieces(rng, program, sizes):
    """The program in messages of several lines each."""
    at = 0
    while at < len(program):
        n = rng.choice(sizes)
        yield "".join(line + "\n" for line in program[at:at + n]).encode()
        at += n


def full(data):
    word, times = re.fullmatch(r"(\w+)\*(\d+)", data).groups()
    return word * int(times)


@pytest.mark.parametrize("sizes", [(1,), (1, 5, 60), (100_000,)], ids=["single", "mixed", "one handler"])
@pytest.mark.parametrize("ntopics", [1, 2, 5, 300])
def test_everything_arrives_in_the_order_made(serve, ntopics, sizes):
    rng = random.Random(f"{ntopics} {sizes}")
    everyone = clients(serve(SCRIPT, send_limit="64m"), 6)
    program, expected = play(rng, everyone, [f"t{i}" for i in range(ntopics)], 1500)
    for piece in pieces(rng, program, sizes):
        everyone[0].raw.send_frame(BINARY_OP, piece)
    everyone[0].raw.send_frame(TEXT, "for id in pairs(kept) do assert(app.send(id, 'end')) end")
    assert sum(map(len, expected.values())) > 1500
    for client in everyone:
        assert client.until("end") == [full(data) for data in expected[client.id]]


def test_own_messages_are_left_out_also_when_mixed_with_others(serve):
    a, b, c = clients(serve(SCRIPT), 3, "t", "u")
    a.do(f"""local a, b = kept[{a.id}], kept[{b.id}]
        for i = 1, 50 do
          a:publish('t', 'a' .. i) b:publish('t', 'b' .. i) app.publish('t', 'all' .. i)
          b:publish('u', 'B' .. i) a:publish('u', 'A' .. i)
          if i % 10 == 0 then a:send('sent' .. i) end
        end""")

    def expected(*left_out):
        return [f"{kind}{i}" for i in range(1, 51) for kind in ("a", "b", "all", "B", "A") if kind not in left_out]
    got = a.texts()
    assert [text for text in got if not text.startswith("sent")] == expected("a", "A")
    assert got.index("sent10") == got.index("B10") + 1
    assert (b.texts(), c.texts()) == (expected("b", "B"), expected())


def test_who_does_not_subscribe_can_publish_and_subscribe_afterwards(serve):
    a, b = clients(serve(SCRIPT), 2)
    b.subscribe("t")
    a.do("ws:publish('t', '1') ws:subscribe('t') app.publish('t', '2') ws:publish('t', '3') app.publish('t', '4')")
    assert (a.texts(), b.texts()) == (["2", "4"], ["1", "2", "3", "4"])


def test_a_subscription_begins_and_ends_between_two_messages_of_one_handler(serve):
    a, b = clients(serve(SCRIPT), 2, "t")
    a.do(f"""local b = kept[{b.id}]
        for i = 1, 100 do
          app.publish('t', '' .. i) app.publish('u', 'u' .. i)
          if i % 3 == 0 then assert(b:unsubscribe('t')) assert(b:subscribe('u')) end
          if i % 3 == 1 then b:subscribe('t') b:unsubscribe('u') end
        end""")
    assert a.texts() == [f"{i}" for i in range(1, 101)]
    assert b.texts() == ["1"] + [text for i in range(2, 101) for text in {
        0: [f"{i}"], 1: [f"u{i}"] if i > 1 else [], 2: [f"{i}"]}[i % 3]]


@pytest.mark.parametrize("close", ["kept[{0}]:close(4000)", "app.close({0}, 4000)"])
def test_what_was_published_before_a_close_arrives_before_it_and_nothing_after(serve, close):
    a, b = clients(serve(SCRIPT), 2, "t", "u")
    a.do(f"""for i = 1, 20 do app.publish(i % 3 == 0 and 'u' or 't', '' .. i) end
        {close.format(b.id)}
        for i = 21, 40 do app.publish(i % 3 == 0 and 'u' or 't', '' .. i) end""")
    assert a.texts() == [f"{i}" for i in range(1, 41)]
    assert [b.raw.text() for _ in range(20)] == [f"{i}" for i in range(1, 21)]
    assert closing_code(b) == 4000


def test_what_was_published_before_the_peer_closed_arrives_before_the_answer(serve):
    server = serve("""app.websocket("/x", function(ws)
        ws:subscribe("t")
        ws:on_text(function(ws, text) ws:send("1") app.publish("t", "2") ws:send("3") app.publish("t", "4") end)
      end)""")
    with server.raw("/x") as client:
        client.send(b"\x81\x80\0\0\0\0" + b"\x88\x82\0\0\0\0" + close_payload(1000))
        assert [client.text() for _ in range(4)] == ["1", "2", "3", "4"]
        client.expect_close(1000)


def test_what_a_handler_published_before_it_failed_goes_out_before_the_1011(serve):
    server = serve(SCRIPT + """app.websocket("/fail", function(ws)
        ws:subscribe("t")
        ws:on_text(function(ws)
          ws:publish("t", "1") app.publish("t", "2") ws:send("3") app.publish("t", "4")
          error("no")
        end)
      end)""")
    other, = clients(server, 1, "t")
    with server.raw("/fail") as client:
        client.send_frame(TEXT, "")
        assert [client.text() for _ in range(3)] == ["2", "3", "4"]
        client.expect_close(1011)
    assert other.texts() == ["1", "2", "4"]


def test_what_was_published_before_the_server_stops_arrives_before_the_1001(serve):
    server = serve(SCRIPT)
    a, b = clients(server, 2, "t")
    a.raw.send_frame(TEXT, "for i = 1, 1000 do app.publish('t', '' .. i) end log.info('published')")
    server.wait_log("published")
    server.process.terminate()
    assert [b.raw.text() for _ in range(1000)] == [f"{i}" for i in range(1, 1001)]
    assert closing_code(b) == 1001
    a.close()
    b.close()
    assert server.stop(None) == 0


# ---- the end of a subscription ----

LEAVING = {
    "ws:close": lambda c: (c.raw.send_frame(TEXT, "ws:close()"), closing_code(c), c.close()),
    "the peer's Close": lambda c: (c.raw.send_frame(CLOSE, close_payload(1000)), closing_code(c), c.close()),
    "the end of the stream": Client.close,
    "a reset": Client.reset,
    "an error": lambda c: (c.raw.send_frame(BINARY_OP, b"send 0 - -\n"), closing_code(c), c.close()),
    "unsubscribe": lambda c: c.do("return ws:unsubscribe('t') and ws:unsubscribe('u')"),
}


@pytest.mark.parametrize("how", LEAVING)
def test_subscriptions_end_with_the_connection_and_topics_with_their_last(serve, how):
    server = serve(SCRIPT)
    stays, *go = clients(server, 4, "t")
    for client in go:
        client.subscribe("u")
    assert stays.ask("return app.subscribers('t'), app.subscribers('u')") == "4 3"
    metrics = server.metrics()
    assert (metrics[SUBSCRIPTIONS], metrics["tidewire_topics"]) == (7, 2)
    for client in go:
        LEAVING[how](client)
    server.wait_metric(SUBSCRIPTIONS, 1)
    server.wait_metric("tidewire_topics", 1)
    assert stays.ask("return app.subscribers('t'), app.subscribers('u'), app.publish('t', 'still')") == "1 0 true"
    assert stays.texts() == ["still"]
    stays.do("return ws:unsubscribe('t')")
    server.wait_metric("tidewire_topics", 0)
    assert server.metrics()[SUBSCRIPTIONS] == 0


def test_in_on_close_the_connection_is_no_subscriber_any_more(serve):
    server = serve(SCRIPT + """app.websocket("/leave", function(ws)
        ws:subscribe("t")
        ws:send("in")
        ws:on_close(function(ws)
          log.info("left", app.subscribers("t"), ws:unsubscribe("t"), ws:subscribe("t"))
          log.info("publishing", ws:publish("t", "never"))
          log.info("published", app.publish("t", "goodbye"))
        end)
      end)""")
    stays, = clients(server, 1, "t")
    with server.raw("/leave") as client:
        assert client.text() == "in"
        assert stays.ask("return app.subscribers('t')") == "2"
    server.wait_log("left 1 false nil closed")
    server.wait_log("publishing nil closed")
    server.wait_log("published true")
    assert stays.texts() == ["goodbye"]
    assert stays.ask("return app.subscribers('t')") == "1"


def test_after_ws_close_nothing_can_be_subscribed_or_published(serve):
    server = serve(SCRIPT)
    a, b = clients(server, 2, "t")
    a.do(f"""local b = kept[{b.id}] b:close()
        local ok, why = b:subscribe('u') assert(ok == nil and why == 'closed')
        ok, why = b:publish('t', 'x') assert(ok == nil and why == 'closed')
        assert(b:unsubscribe('t') == true and b:unsubscribe('t') == false)
        assert(app.subscribers('t') == 1)""")
    assert a.texts() == []
    assert closing_code(b) == 1000


def test_a_box_of_a_connection_that_is_gone_says_closed(serve):
    server = serve(SCRIPT)
    a, b = clients(server, 2, "t")
    a.do(f"gone = kept[{b.id}]")
    b.reset()
    server.wait_metric("tidewire_websockets", 1)
    assert a.ask("return gone:subscribe('t')") == a.ask("return gone:publish('t', 'x')") == "nil closed"
    assert a.ask("return gone:unsubscribe('t')") == "false"
    assert a.ask("gone:subscribe('')").startswith("false")
    assert a.texts() == []


# ---- many ----

def test_thousands_of_topics_on_one_connection_keep_their_order(serve):
    server = serve(SCRIPT, max_subscriptions_per_connection=20_000, send_limit="16m")
    a, b = clients(server, 2)
    b.do("for i = 1, 20000 do assert(ws:subscribe('t' .. i)) end")
    order = "for i = 1, 40000 do local n = i * 7919 % 20000 + 1 {} end"
    a.do(order.format("assert(ws:publish('t' .. n, n .. ''))"))
    a.do(f"assert(app.send({b.id}, 'end'))")
    assert b.until("end") == [f"{i * 7919 % 20000 + 1}" for i in range(1, 40001)]
    b.do("for i = 1, 20000, 2 do assert(ws:unsubscribe('t' .. i)) end")
    a.do(order.format("assert(ws:publish('t' .. n, n .. ''))"))
    a.do(f"assert(app.send({b.id}, 'end'))")
    assert b.until("end") == [f"{n}" for n in (i * 7919 % 20000 + 1 for i in range(1, 40001)) if n % 2 == 0]
    assert server.metrics()[SUBSCRIPTIONS] == 10_000
    b.reset()
    server.wait_metric("tidewire_topics", 0)


def test_a_hundred_thousand_topics(serve):
    server = serve(SCRIPT)
    everyone = clients(server, 10)
    for client in everyone:
        client.raw.send_frame(TEXT, "for i = 1, 10000 do assert(ws:subscribe(ws.id .. ' ' .. i)) end")
    for client in everyone:
        assert client.raw.text() == "= "
    metrics = server.metrics()
    assert (metrics["tidewire_topics"], metrics[SUBSCRIPTIONS]) == (100_000, 100_000)
    everyone[0].do("for id in pairs(kept) do for i = 1, 10000, 97 do app.publish(id .. ' ' .. i, '' .. i) end end")
    for client in everyone:
        assert client.texts() == [f"{i}" for i in range(1, 10001, 97)]
    for client in everyone[1:]:
        client.close()
    server.wait_metric("tidewire_topics", 10_000)
    everyone[0].do("for i = 10000, 1, -1 do assert(ws:unsubscribe(ws.id .. ' ' .. i)) end")
    metrics = server.metrics()
    assert (metrics["tidewire_topics"], metrics[SUBSCRIPTIONS]) == (0, 0)


def test_a_hundred_to_a_hundred(serve):
    everyone = clients(serve(SCRIPT, send_limit="16m"), 100, "t")
    for client in everyone:
        client.raw.send_frame(TEXT, "for i = 1, 5 do assert(ws:publish('t', ws.id .. ' ' .. i)) end")
    for client in everyone:
        senders = {c.id: 0 for c in everyone}
        for _ in range(99 * 5 + 1):
            text = client.raw.text()
            if text != "= ":
                sender, i = map(int, text.split())
                assert senders[sender] + 1 == i
                senders[sender] = i
        assert senders == {c.id: 0 if c is client else 5 for c in everyone}


# ---- limits ----

def test_beyond_max_subscriptions_per_connection_subscribing_fails(serve):
    server = serve(SCRIPT, max_subscriptions_per_connection=3)
    a, b = clients(server, 2, "t1", "t2", "t3")
    assert a.ask("return ws:subscribe('t4')") == "nil too many subscriptions"
    a.subscribe("t1")  # it has that one
    assert server.metrics()["tidewire_topics"] == 3
    a.do("return ws:unsubscribe('t1')")
    a.subscribe("t4")
    a.do("return app.publish('t4', 'x')")
    assert (a.texts(), b.texts()) == (["x"], [])


def test_beyond_max_subscriptions_subscribing_fails_for_all(serve):
    server = serve(SCRIPT, max_subscriptions=5)
    a, b = clients(server, 1, "t1", "t2", "t3") + clients(server, 1, "t1", "t2")
    for client in a, b:
        assert client.ask("return ws:subscribe('t4')") == "nil too many subscriptions"
    metrics = server.metrics()
    assert (metrics["tidewire_topics"], metrics[SUBSCRIPTIONS]) == (3, 5)
    a.reset()
    server.wait_metric(SUBSCRIPTIONS, 2)
    b.subscribe("t4", "t5", "t6")
    assert b.ask("return ws:subscribe('t7')") == "nil too many subscriptions"


# ---- large messages, slow subscribers ----

@pytest.mark.parametrize("size", [200 << 10, MIB])
def test_large_messages_to_several_subscribers(serve, size):
    server = serve(SCRIPT, send_limit="64m")
    a, *others = clients(server, 5, "t")
    a.do(f"""for i = 1, 5 do
        assert(app.publish('t', ('%06d'):format(i) .. ('x'):rep({size}), {{binary = true}}))
        assert(ws:publish('t', 'small ' .. i))
      end""")
    large = [(BINARY_OP, f"{i:06}".encode() + b"x" * size) for i in range(1, 6)]
    assert a.received() == large
    for client in others:
        assert client.received() == [m for i in range(5) for m in (large[i], (TEXT, f"small {i + 1}".encode()))]
    server.wait_metric("tidewire_send_queue_bytes", 0)


def publish_until(publisher, readers, done, size):
    """Publishes numbered messages one after the other; each reader gets each at once. Returns how many.

    The kernel may take some megabytes for the slow one (tcp_wmem), but not 64 MiB.
    """
    for n in range(1, 64 * MIB // size):
        publisher.do(f"return ws:publish('t', ('%06d'):format({n}) .. ('x'):rep({size}))")
        for reader in readers:
            assert [text[:6] for text in reader.texts()] == [f"{n:06}"]
        if done():
            return n
    raise AssertionError("the slow one took it all")


@pytest.mark.parametrize("size", [3000, 100_000])
def test_on_slow_close_ends_the_slow_one_and_holds_nobody(serve, size):
    server = serve(SCRIPT, send_limit="64k", close_timeout=PATIENCE)
    publisher, *readers = clients(server, 4, "t")
    lazy = slow(server, "/run")
    lazy.subscribe("t")
    n = publish_until(publisher, readers, lambda: server.metrics()["tidewire_slow_consumers_closed_total"] == 1, size)
    assert publisher.ask("return app.subscribers('t')") == "4"
    hurry(lazy)
    for i in range(1, n):
        assert lazy.raw.text()[:6] == f"{i:06}"
    assert closing_code(lazy) == 1013
    assert server.metrics()[DROPPED] == 0


@pytest.mark.parametrize("size", [3000, 100_000])
def test_on_slow_drop_loses_the_newest_and_counts_them(serve, size):
    server = serve(SCRIPT, send_limit="64k")
    publisher, *readers = clients(server, 4, "t")
    lazy = slow(server, "/drop")
    lazy.subscribe("t")
    n = publish_until(publisher, readers, lambda: server.metrics()[DROPPED] >= 20, size)
    dropped = server.metrics()[DROPPED]
    hurry(lazy)
    got = [int(lazy.raw.text()[:6]) for _ in range(n - dropped)]
    assert got == sorted(set(got)) and got[0] == 1 and got[-1] <= n
    publisher.do("return ws:publish('t', 'again')")
    assert lazy.texts() == ["again"]
    assert server.metrics()["tidewire_slow_consumers_closed_total"] == 0


def test_of_what_one_handler_publishes_a_slow_subscriber_gets_what_fits(serve):
    server = serve(SCRIPT, send_limit="1m")
    publisher, = clients(server, 1)
    dropping, closing = slow(server, "/drop"), slow(server, "/run")
    for client in dropping, closing:
        client.subscribe("t")
    publisher.do("for i = 1, 100000 do assert(ws:publish('t', ('%06d'):format(i) .. ('x'):rep(100))) end")
    dropped = server.metrics()[DROPPED]
    assert dropped > 0
    hurry(dropping)
    got = [int(dropping.raw.text()[:6]) for _ in range(100_000 - dropped)]
    assert got == sorted(set(got)) and got[0] == 1
    assert dropping.texts() == []
    hurry(closing)
    n = 0
    while (frame := closing.raw.frame())[0] == TEXT:
        n += 1
        assert frame[1][:6] == b"%06d" % n
    assert frame[0] == CLOSE and frame[1][:2] == close_payload(1013) and n > 5000


def test_published_messages_stay_within_queue_limit(serve):
    server = serve(SCRIPT, queue_limit="1m", send_limit="64m", close_timeout=PATIENCE)
    publisher, reader = clients(server, 2, "t")
    lazy = [slow(server, "/drop") for _ in range(4)]
    for client in lazy:
        client.subscribe("t")

    def enough():
        metrics = server.metrics()
        assert metrics["tidewire_send_queue_bytes"] <= 2 * MIB
        return metrics[DROPPED] > 20 or metrics["tidewire_slow_consumers_closed_total"] > 0
    publish_until(publisher, [reader], enough, 100_000)


# ---- done, buffered ----

def test_done_of_a_send_comes_after_what_was_published_before(serve):
    server = serve(SCRIPT, send_limit="64m")
    publisher, other = clients(server, 2)
    lazy = slow(server, "/run")
    lazy.subscribe("t")
    publisher.do(f"for i = 1, 8 do app.publish('t', ('x'):rep({MIB})) end "
                 f"kept[{lazy.id}]:send('last', function(ok, err) log.info('taken', ok, err) end)")
    assert int(other.ask(f"return kept[{lazy.id}].buffered")) > MIB
    assert "taken" not in server.log
    hurry(lazy)
    for _ in range(8):
        assert len(lazy.raw.text()) == MIB
    assert lazy.raw.text() == "last"
    server.wait_log("taken true nil")


def test_done_fails_when_the_subscriber_is_gone_first(serve):
    server = serve(SCRIPT, send_limit="64m")
    publisher, = clients(server, 1)
    lazy = slow(server, "/run")
    lazy.subscribe("t")
    publisher.do(f"for i = 1, 8 do app.publish('t', ('x'):rep({MIB})) end "
                 f"kept[{lazy.id}]:send('last', function(ok, err) log.info('taken', ok, err) end)")
    lazy.reset()
    server.wait_log("taken nil closed")


def test_buffered_includes_what_was_published(serve):
    a, b = clients(serve(SCRIPT), 2, "t", "u")
    assert a.ask(f"""local b, before = kept[{b.id}], kept[{b.id}].buffered
        app.publish('t', 'x') app.publish('u', 'yy')
        local first = b.buffered - before
        ws:publish('t', ('x'):rep(1000)) b:publish('t', 'own')
        return first, b.buffered - before, ws.buffered""") == f"7 {7 + 1004} {7 + 5}"
    assert b.texts() == ["x", "yy", "x" * 1000]


# ---- from everywhere ----

@pytest.mark.parametrize("code", [
    "app.after(0.01, function() {} end)",
    "app.spawn(function() {} end)",
    "app.spawn(function() app.sleep(0.01) {} end)",
    "local p = app.promise() p:when_complete(function() {} end) p:resolve(1)",
    "ws:send('x', function() {} end)",
    "app.sleep(0.01) {}",
    "coroutine.wrap(function() app.sleep(0.01) {} end)()",
])
def test_publishing_and_subscribing_later(serve, code):
    a, b = clients(serve(SCRIPT), 2, "t")
    a.do("function later() ws_later:publish('t', '1') app.publish('t', '2') ws_later:subscribe('u') "
         "app.publish('u', '3') ws_later:unsubscribe('t') app.publish('t', '4') "
         f"app.send({b.id}, 'end') ws_later:send('end') end ws_later = ws")
    a.raw.send_frame(TEXT, code.format("later()"))
    assert b.until("end") == ["1", "2", "4"]
    assert [text for text in a.until("end") if text not in ("x", "= ")] == ["2", "3"]


def test_publishing_from_http_handlers_and_an_interval(serve):
    server = serve(SCRIPT + """
      app.post("/publish", function(req)
        return { ok = app.publish("t", req.body), n = app.subscribers("t") }
      end)
      local n, timer = 0, nil
      app.get("/every", function()
        timer = app.every(0.01, function()
          n = n + 1
          app.publish("t", "every " .. n)
          if n == 3 then timer:cancel() app.publish("t", "end") end
        end)
        return "started"
      end)""")
    a, b = clients(server, 2, "t")
    with server.raw() as http:
        answer = http.request("POST /publish HTTP/1.1\nHost: h\nContent-Length: 5\n\nhello")
        assert '"ok":true' in answer.body and '"n":2' in answer.body
        assert a.texts() == b.texts() == ["hello"]
        assert http.request("GET /every HTTP/1.1\nHost: h\n\n").body == "started"
    assert a.until("end") == b.until("end") == ["every 1", "every 2", "every 3"]


def test_publishing_from_on_drain(serve):
    server = serve(SCRIPT, send_limit="16m")
    a, = clients(server, 1, "t")
    lazy = slow(server, "/run")
    lazy.do("ws:on_drain(function(ws) app.publish('t', 'drained') app.publish('d', 'drained') end) ws:subscribe('d')")
    a.do("assert(app.publish('d', ('x'):rep(14 * 1048576)))")
    hurry(lazy)
    assert len(lazy.raw.text()) == 14 * MIB
    assert lazy.raw.text() == a.raw.text() == "drained"


# ---- reload ----

def test_connections_that_have_moved_keep_their_subscriptions_and_share_topics_with_new_ones(serve):
    server = serve(SCRIPT)
    old, other = clients(server, 2, "t")
    assert server.reload()
    assert server.reload()
    new, = clients(server, 1, "t")
    assert [c.ask("return app.generation, app.subscribers('t')") for c in (old, new)] == ["3 3", "3 3"]
    new.do("return ws:publish('t', 'from new')")
    old.do("return ws:publish('t', 'from old')")
    new.do("return app.publish('t', 'to all')")
    assert old.texts() == ["from new", "to all"]
    assert new.texts() == ["from old", "to all"]
    assert other.texts() == ["from new", "from old", "to all"]
    other.do("return ws:unsubscribe('t')")
    old.reset()
    server.wait_metric(SUBSCRIPTIONS, 1)
    assert new.ask("return app.subscribers('t')") == "1"
