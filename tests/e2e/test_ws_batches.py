# SPDX-License-Identifier: MIT
"""Several messages that the server reads at once: each is handled as if it had come alone, whatever the one before it
has done."""
import pytest

from conftest import BINARY_OP, CLOSE, CONT, PING, PONG, TEXT, close_payload, frame
from migrating import MOVED
from test_access_log import Access

COUNT = 16

# A message is Lua code, in which `ws` is the connection. Its route is told how many have been handled.
RUN = """
handled = 0
function pass(key) while not app.shared.get(key) do app.sleep(0.001) end end
local function run(ws, text)
  handled = handled + 1
  assert(load("local ws = ... " .. text, "=code"))(ws)
end
app.websocket("/", {OPTIONS}, function(ws)
  ws:on_text(run)
  ws:on_close(function(ws, code) log.info(("over %d, %d handled"):format(code, handled)) end)
end)
app.websocket("/other", function(ws) ws:on_text(function(ws, text) ws:send(text .. " to you") end) end)
app.websocket("/set", function(ws)
  ws:on_text(function(ws, key) app.shared.set(key, true) ws:send("set") end)
end)
"""

SAY = [f"ws:send('{i}')" for i in range(COUNT)]

# Which of them does something else: the first, two in the middle, the last.
some = pytest.mark.parametrize("k", [0, 1, 9, COUNT - 1])

RECEIVED = "tidewire_messages_received_total"
CALLS = "tidewire_handler_calls_total"
ERRORS = 'tidewire_handler_errors_total{reason="error"}'
CUTS = 'tidewire_handler_errors_total{reason="budget"}'


def run(serve, options="", **settings):
    return serve(RUN.replace("OPTIONS", options), **settings)


def batch(*texts):
    return b"".join(frame(TEXT, text) for text in texts)


def say_but(k, code):
    """All say their numbers, and number k is `code`."""
    return batch(*SAY[:k], code, *SAY[k + 1:])


def said(client, first, last):
    """It gets the numbers from `first` up to, not with, `last`."""
    assert [client.text() for _ in range(first, last)] == [str(i) for i in range(first, last)]


def others_go_on(server):
    with server.raw("/other") as other:
        other.send(batch(*"abc"))
        assert [other.text() for _ in range(3)] == ["a to you", "b to you", "c to you"]


def let_pass(server, key="go"):
    with server.raw("/set") as other:
        other.send_frame(TEXT, key)
        assert other.text() == "set"


# ---- all is well ----

def test_messages_of_any_kind_and_size_are_handled_in_order_and_counted(serve):
    server = serve("""app.websocket("/", function(ws)
      ws:on_text(function(_, text) ws:send(text) end)
      ws:on_binary(function(_, bytes) ws:send_binary(bytes) end)
    end)""")
    sizes = [20, 0, 125, 126, 127, 128, 1, 300, 5000, 0, 3]
    messages = [(opcode, bytes([97 + i]) * size) for i, size in enumerate(sizes) for opcode in (TEXT, BINARY_OP)]
    with server.raw("/") as client:
        before = server.metrics()
        for _ in range(3):
            client.send(b"".join(frame(*message) for message in messages))
            assert [client.frame() for _ in messages] == messages
        after = server.metrics()
    for name in (RECEIVED, CALLS):
        assert after[name] - before[name] == 3 * len(messages), name


def test_the_access_log_counts_each_of_them(serve, tmp_path):
    access = Access(serve, tmp_path / "access", script=RUN.replace("OPTIONS", ""))
    data = batch(*SAY) + frame(CLOSE, close_payload(1000))
    with access.server.raw("/") as client:
        client.send(data)
        said(client, 0, COUNT)
        client.expect_close(1000)
    line, = access.wait(1)
    assert (line["messages_in"], line["bytes_in"]) == (COUNT, len(data))


def test_each_message_is_looked_at_by_itself(serve):
    """Text may be sent as it came; bytes that are no text may not, though the text before them was."""
    server = serve("""app.websocket("/", function(ws)
      ws:on_text(function(_, text) ws:send(text) end)
      ws:on_binary(function(_, bytes) ws:send(tostring(select(2, ws:send(bytes)))) end)
    end)""")
    with server.raw("/") as client:
        text = "x" * 200
        client.send((frame(TEXT, text) + frame(BINARY_OP, b"\xff" * 200)) * 3)
        assert [client.text() for _ in range(6)] == [text, "not UTF-8"] * 3


def test_text_that_was_sent_on_does_not_stand_for_bytes_that_take_its_place(serve):
    """A string may be where another one was, once that has been collected."""
    server = serve("""app.websocket("/", function(ws)
      ws:on_text(function(_, text) ws:send(text) end)
      ws:on_binary(function(_, bytes)
        collectgarbage()
        local kept, sent = {}, 0
        for i = 1, 500 do
          kept[i] = bytes .. "\\xff"
          sent = sent + (ws:send(kept[i]) and 1 or 0)
        end
        ws:send("sent " .. sent)
      end)
    end)""")
    with server.raw("/") as client:
        client.send((frame(TEXT, "x" * 200) + frame(BINARY_OP, b"x" * 199)) * 2)
        assert [client.text() for _ in range(4)] == ["x" * 200, "sent 0"] * 2


def test_thousands_in_one_read_are_handled_in_order(serve):
    server = run(serve)
    texts = [f"ws:send('{i}')" for i in range(5000)]
    with server.raw("/") as client:
        client.send(batch(*texts))
        said(client, 0, len(texts))


def test_a_connection_that_the_script_has_opened_gets_them_in_order(serve):
    server = serve("""
    app.websocket("/many", function(ws) for i = 0, 15 do ws:send(tostring(i)) end end)
    app.websocket("/", function(ws)
      ws:on_text(function(_, url)
        app.connect(url, function(c) c:on_text(function(_, text) ws:send(text) end) end)
      end)
    end)""")
    with server.raw("/") as client:
        client.send_frame(TEXT, server.url("/many"))
        said(client, 0, COUNT)


# ---- what one message's handler does ----

@some
def test_after_a_close_none_is_handled(serve, k):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(k, f"ws:send('{k}') ws:close(4000, 'enough')"))
        said(client, 0, k + 1)
        assert client.frame() == (CLOSE, close_payload(4000, b"enough"))
        client.send_frame(CLOSE, close_payload(4000))
        client.expect_end()
    server.wait_log(f"over 4000, {k + 1} handled")
    assert server.metrics()[RECEIVED] == k + 1


@some
def test_after_one_that_fails_none_is_handled(serve, k):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(k, "error('no more')"))
        said(client, 0, k)
        client.expect_close(1011)
    server.wait_log(f"over 1011, {k + 1} handled")
    server.wait_log(r"code:1: no more\n +stack traceback:\n.*'error'\n.*code:1: in .*\n.*main\.lua:6: in .*\n\d{4}-")
    others_go_on(server)
    assert server.log.count("no more") == 1
    metrics = server.metrics()
    assert (metrics[ERRORS], metrics[CUTS]) == (1, 0)


@some
def test_after_one_that_runs_too_long_none_is_handled(serve, k):
    server = run(serve, handler_budget=0.2)
    with server.raw("/") as client:
        client.send(say_but(k, "while true do end"))
        said(client, 0, k)
        client.expect_close(1011)
    server.wait_log(f"over 1011, {k + 1} handled")
    others_go_on(server)
    assert server.log.count("cut: it ran longer") == 1
    metrics = server.metrics()
    assert (metrics[ERRORS], metrics[CUTS]) == (0, 1)


@some
def test_after_one_that_runs_out_of_memory_none_is_handled(serve, k):
    server = run(serve, vm_memory="16m", handler_budget=60)
    with server.raw("/") as client:
        client.send(say_but(k, "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end"))
        said(client, 0, k)
        client.expect_close(1011)
    server.wait_log(f"over 1011, {k + 1} handled")
    server.wait_log("not enough memory")
    others_go_on(server)
    assert server.metrics()[ERRORS] == 1


def test_after_an_error_that_is_caught_all_are_handled(serve):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(5, "ws:send(tostring(pcall(error, 'x') == false and 5))"))
        said(client, 0, COUNT)
    assert server.metrics()[ERRORS] == 0


@some
def test_while_one_waits_the_others_do_and_pings_do_not(serve, k):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(k, f"pass('go') ws:send('{k}')") + frame(PING, "p"))
        said(client, 0, k)
        assert client.frame() == (PONG, b"p")
        client.send(batch("ws:send('16')", "ws:send('17')"))
        let_pass(server)
        said(client, k, COUNT + 2)


def test_each_of_them_may_wait(serve):
    server = run(serve)
    with server.raw("/") as client:
        codes = [f"{'app.sleep(0)' if i % 3 else ''} {say} {'app.sleep(0)' if i % 4 == 0 else ''}"
                 for i, say in enumerate(SAY)]
        for _ in range(3):
            client.send(batch(*codes))
            said(client, 0, COUNT)


def test_an_error_after_a_wait_ends_it_as_well(serve):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(5, "app.sleep(0) error('no more')"))
        said(client, 0, 5)
        client.expect_close(1011)
    server.wait_log("over 1011, 6 handled")
    assert server.log.count("no more") == 1


@some
def test_a_handler_that_is_replaced_is_not_called_for_the_next(serve, k):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(k, "ws:on_text(function(ws, text) ws:send('new ' .. text) end)"))
        said(client, 0, k)
        assert [client.text() for _ in SAY[k + 1:]] == [f"new {text}" for text in SAY[k + 1:]]


def test_messages_that_nobody_wants_are_passed_over(serve):
    server = run(serve)
    with server.raw("/") as client:
        wanted = "ws:on_binary(function(ws, bytes) ws:send('bytes') ws:on_text(function(ws, text) ws:send(text) end) end)"
        client.send(frame(BINARY_OP, "early") + batch(wanted, "ws:on_text(nil)", "lost", "lost") +
                    frame(BINARY_OP, "x") + batch("found", "too"))
        assert [client.text() for _ in range(3)] == ["bytes", "found", "too"]


def test_a_handler_may_close_another_connection_whose_messages_wait(serve):
    server = run(serve)
    with server.raw("/") as victim, server.raw("/") as client:
        victim.send(batch("other = ws ws:send('0') pass('go')", *SAY))
        said(victim, 0, 1)
        client.send(say_but(3, "other:close(4001) ws:send('3')"))
        said(client, 0, COUNT)
        assert victim.frame() == (CLOSE, close_payload(4001))
        victim.send_frame(CLOSE, close_payload(4001))
        victim.expect_end()


# ---- what is between them ----

@some
def test_a_ping_in_between_is_answered_in_its_place(serve, k):
    server = run(serve)
    with server.raw("/") as client:
        client.send_frame(TEXT, "ws:on_ping(function(ws, payload) ws:send('ping ' .. payload) end) ws:send('-')")
        assert client.text() == "-"
        client.send(batch(*SAY[:k]) + frame(PING, "p") + batch(*SAY[k:]))
        said(client, 0, k)
        assert client.frame() == (PONG, b"p")
        assert client.text() == "ping p"
        said(client, k, COUNT)


def test_fragments_in_between_are_one_message_in_its_place(serve):
    server = run(serve)
    with server.raw("/") as client:
        pieces = frame(TEXT, SAY[5][:4], fin=False) + frame(PING, "p") + frame(CONT, SAY[5][4:])
        client.send(batch(*SAY[:5]) + pieces + batch(*SAY[6:]))
        said(client, 0, 5)
        assert client.frame() == (PONG, b"p")
        said(client, 5, COUNT)


def test_a_message_that_is_cut_by_the_end_of_the_read_comes_in_its_place(serve):
    server = run(serve)
    data, last = batch(*SAY), len(batch(SAY[-1]))
    with server.raw("/") as client:
        for cut in range(len(data) - last, len(data)):
            server.send_apart(client, data[:cut], data[cut:])
            said(client, 0, COUNT)


FAULTS = {
    "not masked": (frame(TEXT, "x", mask=None), 1002),
    "reserved bit": (frame(TEXT, "x", rsv=4), 1002),
    "reserved opcode": (frame(3, "x"), 1002),
    "fragment of nothing": (frame(CONT, "x"), 1002),
    "message within a message": (frame(TEXT, "x", fin=False) + frame(TEXT, "x"), 1002),
    "long ping": (frame(PING, "x" * 126), 1002),
    "not UTF-8": (frame(TEXT, b"ws:send('\xff')"), 1007),
    "too big": (frame(TEXT, " " * 1001), 1009),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_came_before_a_fault_is_handled(serve, name):
    server = run(serve, max_message=1000)
    fault, code = FAULTS[name]
    with server.raw("/") as client:
        client.send(batch(*SAY) + fault + batch(*SAY))
        said(client, 0, COUNT)
        client.expect_close(code)
    server.wait_log(f"over {code}, {COUNT} handled")
    assert server.metrics()["tidewire_websocket_faults_total"] == 1


def test_what_came_before_the_peers_close_is_handled(serve):
    server = run(serve)
    with server.raw("/") as client:
        client.send(batch(*SAY) + frame(CLOSE, close_payload(4002)) + batch(*SAY))
        said(client, 0, COUNT)
        client.expect_close(4002)
    server.wait_log(f"over 4002, {COUNT} handled")


# ---- reloads and limits ----

def test_many_messages_that_take_their_time_leave_others_their_turn(serve, tmp_path):
    gate = tmp_path / "gate"
    server = run(serve)
    with server.raw("/") as client, server.raw("/") as other:
        hold = f"log.info('held') while not io.open('{gate}') do end"
        slow = [f"local till = os.clock() + 0.01 repeat until os.clock() > till {say}" for say in SAY]
        client.send(batch(SAY[0], hold, *slow[2:]))
        server.wait_log("held")
        other.send_frame(TEXT, "ws:send(handled)")
        gate.touch()
        said(client, 0, 1)
        said(client, 2, COUNT)
        assert int(other.text()) < COUNT

@some
def test_those_behind_one_that_waits_are_for_the_new_code_after_a_reload(serve, k):
    server = run(serve)
    with server.raw("/") as client:
        client.send(say_but(k, f"pass('go') ws:send('{k}')") + frame(PING, "p"))
        said(client, 0, k)
        assert client.frame() == (PONG, b"p")
        assert server.reload(RUN.replace("OPTIONS", "").replace("= ...", "= ... name = 'new'"))
        let_pass(server)
        said(client, k, COUNT)
        client.send(batch("ws:send(name)", "ws:send(handled - 1)"))
        assert client.text() == "new"
        assert client.text() == str(COUNT - 1 - k + 1)
    server.wait_metric(MOVED, 1)


def test_no_more_are_handled_than_messages_per_second(serve):
    """And the others are kept, until a new code allows them."""
    server = run(serve, "messages_per_second = 0.001")
    with server.raw("/") as client, server.raw("/other") as other:
        client.send(batch(*SAY))
        said(client, 0, 1)
        for _ in range(20):
            other.send_frame(TEXT, "x")
            assert other.text() == "x to you"
        assert server.metrics()[RECEIVED] == 1 + 20
        assert server.reload(RUN.replace("OPTIONS", ""))
        said(client, 1, COUNT)
