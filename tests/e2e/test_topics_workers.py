# SPDX-License-Identifier: MIT
"""Topics over several workers: a message reaches the subscribers of all of them, and what one sender sends and
publishes arrives at each receiver in the order made, whatever comes and goes meanwhile.

TIDEWIRE_TEST_PUBLISHES is how many messages the numbered test publishes.
"""
import os
import random
import re
import selectors
from array import array

import pytest

from conftest import BINARY_OP, CLOSE, TEXT, close_payload
from test_topics import LEAVING, MIB, SCRIPT, SUBSCRIPTIONS, Client, closing_code, full, pieces

PUBLISHES = int(os.environ.get("TIDEWIRE_TEST_PUBLISHES", "20000"))
DROPPED = 'tidewire_messages_dropped_total{reason="inbox"}'


def spread(server, workers, each, *topics):
    """Clients on each worker, as {worker: [client, ...]}, that subscribe to the topics."""
    found = {number: [] for number in range(1, workers + 1)}
    for _ in range(1000):
        if all(len(some) == each for some in found.values()):
            break
        client = Client(server.raw("/run"))
        if len(found[client.worker]) < each:
            found[client.worker].append(client)
        else:
            client.close()
    assert all(len(some) == each for some in found.values()), "some worker gets no connections"
    for client in flat(found):
        client.subscribe(*topics)
    server.wait_metric("tidewire_connections", workers * each)
    return found


def flat(found):
    return [client for some in found.values() for client in some]


def hold(server, client, go_on):
    """Keeps the worker of this client busy until the file go_on is there; then "= " comes."""
    start = server.mark()
    client.raw.send_frame(TEXT, f"log.info('held') while not io.open({str(go_on)!r}) do end")
    server.wait_log("held", start)


# ---- delivery, subscribers ----

@pytest.mark.parametrize("workers", [2, 4])
def test_a_message_reaches_the_subscribers_of_all_workers_but_its_sender(serve, workers):
    server = serve(SCRIPT, workers=workers)
    everyone = flat(spread(server, workers, 3, "t"))
    quiet = Client(server.raw("/run"))
    for client in everyone:
        assert client.ask("return app.subscribers('t'), app.subscribers('none')") == f"{3 * workers} 0"
    for i, client in enumerate(everyone):
        client.do(f"return ws:publish('t', '{i} own') and app.publish('t', '{i}') and ws:publish('none', '')")
    expected = [f"{i}{own}" for i in range(len(everyone)) for own in (" own", "")]
    for i, client in enumerate(everyone):
        while len(client.got) < len(expected) - 1:
            client.got.append(client.raw.frame())
        assert sorted(client.texts()) == sorted(text for text in expected if text != f"{i} own")
    assert quiet.texts() == []


@pytest.mark.parametrize("how", LEAVING)
def test_subscribers_of_other_workers_count_until_they_leave(serve, how):
    server = serve(SCRIPT, workers=2)
    found = spread(server, 2, 2, "t", "u")
    (stays, *_), go = found[1], found[2]
    assert stays.ask("return app.subscribers('t')") == "4"
    for client in go:
        LEAVING[how](client)
    server.wait_metric(SUBSCRIPTIONS, 4)
    assert stays.ask("return app.subscribers('t'), app.subscribers('u'), app.publish('t', 'x')") == "2 2 true"
    assert stays.texts() == ["x"]
    for client in found[1]:
        client.close()
    server.wait_metric("tidewire_topics", 0)


def test_who_was_told_that_a_subscription_is_made_can_publish_to_it_from_any_worker(serve):
    server = serve(SCRIPT, workers=2)
    found = spread(server, 2, 1)
    (a,), (b,) = found.values()
    for i in range(200):
        topic = f"t{i}"
        b.subscribe(topic)
        a.do(f"return app.subscribers('{topic}') == 1 and app.publish('{topic}', '{i}')")
        assert b.raw.text() == f"{i}"
        b.do(f"return ws:unsubscribe('{topic}')")
        a.do(f"return app.subscribers('{topic}') == 0 and app.publish('{topic}', 'never')")
    assert b.texts() == a.texts() == []


def test_max_subscriptions_holds_for_all_workers_together(serve):
    server = serve(SCRIPT, workers=2, max_subscriptions=1000)
    (a,), (b,) = spread(server, 2, 1).values()
    fill = "local n = 0 while ws:subscribe('t' .. n) do n = n + 1 end return n"
    assert a.ask(fill) == "1000"
    assert 0 <= int(b.ask(fill)) <= 500  # its share it takes without asking
    assert b.ask("return ws:subscribe('more')") == "nil too many subscriptions"


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("size", [4000, 4096, 200 << 10, MIB])
def test_large_messages_reach_all_workers(serve, workers, size):
    server = serve(SCRIPT, workers=workers, send_limit="64m")
    found = spread(server, workers, 2, "t")
    sender = found[1][0]
    sender.do(f"""for i = 1, 4 do
        assert(ws:publish('t', ('%06d'):format(i) .. ('x'):rep({size - 6}), {{binary = true}}))
        assert(ws:publish('t', 'small ' .. i))
      end""")
    for client in flat(found):
        for i in range(1, 5) if client is not sender else ():
            assert client.raw.frame() == (BINARY_OP, f"{i:06}".encode() + b"x" * (size - 6))
            assert client.raw.text() == f"small {i}"
    assert sender.texts() == []
    server.wait_metric("tidewire_send_queue_bytes", 0)


# ---- order ----

def play(rng, sender, everyone, topics, steps):
    """A random program for one handler of `sender`, and what each of everyone gets. What only works on the own
    worker is done to clients of that."""
    members = {(c.id, t) for c in everyone for t in topics if rng.random() < 0.5}
    near = [c for c in everyone if c.worker == sender.worker]
    program, expected = [], {c.id: [] for c in everyone}
    for i in range(steps):
        op = rng.choice(["publish", "publish", "publish_to_all", "publish_to_all", "letter"])
        who, topic = rng.choice(everyone if op == "letter" else near).id, rng.choice(topics)
        data = f"m{i}x*{rng.choices([1, 300, 2000, 5000, 100_000], [80, 10, 10, 5, 1])[0]}"
        program.append(f"{op} {who} {topic} {data}")
        for c in everyone:
            gets = c.id == who if op == "letter" else (c.id, topic) in members and (
                op == "publish_to_all" or c.id != who)
            if gets:
                expected[c.id].append(data)
    return members, program, expected


@pytest.mark.parametrize("sizes", [(1,), (1, 5, 60), (100_000,)], ids=["single", "mixed", "one handler"])
@pytest.mark.parametrize("ntopics", [1, 5, 300])
@pytest.mark.parametrize("workers", [2, 4])
def test_letters_and_publishes_arrive_in_the_order_made_on_all_workers(serve, workers, ntopics, sizes):
    rng = random.Random(f"{workers} {ntopics} {sizes}")
    server = serve(SCRIPT, workers=workers, send_limit="64m")
    everyone = flat(spread(server, workers, 2))
    sender = everyone[0]
    members, program, expected = play(rng, sender, everyone, [f"t{i}" for i in range(ntopics)], 800)
    for client in everyone:
        topics = " ".join(t for who, t in sorted(members) if who == client.id)
        client.do(f"for t in ('{topics}'):gmatch('%S+') do assert(ws:subscribe(t)) end")
    for piece in pieces(rng, program, sizes):
        sender.raw.send_frame(BINARY_OP, piece)
    ids = ", ".join(str(client.id) for client in everyone)
    sender.raw.send_frame(TEXT, f"for _, id in ipairs({{{ids}}}) do assert(app.send(id, 'end')) end")
    for client in everyone:
        assert client.until("end") == [full(data) for data in expected[client.id]]


def test_a_close_from_another_worker_comes_behind_what_was_published(serve):
    server = serve(SCRIPT, workers=2)
    (a,), (b,) = spread(server, 2, 1, "t", "u").values()
    a.do(f"""for i = 1, 50 do app.publish(i % 3 == 0 and 'u' or 't', '' .. i) app.send({b.id}, 'sent ' .. i) end
        app.close({b.id}, 4000)
        for i = 51, 60 do app.publish('t', '' .. i) end""")
    assert a.texts() == [f"{i}" for i in range(1, 61)]
    assert [b.raw.text() for _ in range(100)] == [f"{kind}{i}" for i in range(1, 51) for kind in ("", "sent ")]
    assert closing_code(b) == 4000


@pytest.mark.parametrize("workers", [2, 4])
def test_several_senders_at_once_each_in_its_order(serve, workers):
    server = serve(SCRIPT, workers=workers, send_limit="64m")
    everyone = flat(spread(server, workers, 2, "t", "u"))
    batch = """N = N or {} for _ = 1, 100 do
        local n = (N[ws] or 0) + 1
        N[ws] = n
        local topic, data = n % 5 < 3 and 't' or 'u', ws.id .. ' ' .. n .. ' ' .. ('x'):rep(n % 97 == 0 and 5000 or 5)
        if n % 2 == 0 then assert(ws:publish(topic, data)) else assert(app.publish(topic, data)) end
      end"""
    for _ in range(10):
        for client in everyone:
            client.raw.send_frame(TEXT, batch)
    for client in everyone:
        seen = {c.id: 0 for c in everyone}
        for _ in range(1000 * (len(everyone) - 1) + 500 + 10):
            text = client.raw.text()
            if text.startswith("= "):
                continue
            sender, n = map(int, text.split()[:2])
            assert n == seen[sender] + (2 if sender == client.id and seen[sender] else 1)
            seen[sender] = n
        assert seen == {c.id: 999 if c is client else 1000 for c in everyone}


# ---- inbox_limit ----

@pytest.mark.parametrize("size", [8, 1000, 5000, 100_000])
def test_what_a_busy_worker_accepts_arrives_in_order_and_the_rest_is_refused(serve, tmp_path, size):
    server = serve(SCRIPT, workers=2, handler_budget=60, inbox_limit="1m", send_limit="64m")
    (sender, near), (holder, far) = spread(server, 2, 2, "t").values()
    go_on = tmp_path / "go on"
    hold(server, holder, go_on)
    n = int(sender.ask(f"""local n, ok, why = 0
        repeat
          n = n + 1
          ok, why = ws:publish('t', ('%08d'):format(n) .. ('x'):rep({size - 8}))
        until not ok
        local ok2, why2 = app.publish('t', ('%08d'):format(n + 1) .. ('x'):rep({size - 8}))
        local ok3, why3 = app.send({far.id}, ('x'):rep(100000))
        assert(why == 'queue full' and why2 == 'queue full' and why3 == 'queue full')
        assert(app.publish('none', 'x'))
        return n"""))
    assert MIB // (size + 100) < n <= MIB // size + 1
    assert server.metrics()[DROPPED] >= 2
    go_on.touch()
    assert holder.raw.text() == "= "
    for client in near, far, holder:
        for i in range(1, n + 2 if client is near else n):
            assert client.raw.text()[:8] == f"{i:08}"
    assert sender.texts()[0][:8] == f"{n + 1:08}"
    sender.do("return ws:publish('t', 'again')")
    for client in near, far, holder:
        assert client.raw.text() == "again"


def test_a_busy_worker_holds_nobody_on_the_others(serve, tmp_path):
    server = serve(SCRIPT, workers=2, handler_budget=60)
    (sender, near), (holder, far) = spread(server, 2, 2, "t").values()
    go_on = tmp_path / "go on"
    hold(server, holder, go_on)
    for i in range(50):
        sender.do(f"return ws:publish('t', '{i}')")
        assert near.raw.text() == f"{i}"
    assert sender.ask("return app.subscribers('t')") == "4"
    go_on.touch()
    assert holder.raw.text() == "= "
    for client in holder, far:
        assert [client.raw.text() for _ in range(50)] == [f"{i}" for i in range(50)]


def test_what_is_published_to_those_who_leave_meanwhile_is_forgotten(serve, tmp_path):
    server = serve(SCRIPT, workers=2, handler_budget=60)
    (sender, _), (holder, far) = spread(server, 2, 2).values()
    far.subscribe("t", "u")
    go_on = tmp_path / "go on"
    hold(server, holder, go_on)
    sender.do(f"for i = 1, 500 do assert(app.publish('t', ('x'):rep(10000)) and app.publish('u', 'x')) end")
    far.reset()
    go_on.touch()
    server.wait_metric(SUBSCRIPTIONS, 0)
    server.wait_metric("tidewire_topics", 0)
    assert sender.ask("return app.subscribers('t')") == "0"


def test_publishes_under_way_do_not_hinder_the_end(serve):
    server = serve(SCRIPT, workers=4, close_timeout=0.2, send_limit="64m")
    everyone = flat(spread(server, 4, 2, "t"))
    for client in everyone:
        client.raw.send_frame(TEXT, """local function go()
            for i = 1, 20 do app.publish('t', ('x'):rep(i * 300)) end
            log.info("going") app.after(0.001, go)
          end go()""")
    server.wait_log("going(.|\n)*going(.|\n)*going")
    assert server.stop() == 0


def test_old_and_new_code_of_several_workers_share_topics(serve):
    server = serve(SCRIPT, workers=2, send_limit="64m")
    old = flat(spread(server, 2, 1, "t"))
    old[0].do("""n = 0 function go(ws) for _ = 1, 50 do n = n + 1 assert(ws:publish('t', '' .. n)) end
        if n < 20000 then app.after(0.001, function() go(ws) end) end end go(ws)""")
    new = []
    for _ in range(5):
        assert server.reload()
        new.append(Client(server.raw("/run")))
        new[-1].subscribe("t")
    assert old[1].until("20000") == [f"{i}" for i in range(1, 20000)]
    for client in new:
        texts = client.until("20000")
        assert texts == [f"{i}" for i in range(20000 - len(texts), 20000)]
    assert [client.ask("return app.generation, app.subscribers('t')") for client in old + new] == ["6 7"] * 7


# ---- a storm ----

TOPICS = [f"s{i}" for i in range(5)]


class Storm:
    """Clients that stay and watch, some of which publish; and others that come and go, publishing too. `sent` has the
    messages of each sender in the order made."""

    def __init__(self, server, workers, seed):
        self.server = server
        self.rng = random.Random(seed)
        self.stay = flat(spread(server, workers, 2, *TOPICS))
        self.seen = {client.id: {} for client in self.stay}
        self.last = {}
        self.sent = {}
        self.come = []

    def program(self, client):
        """What a client does next, as code; what it publishes is noted."""
        lines = []
        for _ in range(self.rng.choice([1, 3, 20])):
            act, topic = self.rng.choice(["publish", "publish", "subscribe", "unsubscribe"]), self.rng.choice(TOPICS)
            if act == "publish" or client in self.stay:
                mine = self.sent.setdefault(client.id, [])
                mine.append(f"{client.id} {len(mine)}")
                size = self.rng.choices([1, 6000], [30, 1])[0]
                lines.append(f"assert(ws:publish('{topic}', '{mine[-1]} ' .. ('x'):rep({size})))")
            else:
                lines.append(f"ws:{act}('{topic}')")
        return "\n".join(lines)

    def note(self, client, frames):
        for opcode, payload in frames:
            assert opcode == TEXT, (opcode, payload)
            sender, n, _ = payload.decode().split()
            seen = self.seen[client.id].setdefault(int(sender), [])
            seen.append(f"{sender} {n}")

    def check(self, client):
        """Nothing came twice or out of order, and nothing of its own, to one that comes and goes."""
        last = self.last.setdefault(client.id, {client.id: 1 << 60})
        for _, payload in client.got:
            sender, n, _ = payload.split()
            assert int(n) > last.get(int(sender), -1), payload
            last[int(sender)] = int(n)
        client.got = []

    def step(self):
        rng = self.rng
        while len(self.come) < 12:
            self.come.append(Client(self.server.raw("/run")))
        active = rng.sample(self.come, 6) + rng.sample(self.stay, 2)
        for client in active:
            client.raw.send_frame(TEXT, self.program(client))
        for client in active:
            while not (frame := client.raw.frame())[1].startswith(b"= "):
                client.got.append(frame)
            assert frame == (TEXT, b"= "), frame
        for client in self.come:
            self.check(client)
        for client in rng.sample(self.come, 4):
            self.come.remove(client)
            way = rng.choice(["close", "reset", "ws:close", "Close"])
            if way == "ws:close":
                client.raw.send_frame(TEXT, "app.close(ws.id)")
            elif way == "Close":
                client.raw.send_frame(CLOSE, close_payload(1000))
            (client.reset if way == "reset" else client.close)()
        for client in self.stay:
            self.note(client, client.received())

    def finish(self):
        """Everything published by anyone else has come to each that stayed, once and in order."""
        for client in self.stay:
            client.do(f"return app.publish('{TOPICS[0]}', '0 {client.id} end')")
        for client in self.stay:
            self.note(client, client.got)
            client.got = []
            total = len(self.stay) + sum(len(mine) for sender, mine in self.sent.items() if sender != client.id)
            while sum(map(len, self.seen[client.id].values())) < total:
                self.note(client, [client.raw.frame()])
            ends = self.seen[client.id].pop(0)
            assert sorted(ends) == sorted(f"0 {c.id}" for c in self.stay)
            assert self.seen[client.id] == {sender: mine for sender, mine in self.sent.items() if sender != client.id}
            assert client.received() == []


@pytest.mark.parametrize("reloads", [False, True], ids=["", "with reloads"])
@pytest.mark.parametrize("workers", [2, 4])
def test_in_a_storm_nothing_is_lost_for_those_who_stay(serve, workers, reloads):
    server = serve(SCRIPT, workers=workers, send_limit="64m", inbox_limit="64m")
    storm = Storm(server, workers, f"{workers} {reloads}")
    for turn in range(150):
        storm.step()
        if reloads and turn % 30 == 5:
            assert server.reload()
    storm.finish()
    for client in storm.come + storm.stay:
        client.close()
    server.wait_metric(SUBSCRIPTIONS, 0)
    server.wait_metric("tidewire_topics", 0)


# ---- the numbered test ----

NUMBERED = """
local topics = {"a", "b", "c"}
app.websocket("/receive", function(ws)
  for _, topic in ipairs(topics) do ws:subscribe(topic) end
  ws:send("" .. app.worker)
end)
app.websocket("/publish", function(ws)
  ws:send("" .. app.worker)
  ws:on_text(function(ws, text) -- the sender's number, the first and the last message
    local sender, first, last = text:match("(%d+) (%d+) (%d+)")
    local options = {binary = true}
    for n = tonumber(first), tonumber(last) do
      local data = string.pack("=I6I8", 0, tonumber(sender) << 40 | n)
      assert(ws:publish(topics[n // 7 % 3 + 1], data, options))
    end
    ws:send("done")
  end)
end)
"""
BATCH, WINDOW, FRAME = 5000, 2, 16


class Receiver:
    """Checks that the messages of each sender come numbered 0, 1, 2 ..."""

    def __init__(self, raw, senders):
        self.raw = raw
        self.rest = raw.buffer
        self.next = [sender << 40 for sender in range(senders)]

    def read(self):
        data = self.rest + self.raw.sock.recv(1 << 18)
        whole = len(data) - len(data) % FRAME
        assert len(data) > len(self.rest), "the server closed"
        assert data[:whole:FRAME].count(0x82) == data[1:whole:FRAME].count(FRAME - 2) == whole // FRAME
        expected = self.next
        for number in array("Q", data[:whole])[1::2]:
            sender = number >> 40
            assert expected[sender] == number, f"message {number & 0xffffffff} of {sender} for {expected[sender]:#x}"
            expected[sender] = number + 1
        self.rest = data[whole:]

    def have(self, sender):
        return self.next[sender] - (sender << 40)


def on_every_worker(server, path, workers):
    found = {}
    for _ in range(1000):
        raw = server.raw(path)
        number = int(raw.text())
        if number in found:
            raw.close()
        found.setdefault(number, raw)
        if len(found) == workers:
            return list(found.values())
    raise AssertionError(f"only the workers {sorted(found)} get connections")


def run_numbered(receivers, publishers, each):
    """Every publisher publishes `each` messages, in batches of which WINDOW are under way at most."""
    asked = [0] * len(publishers)
    with selectors.DefaultSelector() as selector:
        for receiver in receivers:
            selector.register(receiver.raw.sock, selectors.EVENT_READ, receiver)
        while (have := [min(r.have(s) for r in receivers) for s in range(len(publishers))]) != [each] * len(asked):
            for sender, publisher in enumerate(publishers):
                while asked[sender] < each and asked[sender] - have[sender] <= (WINDOW - 1) * BATCH:
                    last = min(asked[sender] + BATCH, each)
                    publisher.send_frame(TEXT, f"{sender} {asked[sender]} {last - 1}")
                    asked[sender] = last
            ready = selector.select(60)
            assert ready, f"{have} of {asked} have come"
            for key, _ in ready:
                key.data.read()


@pytest.mark.parametrize("workers", [2, 4])
def test_numbered_publishes_are_neither_lost_nor_doubled_nor_reordered(serve, workers):
    server = serve(NUMBERED, workers=workers, send_limit="8m", ping_interval=0, idle_timeout=0)
    publishers = on_every_worker(server, "/publish", workers)
    receivers = [Receiver(raw, workers) for raw in on_every_worker(server, "/receive", workers)]
    each = PUBLISHES // workers
    server.wait_metric(SUBSCRIPTIONS, 3 * workers)
    run_numbered(receivers, publishers, each)
    for publisher in publishers:
        assert [publisher.text() for _ in range(0, each, BATCH)] == ["done"] * -(-each // BATCH)
    metrics = server.metrics()
    assert metrics["tidewire_published_total"] == each * workers
    assert metrics[DROPPED] == 0
    for receiver in receivers:
        assert not receiver.rest
        receiver.raw.send_frame(CLOSE, close_payload(1000))
        receiver.raw.expect_close(1000)
