# SPDX-License-Identifier: MIT
"""Connections that new code fails to take over: they stay with theirs until the new code is accepted, or the code of
before comes back."""
import re
import signal

import pytest

from conftest import CLOSE, close_payload
from migrating import FAILED, MOVED, REFUSED, ROLLED_BACK, TAKEN, ask, code, move, on_each_worker, served_by, tell

FAILS = "if ws.migrated then error('on purpose') end"
FAILS_FOR_SOME = "if ws.state.bad then error('on purpose') end"


def clients_of(server, good, bad):
    """So many that the code FAILS_FOR_SOME takes over, and so many that it does not."""
    found = [server.raw("/run") for _ in range(good + bad)]
    for i, client in enumerate(found):
        assert ask(client, f"ws.state.bad, ws.state.mine = {'true' if i >= good else 'nil'}, {i} return NAME") == "one"
    return found[:good], found[good:]


def expect_1011(client):
    opcode, payload = client.frame()
    assert (opcode, payload[:2]) == (CLOSE, close_payload(1011))


# ---- accepted ----


@pytest.mark.parametrize("workers", [1, 2])
def test_when_few_fail_they_are_closed_with_1011_in_their_code(serve, workers):
    server = serve(code("one"), workers=workers, rollback_share=0.5)
    good, bad = clients_of(server, 4, 3)
    assert server.reload(code("two", FAILS_FOR_SOME))
    for client in bad:
        expect_1011(client)
    assert [served_by(client) for client in good] == ["two 2"] * 4
    server.wait_log(r"main\.lua:\d+: on purpose(.|\n)*stack traceback")
    for _ in range(3):
        server.wait_log("(closed in one 1 1011(.|\n)*){3}")
    metrics = server.metrics()
    assert (metrics[MOVED], metrics[FAILED], metrics[ROLLED_BACK], metrics[TAKEN]) == (4, 3, 0, 1)


def test_until_that_is_decided_they_stay_with_their_code(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve(code("one"), workers=2, rollback_share=0.9)
    first, second = on_each_worker(server, 2)
    ask(first, "ws.state.bad = true ws:subscribe('t')")
    hold = f"app.on_start(function() if app.worker == 2 then while not exists('{gate}') do end end end)"
    assert server.reload(code("two", FAILS_FOR_SOME, before=hold))
    server.wait_metric(FAILED, 1)
    for _ in range(5):
        assert served_by(first) == "one 1"
    assert ask(first, "ws.state.n = (ws.state.n or 0) + 1 return app.publish('t', 'x')") in ("x", "true")
    first.text()
    assert server.metrics()[FAILED] == 1, "it is tried again"
    gate.touch()
    expect_1011(first)
    server.wait_log("closed in one 1 1011")
    assert served_by(second) == "two 2"


def test_what_fails_after_the_new_code_is_accepted_is_closed_at_once(serve):
    asks = "should_upgrade = function() log.info('waits') pass('go') return true end"
    server = serve(code("one", options=asks) + code("free", path="/free"))
    with server.raw() as client, server.raw("/free") as other:
        client.handshake("/run")
        server.wait_log("waits")
        move(server, code("two", FAILS) + code("free", path="/free"), 1)
        server.wait_log("generation 2: 1 connections moved to it")
        ask(other, "open('go')")
        assert client.response().status == 101
        expect_1011(client)
        assert served_by(other) == "free 2"
        assert (server.metrics()[FAILED], server.metrics()[ROLLED_BACK]) == (1, 0)


@pytest.mark.parametrize("share, back", [(0.4, True), (0.6, False)])
def test_it_is_decided_when_those_have_moved_too_whose_handlers_waited(serve, share, back):
    server = serve(code("one"), rollback_share=share)
    with server.raw("/run") as client, server.raw("/run") as other:
        tell(client, "ws.state.bad = true log.info('waits') pass('go') return NAME")
        server.wait_log("waits")
        move(server, code("two", FAILS_FOR_SOME), 1)
        assert ask(other, "open('go') return NAME") == "two"
        assert client.text() == "one"
        if back:
            server.wait_metric(MOVED, 3)
            assert [served_by(client), served_by(other)] == ["one 3"] * 2
        else:
            expect_1011(client)
            server.wait_log("closed in one 1 1011")
            assert served_by(other) == "two 2"


@pytest.mark.parametrize("share, bad, back", [(0.5, 2, False), (0.5, 3, True), (0, 1, True), (1, 4, False),
                                              (0.25, 1, False), (0.24, 1, True)])
def test_more_than_rollback_share_must_fail(serve, share, bad, back):
    server = serve(code("one"), rollback_share=share)
    good, failing = clients_of(server, 4 - bad, bad)
    assert server.reload(code("two", FAILS_FOR_SOME))
    if back:
        server.wait_metric(MOVED, 4 if bad == 4 else 2 * (4 - bad) + bad)
        assert [served_by(client) for client in good + failing] == ["one 3"] * 4
    else:
        for client in failing:
            expect_1011(client)
        assert [served_by(client) for client in good] == ["two 2"] * (4 - bad)
    assert server.metrics()[ROLLED_BACK] == int(back)


def test_without_connections_any_code_is_accepted(serve):
    server = serve(code("one"))
    assert server.reload(code("two", "error('on purpose')"))
    server.wait_log("generation 2: 0 connections moved to it")
    with server.raw("/run") as client:
        expect_1011(client)
    assert server.metrics()[ROLLED_BACK] == 0


# ---- rolled back ----


@pytest.mark.parametrize("workers, count", [(1, 1), (1, 40), (2, 40), (4, 100)])
def test_when_all_fail_the_code_of_before_comes_back_and_nobody_is_disconnected(serve, workers, count):
    server = serve(code("one", "ws.state.arrivals = (ws.state.arrivals or 0) + 1"), workers=workers)
    clients = [server.raw("/run") for _ in range(count)]
    for i, client in enumerate(clients):
        assert ask(client, f"ws.state.mine = {i} ws:subscribe('all') return NAME") == "one"
    assert server.reload(code("two", FAILS))
    server.wait_log("generation 2: .*failed to move to it; going back to the code before")
    server.wait_log("generation 3 serves new connections")
    server.wait_metric(MOVED, count)
    for i, client in enumerate(clients):
        assert ask(client, "return NAME, ws.generation, ws.state.mine, ws.state.arrivals, ws.migrated") == \
            f"one 3 {i} 2 true"
    assert "closed in" not in server.log
    with server.raw("/run") as new:
        assert served_by(new) == "one 3"
        assert ask(new, "return app.subscribers('all')") == f"{count}"
    server.wait_metric("tidewire_websockets", count)
    metrics = server.metrics()
    assert (metrics[ROLLED_BACK], metrics["tidewire_generation"], metrics["tidewire_websockets"]) == (1, 3, count)
    assert 1 <= metrics[FAILED] <= count
    move(server, code("four"), 2 * count)
    assert [served_by(client) for client in clients] == ["four 4"] * count


def test_those_who_had_moved_take_back_what_they_have_become(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve(code("one"), workers=2)
    first, second = on_each_worker(server, 2)
    ask(second, "ws.state.bad = true")
    hold = f"app.on_start(function() if app.worker == 2 then while not exists('{gate}') do end end end)"
    assert server.reload(code("two", FAILS_FOR_SOME, before=hold))
    server.wait_metric(MOVED, 1)
    assert ask(first, "ws.state.n = 7 ws.request.context.n = 8 ws:subscribe('t') return NAME") == "two"
    gate.touch()
    server.wait_metric(MOVED, 3)
    assert ask(first, "return NAME, ws.generation, ws.state.n, req.context.n, app.subscribers('t')") == "one 3 7 8 1"
    assert served_by(second) == "one 3"


def test_the_files_that_come_back_are_those_of_before_whatever_is_there_now(serve):
    server = serve("")
    part = server.folder / "part.lua"
    part.write_text("return 'part one'", encoding="utf-8")
    uses = code("one").replace("ws:send(run", "package.loaded.part = nil PART = require 'part' ws:send(run")
    assert server.reload("LOADED = require 'part'" + uses)
    with server.raw("/run") as client:
        assert ask(client, "return NAME, LOADED, PART") == "one part one part one"
        part.write_text("return 'part two'", encoding="utf-8")
        assert server.reload("LOADED = require 'part'" + code("two", FAILS))
        server.wait_log("generation 4 serves new connections")
        server.wait_metric(MOVED, 1)
        part.unlink()
        assert ask(client, "return NAME, ws.generation, LOADED, PART") == "one 4 part one part one"
        assert "two" in server.script.read_text(encoding="utf-8")
        for i in 2, 3:  # and again, for the files that have come back were accepted
            part.write_text("return 'part two'", encoding="utf-8")
            assert server.reload()
            server.wait_metric(ROLLED_BACK, i)
            server.wait_metric(MOVED, i)
            assert ask(client, "return NAME, LOADED, PART") == "one part one part one"


def test_going_back_happens_once_even_if_the_code_of_before_fails_too(serve):
    server = serve(code("one", FAILS))
    with server.raw("/run") as client:
        assert ask(client, "return NAME") == "one"
        assert server.reload(code("two", FAILS))
        expect_1011(client)
        server.wait_log("closed in one 1 1011")
    with server.raw("/run") as new:
        assert served_by(new) == "one 3"
    assert server.metrics()[ROLLED_BACK] == 1


def test_when_the_code_of_before_cannot_be_loaded_any_more_everybody_stays_where_it_works(serve):
    server = serve(code("one") + "if app.generation > 1 then error('only once') end")
    with server.raw("/run") as client:
        assert ask(client, "return NAME") == "one"
        assert server.reload(code("two", FAILS))
        server.wait_log("reload refused, generation 2 goes on: (.|\n)*only once(.|\n)*there is no going back")
        server.wait_metric(REFUSED, 1)
        assert served_by(client) == "one 1"
        with server.raw("/run") as new:
            assert served_by(new) == "two 2"
        move(server, code("three"), 1)
        assert served_by(client) == "three 3"


def test_a_reload_that_is_being_built_when_code_fails_is_not_undone(serve, tmp_path):
    """What was asked for last wins, also over going back to what was before."""
    held, loaded = tmp_path / "held", tmp_path / "loaded"
    server = serve(code("one"))
    with server.raw("/run") as client:
        assert ask(client, "return NAME") == "one"
        hold = f"app.on_start(function() log.info('held') while not exists('{held}') do end end)"
        assert server.reload(code("two", FAILS, before=hold))
        server.wait_log("held")
        slow = f"log.info('loads') while not exists('{loaded}') do end"
        server.script.write_text(code("mended", before=slow), encoding="utf-8")
        server.send_signal(signal.SIGHUP)
        server.wait_log("loads")
        held.touch()
        server.wait_metric(FAILED, 1)
        assert served_by(client) == "one 1"  # the worker has gone on
        server.ask("health")  # and what it has told has been heard
        server.ask("health")
        loaded.touch()
        server.wait_log("generation 3 serves new connections")
        server.wait_metric(MOVED, lambda n: n >= 1)
        assert server.reload()  # behind whatever else was to be built
        server.wait_metric(MOVED, lambda n: n >= 2)
        assert served_by(client) == "mended 4", "the code of before was built, over what was asked for last"


def test_who_was_refused_once_is_not_taken_for_refused_much_later(serve):
    server = serve(code("one", "ws.state.arrivals = (ws.state.arrivals or 0) + 1"))
    with server.raw("/run") as client:
        assert ask(client, "return NAME") == "one"
        assert server.reload(code("two", FAILS))
        server.wait_metric(MOVED, 1)
        assert served_by(client) == "one 3"
        for generation in range(4, 40):
            move(server, code("good"), generation - 2)
            assert served_by(client) == f"good {generation}"


# ---- how code can fail ----


@pytest.mark.parametrize("fault, says", [
    ("error('on purpose')", "on purpose"), ("error({})", "error object is a table"), ("nothing()", "nothing"),
    ("while true do end", "handler_budget"), ("ws.state.x.y = 1", "index a nil"),
    ("local t = {} for i = 1, 1e9 do t[i] = {} end", "not enough memory")])
def test_whatever_is_wrong_with_the_routes_function_nobody_is_disconnected(serve, fault, says):
    server = serve(code("one"), handler_budget=0.3 if says == "handler_budget" else 60, vm_memory="16m", workers=2)
    clients = [server.raw("/run") for _ in range(3)]
    for client in clients:
        assert ask(client, "return NAME") == "one"
    assert server.reload(code("two", fault))
    server.wait_metric(ROLLED_BACK, 1)
    server.wait_metric(MOVED, 3)
    assert [served_by(client) for client in clients] == ["one 3"] * 3
    server.wait_log(re.escape(says))


def test_a_routes_function_that_fails_after_it_has_waited_has_failed(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        ask(client, "ws.state.mine = 5")
        assert server.reload(code("two", "if ws.migrated then app.sleep(0.01) error('on purpose') end"))
        tell(client, "return NAME, ws.state.mine")
        assert client.text() == "one 5"
        server.wait_metric(ROLLED_BACK, 1)
        server.wait_metric(MOVED, 1)
        assert served_by(client) == "one 3"


def test_a_routes_function_that_closes_has_moved(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        assert server.reload(code("two", "if ws.migrated then ws:close(3000, 'not here') end"))
        assert client.frame() == (CLOSE, close_payload(3000, b"not here"))
        client.send_frame(CLOSE, close_payload(3000))
        client.expect_end()
        server.wait_log("closed in two 2 3000|closed in one 1 3000")
    assert server.metrics()[ROLLED_BACK] == 0


def test_what_a_failed_routes_function_has_kept_of_its_ws_is_closed(serve):
    server = serve(code("one"), rollback_share=1)
    keeps = "WS = WS or {} WS[#WS + 1] = ws if ws.migrated then error('on purpose') end"
    with server.raw("/run") as client:
        ask(client, "ws.state.x = 1")
        assert server.reload(code("two", keeps))
        expect_1011(client)
    with server.raw("/run") as new:
        assert ask(new, "return WS[1].is_closed, WS[1]:send('x')") == "true nil closed"
        assert ask(new, "return #WS") == "2"


def test_on_start_and_on_stop_of_code_that_was_given_up(serve):
    life = 'app.on_start(function() log.info("life: start", app.generation) end) ' \
           'app.on_stop(function() log.info("life: stop", app.generation) end)'
    server = serve(code("one") + life)
    with server.raw("/run") as client:
        assert ask(client, "return NAME") == "one"
        assert server.reload(code("two", FAILS) + life)
        server.wait_log("life: start 3")
        server.wait_log("life: stop 1")
        server.wait_log("life: stop 2")
        assert served_by(client) == "one 3"
        assert sorted(re.findall("life: (.*)", server.log)) == ["start 1", "start 2", "start 3", "stop 1", "stop 2"]


def test_a_function_that_waits_for_ever_has_arrived_and_holds_nothing_up(serve):
    server = serve(code("one"))
    with server.raw("/run") as client, server.raw("/run") as other:
        assert server.reload(code("two", "if ws.migrated and ws.id == 1 then while true do app.sleep(1e6) end end"))
        server.wait_log("generation 2: 2 connections moved to it")
        server.wait_metric('tidewire_generation_websockets{generation="2"}', 2)
        assert served_by(other) == "two 2"
        assert client


def test_code_without_a_route_is_refused(serve):
    server = serve(code("one"))
    with server.raw("/run") as client:
        assert not server.reload("-- nothing yet")
        server.wait_log("registers no route any more")
        assert served_by(client) == "one 1"


def test_connections_without_a_route_are_closed_and_counted(serve):
    server = serve(code("one") + code("gone", path="/gone"))
    with server.raw("/run") as client, server.raw("/gone") as gone:
        assert server.reload(code("two"))
        gone.expect_close(1012)
        server.wait_log("generation 2: 1 connections moved to it; 1 are closed, for it has no route for them")
        assert served_by(client) == "two 2"


def test_options_of_code_that_failed_leave_nothing_behind(serve):
    server = serve(code("one", options="ping_interval = 3600"))
    with server.raw("/run") as client:
        assert ask(client, "return ws.ping_interval") == "3600.0"
        assert server.reload(code("two", FAILS, options="ping_interval = 600"))
        server.wait_metric(MOVED, 1)
        assert ask(client, "return NAME, ws.ping_interval") == "one 3600.0"
