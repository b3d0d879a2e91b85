# SPDX-License-Identifier: MIT
"""What becomes of the objects of old code at a reload and at the end of reload_drain: suspended handlers, timers,
completions, promises, old ws boxes, requests; app.on_start and app.on_stop."""
import re
import signal
import socket
import threading

import pytest

from conftest import CLOSE, PATIENCE, TEXT, close_payload, frame
from migrating import MOVED, TAKEN, TOOLS, ask, code, move, on_each_worker, served_by, tell

LEFT = "generation 1: .* left at the end of reload_drain is cancelled.*"


# ---- suspended handlers ----

WAIT = "log.info('waits in ' .. NAME) pass('go') ws:send('finished in ' .. NAME .. ' ' .. ws.generation)"
AWAIT = """log.info('waits in ' .. NAME) local p = app.promise() app.spawn(function() pass('go') p:resolve() end)
           p:await() ws:send('finished in ' .. NAME .. ' ' .. ws.generation)"""
OWN = "coroutine.wrap(function() " + WAIT + " end)()"


@pytest.mark.parametrize("wait", [WAIT, AWAIT, OWN], ids=["sleep", "promise", "own coroutine"])
@pytest.mark.parametrize("behind", [True, False], ids=["a message behind it", "nothing behind it"])
def test_a_suspended_handler_finishes_in_its_code_and_then_the_connection_moves(serve, wait, behind):
    server = serve(code("one"))
    with server.raw("/run") as client, server.raw("/run") as other:
        tell(client, wait)
        server.wait_log("waits in one")
        move(server, code("two", "ws:send('hello from two')"), 1)
        assert other.text() == "hello from two"
        if behind:
            tell(client, "return NAME")
        ask(other, "open('go')")
        expected = ["finished in one 1", "", "hello from two"] + ["two"] * behind
        assert [client.text() for _ in expected] == expected
        server.wait_metric(MOVED, 2)


def test_a_suspended_route_function_finishes_before_its_connection_moves(serve):
    server = serve(code("one", "pass('go') ws:send('opened in one')"))
    with server.raw("/run") as client, server.raw() as plain:
        tell(client, "return NAME")
        server.wait_metric("tidewire_tasks", 1)
        assert server.reload(code("two", "ws:send('hello from two ' .. tostring(ws.migrated))")
                             + "app.get('/go', function() open('go') return 'gone' end)")
        assert plain.request("GET /go HTTP/1.1\nHost: x\n\n").body == "gone"
        assert [client.text() for _ in range(3)] == ["opened in one", "hello from two true", "two"]


def test_what_waits_behind_a_suspended_handler_is_handled_by_the_new_code_in_order(serve):
    server = serve(code("one"), read_ahead=1 << 20)
    with server.raw("/run") as client, server.raw("/run") as other:
        tell(client, WAIT)
        for i in range(300):
            tell(client, f"if {i} % 7 == 0 then app.sleep(0) end ws.state.n = (ws.state.n or 0) + 1 "
                         f"return NAME, {i}, ws.state.n")
        server.wait_log("waits in one")
        move(server, code("two"), 1)
        ask(other, "open('go')")
        assert [client.text(), client.text()] == ["finished in one 1", ""]
        assert [client.text() for _ in range(300)] == [f"two {i} {i + 1}" for i in range(300)]


@pytest.mark.parametrize("size", [10, 30000])
def test_a_connection_that_was_paused_by_read_ahead_goes_on_in_the_new_code(serve, size):
    server = serve(code("one"), read_ahead="1k")
    with server.raw("/run") as client, server.raw("/run") as other:
        tell(client, WAIT)
        server.wait_log("waits in one")
        flood = b"".join(frame(TEXT, f"return NAME, {i}" + " " * size) for i in range(200))
        sender = threading.Thread(target=client.send, args=(flood,))
        sender.start()
        move(server, code("two"), 1)
        ask(other, "open('go')")
        assert [client.text(), client.text()] == ["finished in one 1", ""]
        assert [client.text() for _ in range(200)] == [f"two {i}" for i in range(200)]
        sender.join(PATIENCE)


@pytest.mark.parametrize("behind", [True, False], ids=["a message behind it", "nothing behind it"])
@pytest.mark.parametrize("workers", [1, 2])
def test_at_the_end_of_reload_drain_it_is_cancelled_and_the_connection_moves(serve, workers, behind):
    server = serve(code("one"), reload_drain=0.3, workers=workers)
    clients = on_each_worker(server, workers)
    for client in clients:
        tell(client, "ws.state.n = 5 local x <close> = setmetatable({}, {__close = function() "
                     "log.info('cancelled in ' .. NAME) end}) pass('never')")
    server.wait_metric("tidewire_tasks", workers)
    assert server.reload(code("two", "ws:send('hello from two ' .. ws.state.n)"))
    if behind:
        for client in clients:
            tell(client, "return NAME")
    for client in clients:
        assert client.text() == "hello from two 5"
        assert not behind or client.text() == "two"
    server.wait_log("cancelled in one(.|\n)*" * workers)
    server.wait_metric(MOVED, workers)
    server.wait_metric("tidewire_tasks", 0)
    assert server.metrics()["tidewire_websockets"] == workers
    assert server.metrics()["tidewire_tasks_cancelled_total"] == workers


def test_a_task_of_the_old_code_ends_at_the_end_of_reload_drain_and_old_code_may_begin_no_other(serve):
    server = serve(code("one") + """
        app.on_stop(function() log.info("stop", pcall(app.after, 1, print)) end)
        app.spawn(function() pass("never") end)""", reload_drain=0.2)
    with server.raw("/run") as client:
        move(server, code("two"), 1)
        server.wait_log(LEFT)
        server.wait_log("stop false .*app.after: this code has been replaced by a reload")
        assert served_by(client) == "two 2"


# ---- the old ws ----

HOLD = """app.spawn(function()
  log.info('held by ' .. NAME) pass('go') {}
  open('done')
end)"""


def used_after_the_move(server, client, use):
    """Runs `use` in the old code with the ws of a connection that has moved. The client hears nothing of the move."""
    assert ask(client, HOLD.format(use)) == ""
    server.wait_log("held by one")
    assert server.reload(code("two"))
    server.wait_metric(MOVED, 1)
    tell(client, "open('go') pass('done') return NAME")


def test_the_old_ws_still_sends_in_order(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        used_after_the_move(server, client, """
            log.info('done?', ws:send('text', function(ok, why) log.info('done', ok, why) end))
            ws:send({98, 105, 110}) ws:send_binary('more') app.send(ws.id, 'by id') ws:ping('p') ws:pong('q')""")
        assert [client.frame() for _ in range(7)] == [
            (1, b"text"), (2, b"bin"), (2, b"more"), (1, b"by id"), (9, b"p"), (10, b"q"), (1, b"two")]
        server.wait_log("done. true(.|\n)*done true nil")


@pytest.mark.parametrize("event", ["text", "binary", "ping", "pong", "close", "drain"])
def test_handlers_cannot_be_set_on_the_old_ws(serve, event):
    server = serve(code("one"))
    with server.raw("/run") as client:
        used_after_the_move(server, client, f"log.info('set', pcall(ws.on_{event}, ws, print))")
        assert client.text() == "two"
        server.wait_log("set false .*this connection has moved to newer code.*generation 1")
        assert served_by(client) == "two 2"


def test_the_old_ws_publishes_subscribes_and_tells_what_it_is(serve):
    server = serve(code("one"))
    with server.raw("/run") as client, server.raw("/run") as other:
        number = ask(client, "ws.state.mine = 1 return ws.id")
        ask(other, "ws:subscribe('t')")
        assert ask(client, HOLD.format("""ws:publish('t', 'published') ws:subscribe('late')
            log.info(tostring(ws.id), ws.is_closed, ws.close_code, ws.generation, ws.migrated, ws.request.path,
                     ws.buffered, ws.remote_address)
            log.info('reads', ws.state.mine) log.info('writes', pcall(function() ws.state.mine = 2 end))""")) == ""
        move(server, code("two"), 2)
        tell(client, "open('go') pass('done') return app.subscribers('late'), ws.state.mine")
        assert client.text() == "1 1"
        assert other.text() == "published"
        server.wait_log(rf"{number} false nil 1 false /run 0 127\.0\.0\.1")
        server.wait_log("reads 1\n")
        server.wait_log("writes false .*ws.state has moved to newer code")


def test_the_old_ws_closes_and_on_close_runs_in_the_new_code(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        used_after_the_move(server, client, """log.info('close', ws:close(3001, 'by the old'))
            log.info('then', ws.is_closed, ws:send('late')) log.info(tostring(ws:close()))""")
        assert client.frame() == (CLOSE, close_payload(3001, b"by the old"))
        client.send_frame(CLOSE, close_payload(3001))
        client.expect_end()
        server.wait_log("close true(.|\n)*then true nil closed(.|\n)*info .*nil")
        server.wait_log("closed in two 2 3001")
    server.wait_metric("tidewire_websockets", 0)


def test_the_old_ws_knows_that_the_connection_has_ended(serve):
    server = serve(code("one"))
    with server.raw("/run") as client, server.raw("/run") as other:
        number = ask(client, "ws.state.mine = 1 return ws.id")
        ask(client, HOLD.format("log.info(tostring(ws.id), ws.is_closed, ws.state.mine, ws:send('x'))"))
        move(server, code("two"), 2)
        client.send_frame(CLOSE, close_payload(1000))
        client.expect_close(1000)
        server.wait_log("closed in two 2 1000")
        assert ask(other, "open('go') pass('done') return NAME") == "two"
        server.wait_log(f"{number} true 1 nil closed")


def test_a_box_that_was_left_twice_still_sends(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        ask(client, HOLD.format("ws:send('from one')"))
        move(server, code("two"), 1)
        ask(client, "app.spawn(function() pass('done') ws:send('from two') end)")
        move(server, code("three"), 2)
        tell(client, "open('go') return NAME")
        assert sorted(client.text() for _ in range(3)) == ["from one", "from two", "three"]


# ---- timers ----


def test_every_timer_stops_and_one_shot_timers_fire_in_their_code(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve(code("one") + f"""
        app.every(0.001, function() log.info("every of one") end)
        local function look() if exists('{gate}') then log.info("after of", NAME) else app.after(0.001, look) end end
        app.after(0.001, look)""")
    with server.raw("/run") as client:
        server.wait_log("every of one")
        move(server, code("two"), 1)
        mark = server.mark()
        gate.touch()
        server.wait_log("after of one", mark)
        assert served_by(client) == "two 2"
        assert "every of one" not in "\n".join(server.lines[mark:])
        server.wait_metric("tidewire_timers", 0)


def test_one_shot_timers_that_are_due_later_are_cancelled_and_counted(serve):
    server = serve(code("one") + "for _ = 1, 3 do app.after(1000, function() log.info('wrong') end) end",
                   reload_drain=0.1)
    assert server.metrics()["tidewire_timers"] == 3
    assert server.reload(code("two"))
    assert "3 tasks or timers" in server.wait_log(LEFT).group(0)
    server.wait_metric("tidewire_timers", 0)


# ---- done and promises ----


def narrow(server):
    """A client with little room for what it does not read."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    return server.wrap(sock).upgrade("/run")


SEND = """for i = 1, 100 do ws:send(('x'):rep(65536)) end
          ws:send('last', function(ok, why) log.info('done', ok, why) end)
          local p = app.promise() p:when_complete(function(v, e) log.info('promised', v, e) end) ws:send('really', p)"""


def test_a_done_that_is_pending_at_the_end_of_reload_drain_gets_reloaded(serve):
    server = serve(code("one"), reload_drain=0.2, send_limit="64m")
    with narrow(server) as client:
        tell(client, SEND)
        server.wait_metric("tidewire_send_queue_bytes", lambda n: n > 1 << 20)
        assert server.reload(code("two"))
        server.wait_log("done nil reloaded")
        server.wait_log("promised nil reloaded")
        tell(client, "return NAME")
        for _ in range(100):
            assert client.text() == "x" * 65536
        assert [client.text() for _ in range(4)] == ["last", "really", "", "two"]
        assert served_by(client) == "two 2"
    server.stop()
    assert len(re.findall("done (?:nil|true)", server.log)) == len(re.findall("promised", server.log)) == 1


def test_a_done_that_completes_before_is_told_in_the_old_code(serve):
    server = serve(code("one"), send_limit="64m")
    with narrow(server) as client:
        tell(client, SEND)
        server.wait_metric("tidewire_send_queue_bytes", lambda n: n > 1 << 20)
        move(server, code("two"), 1)
        for _ in range(100):
            assert client.text() == "x" * 65536
        assert [client.text() for _ in range(3)] == ["last", "really", ""]
        server.wait_log("done true nil")
        server.wait_log("promised true nil")


def test_a_done_whose_connection_ends_after_the_move_fails(serve):
    server = serve(code("one"), send_limit="64m")
    with narrow(server) as client:
        tell(client, SEND)
        server.wait_metric("tidewire_send_queue_bytes", lambda n: n > 1 << 20)
        move(server, code("two"), 1)
    server.wait_log("done nil closed")
    server.wait_log("promised nil closed")


def test_a_promise_that_is_pending_at_the_end_of_reload_drain_gets_reloaded(serve):
    server = serve(code("one") + """
        local p = app.promise()
        p:when_complete(function(v, e) log.info("promised", v, e) end)
        app.spawn(function() pass("never") p:resolve(1) end)""", reload_drain=0.2)
    assert server.reload(code("two"))
    server.wait_log(LEFT)
    server.wait_log("promised nil reloaded")


# ---- requests and handshakes ----

SLOW_HTTP = TOOLS + """
app.get("/slow", function() log.info("asked") pass("go") return "from " .. app.generation end)
app.get("/stream", function() return 200, function(write)
  write("some ") log.info("streams") pass("go") write("from " .. app.generation)
end end)
app.get("/go", function() open("go") return "gone" end)
"""


def test_a_request_that_waits_is_answered_by_its_code(serve):
    server = serve(SLOW_HTTP)
    with server.raw() as client, server.raw() as other, server.raw() as stream:
        client.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        stream.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_log("asked(.|\n)*streams|streams(.|\n)*asked")
        assert server.reload()
        assert other.request("GET /go HTTP/1.1\nHost: x\n\n").body == "gone"
        assert client.response().body == "from 1"
        assert stream.until(b"0\r\n\r\n").endswith(b"from 1\r\n0\r\n\r\n")
        assert client.request("GET /slow HTTP/1.1\nHost: x\n\n").body == "from 2"


def test_a_request_that_waits_is_503_at_the_end_of_reload_drain(serve):
    server = serve(SLOW_HTTP, reload_drain=0.2)
    with server.raw() as client:
        client.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_log("asked")
        assert server.reload()
        answer = client.response()
        assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
        client.expect_end()
    server.wait_metric("tidewire_tasks", 0)


def test_a_stream_is_cut_at_the_end_of_reload_drain(serve):
    server = serve(SLOW_HTTP, reload_drain=0.2)
    with server.raw() as client:
        client.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_log("streams")
        assert server.reload()
        assert client.until(b"some \r\n")
        client.expect_end()  # without the last chunk
    server.wait_metric("tidewire_tasks", 0)


ASK = "should_upgrade = function(req) req.context.user = 'ann' log.info('asks') pass('go') return true end"


def test_a_handshake_that_waits_is_accepted_by_its_code_and_moves_at_once(serve):
    server = serve(code("one", "ws:send('hello from one') ws.state.n = 1", options=ASK))
    with server.raw() as client, server.raw() as other:
        client.handshake("/run")
        server.wait_log("asks")
        assert server.reload(code("two", "ws:send('hello from two')", options="should_upgrade = error")
                             + "app.get('/go', function() open('go') return 'gone' end)")
        assert other.request("GET /go HTTP/1.1\nHost: x\n\n").body == "gone"
        assert client.response().status == 101
        assert [client.text(), client.text()] == ["hello from one", "hello from two"]
        assert ask(client, "return NAME, ws.migrated, ws.state.n, req.context.user") == "two true 1 ann"


def test_a_handshake_that_waits_is_503_at_the_end_of_reload_drain(serve):
    server = serve(code("one", options=ASK), reload_drain=0.2)
    with server.raw() as client:
        client.handshake("/run")
        server.wait_log("asks")
        assert server.reload(code("two"))
        assert client.response().status == 503


# ---- app.on_start and app.on_stop ----

LIFE = """
app.on_start(function() log.info(("life %d: start %d"):format(app.worker, app.generation)) end)
app.on_start(function() log.info(("life %d: start again %d"):format(app.worker, app.generation)) end)
app.on_stop(function() log.info(("life %d: stop %d"):format(app.worker, app.generation)) end)
app.on_stop(function() log.info(("life %d: stop again %d"):format(app.worker, app.generation)) end)
"""


def life(server, worker):
    return re.findall(rf"life {worker}: (.*)", server.log)


@pytest.mark.parametrize("workers", [1, 3])
def test_on_start_and_on_stop_run_once_for_each_worker_and_generation(serve, workers):
    arrive = "log.info('life ' .. app.worker .. ': connection ' .. app.generation)"
    server = serve(code("one", arrive) + LIFE, workers=workers)
    clients = on_each_worker(server, workers)
    for i in 2, 3:
        move(server, code(f"v{i}", arrive) + LIFE, workers * (i - 1))
        for worker in range(1, workers + 1):
            server.wait_log(f"life {worker}: stop again {i - 1}")
    assert server.stop() == 0
    for worker in range(1, workers + 1):
        seen = [line for line in life(server, worker) if line != "connection 1"]
        assert seen == [
            "start 1", "start again 1", "start 2", "start again 2", "connection 2", "stop 1", "stop again 1",
            "start 3", "start again 3", "connection 3", "stop 2", "stop again 2", "stop 3", "stop again 3"]
    for client in clients:
        client.close()


def test_on_stop_waits_for_what_needs_the_old_code(serve):
    server = serve(code("one") + LIFE + "app.spawn(function() pass('go') log.info('life 1: task is over') end)")
    with server.raw("/run") as client:
        move(server, code("two"), 1)
        assert life(server, 1) == ["start 1", "start again 1"]
        assert ask(client, "open('go') return NAME") == "two"
        server.wait_log("stop again 1")
        assert life(server, 1)[2:] == ["task is over", "stop 1", "stop again 1"]


@pytest.mark.parametrize("call", ["on_start", "on_stop"])
def test_an_error_in_one_of_them_is_logged_and_the_next_runs(serve, call):
    server = serve(code("one") + f"app.{call}(function() error('on purpose') end) app.{call}(function() "
                   "log.info('next') end)")
    with server.raw("/run") as client:
        move(server, code("two"), 1)
        server.wait_log("on purpose(.|\n)*next")
        assert served_by(client) == "two 2"


@pytest.mark.parametrize("call", ["on_start", "on_stop"])
def test_they_are_for_the_load_only(serve, call):
    server = serve(code("one"))
    with server.raw("/run") as client:
        assert ask(client, f"app.{call}(print)").startswith(
            f"error: code:1: app.{call}: call it while the script loads")
        assert not server.reload(f"app.{call}(1)")
        assert not server.reload(f"for _ = 1, 1001 do app.{call}(print) end")
        assert server.metrics()[TAKEN] == 0


def test_what_on_start_sets_up_is_there_for_connections_that_move(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        move(server, code("two", "ws:send(READY or 'too early')") + "app.on_start(function() READY = 'ready' end)", 1)
        assert client.text() == "ready"


def test_stopping_while_old_code_waits(serve):
    server = serve(code("one") + LIFE, drain_timeout=2)
    with server.raw("/run") as client:
        tell(client, WAIT)
        server.wait_log("waits in one")
        assert server.reload(code("two") + LIFE)
        server.wait_log("start again 2")
        server.send_signal(signal.SIGTERM)
        assert client.frame() == (CLOSE, close_payload(1001, b"server is stopping"))
        client.send_frame(CLOSE, close_payload(1001))
        client.expect_end()
    assert server.stop(None) == 0
    assert sorted(life(server, 1)[4:]) == ["stop 1", "stop 2", "stop again 1", "stop again 2"]
    assert "closed in one 1 1001" in server.log
