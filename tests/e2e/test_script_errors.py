# SPDX-License-Identifier: MIT
"""What a failing script costs: its own connection, never another one, never the process."""
import re
import signal
import textwrap

import pytest

from conftest import BINARY_OP, CLOSE, TEXT, close_payload, frame, not_under_tsan, run

ERRORS = 'tidewire_handler_errors_total{reason="error"}'
CUTS = 'tidewire_handler_errors_total{reason="budget"}'

# Every script ends with this route: the neighbour that has to live on.
FINE = """
app.websocket("/fine", function(ws)
  ws:on_text(function(ws, text)
    local n = 0
    for i = 1, 100000 do n = n + 1 end
    ws:send(text .. " " .. n)
  end)
end)
"""


def text_frame(text):
    return frame(TEXT, text)


def handler(body, event="on_text", before=""):
    """A script whose route /x runs `body` on a message; its first line is line 4 with no `before`."""
    body = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return f"""{before}
app.websocket("/x", function(ws)
  ws:{event}(function(ws, data)
{body}
  end)
end)
{FINE}"""


def assert_lives(server, client, rounds=3):
    """`client`, on /fine, is still served; long loops on the same worker come to their end."""
    for i in range(rounds):
        client.send_frame(TEXT, f"round {i}")
        assert client.text() == f"round {i} 100000", server.log


def error_entry(server):
    """Stops the server, so that its log is whole; the one entry of an error there, with its indented lines."""
    assert server.stop() == 0, server.log
    entries = re.findall(r"^\S+ error .*\n(?:    .*\n)*", server.log + "\n", re.M)
    assert len(entries) == 1, server.log
    return entries[0]


def assert_counted(server, errors=0, cuts=0):
    metrics = server.metrics()
    assert (metrics[ERRORS], metrics[CUTS]) == (errors, cuts), server.log


# ---- where it fails ----

PLACES = {
    "route function": ('app.websocket("/x", function(ws)\n  blame()\nend)', None, 6),
    "on_text": ('app.websocket("/x", function(ws)\n  ws:on_text(function()\n    blame()\n  end)\nend)', TEXT, 7),
    "on_binary": ('app.websocket("/x", function(ws)\n  ws:on_binary(function()\n    blame()\n  end)\nend)',
                  BINARY_OP, 7),
}
BLAME = "local function blame()\n  local x = 1\n  error('boom ' .. x)\nend\n"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_closes_its_connection_with_1011(serve, place, workers):
    text, opcode, line = PLACES[place]
    server = serve(BLAME + text + FINE, workers=workers)
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        if opcode:
            client.send_frame(opcode, "go")
        client.expect_close(1011)
        assert_lives(server, neighbour)
        assert_counted(server, errors=1)
    with server.raw("/fine") as later:
        assert_lives(server, later)
    entry = error_entry(server)
    for pattern in (r"error \[worker \d, connection \d+, /x\] .*main\.lua:3: boom 1\n    stack traceback:\n",
                    rf"main\.lua:{line}: in "):
        assert re.search(pattern, entry), entry


def test_an_error_in_on_close_is_logged_and_counted(serve):
    server = serve(handler("error('boom')", "on_close"))
    with server.raw("/fine") as neighbour:
        with server.raw("/x") as client:
            client.send_frame(CLOSE, close_payload(1000))
            client.expect_close(1000)
        server.wait_log(r"error \[worker 1, connection \d+, /x\] .*main\.lua:4: boom\n")
        assert_lives(server, neighbour)
        assert_counted(server, errors=1)


def test_on_close_runs_once_after_a_failed_handler_with_1011(serve):
    server = serve(handler("error('boom')", before="""
        local closes = 0
        app.websocket("/y", function(ws)
          ws:on_text(function() error('boom') end)
          ws:on_close(function(ws, code)
            closes = closes + 1
            log.info("closed", code, closes, tostring(ws:send("late")))
          end)
        end)"""))
    with server.raw("/y") as client:
        client.send_frame(TEXT, "go")
        client.send_frame(TEXT, "again")
        client.expect_close(1011)
    server.wait_log("closed 1011 1 nil")
    server.wait_metric("tidewire_websockets", 0)
    assert_counted(server, errors=1)
    server.stop()
    assert server.log.count("closed 1011") == 1


def test_messages_after_the_failed_one_are_not_handled(serve):
    server = serve(handler("log.info('got', data) error('boom')"))
    with server.raw("/x") as client:
        client.send(b"".join(text_frame(str(i)) for i in range(10)))
        client.expect_close(1011)
    assert_counted(server, errors=1)
    server.stop()
    assert server.log.count("got") == 1


def test_to_be_closed_variables_of_a_failed_handler_get_the_error(serve):
    server = serve(handler("""
        local unrelated = "not this"
        local guard <close> = setmetatable({}, { __close = function(_, e) log.info("closing with", e) end })
        local other = { unrelated }
        error("boom", 0)"""))
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
    assert server.wait_log("closing with (.*)").group(1) == "boom"


def test_many_failures_wear_nothing_out(serve):
    server = serve(handler("error('boom')"))
    with server.raw("/fine") as neighbour:
        for _ in range(200):
            with server.raw("/x") as client:
                client.send_frame(TEXT, "go")
                client.expect_close(1011)
        assert_lives(server, neighbour)
        assert_counted(server, errors=200)


# ---- what is raised ----

OBJECTS = {
    "string": ("error('boom')", r"main\.lua:4: boom\n"),
    "string without position": ("error('boom', 0)", r"\] boom\n"),
    "empty string": ("error('', 0)", r"\] \n"),
    "number": ("error(42)", r"\] 42\n"),
    "table": ("error({})", r"error object is a table value"),
    "nil": ("error()", r"error object is a nil value"),
    "boolean": ("error(false)", r"error object is a boolean value"),
    "function": ("error(print)", r"error object is a function value"),
    "ws": ("error(ws)", r"ws \d+\n"),
    "__tostring": ("error(setmetatable({}, { __tostring = function() return 'in my words' end }))",
                   r"\] in my words\n"),
    "__tostring that raises": ("error(setmetatable({}, { __tostring = function() error('again') end }))",
                               r"main\.lua:4: again|error object is a table value"),
    "__tostring that raises a table": ("error(setmetatable({}, { __tostring = function() error({}) end }))",
                                       r"error object is a table value"),
    "__tostring that returns a table": ("error(setmetatable({}, { __tostring = function() return {} end }))",
                                        r"error object is a table value"),
    "__tostring that yields": ("error(setmetatable({}, { __tostring = function() coroutine.yield() end }))",
                               r"yield|error object is a table value"),
    "__name": ("error(setmetatable({}, { __name = 'Fault' }))", r"error object is a (table|Fault) value"),
    "line feeds": ("error('one\\ntwo', 0)", r"\] one\n    two\n"),
    "100 KB": ("error(('x'):rep(100000), 0)", r"\] x{1000}"),
    "nil called": ("local t = {} t.missing()", r"main\.lua:4: attempt to call a nil value \(field 'missing'\)\n"),
    "nil indexed": ("local x = data.a.b", r"main\.lua:4: attempt to index a nil value \(field 'a'\)\n"),
    "yield": ("coroutine.yield()", r"main\.lua:4: attempt to yield from outside a coroutine\n"),
    "assert": ("assert(false, 'not so')", r"not so\n"),
    "misspelt method": ("ws:sned('x')", r"main\.lua:4: .*'sned'"),
    "bad argument": ("ws:close(1006)", r"main\.lua:4: .*1006"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_error_object(serve, name):
    body, pattern = OBJECTS[name]
    server = serve(handler(body))
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
        assert_lives(server, neighbour, rounds=1)
        assert_counted(server, errors=1)
    entry = error_entry(server)
    assert re.search(pattern, entry), entry
    assert "not enough memory" not in entry


@pytest.mark.parametrize("name, body", [
    ("recursion", "local function f() return 1 + f() end f()"),
    ("recursion in pcall", "local function f() local ok, e = pcall(f) error(e, 0) end f()"),
    ("recursion through C", "local function f(s) return (s:gsub('.', f)) end f('x')"),
    ("recursion in __index", "local t = setmetatable({}, { __index = function(t, k) return t[k] end }) t.x()"),
    ("recursion in coroutines", "local function f() return coroutine.wrap(f)() end f()"),
    ("deep table of calls", "local s = ('f('):rep(300) .. (')'):rep(300) error(select(2, load(s)))"),
])
def test_stack_overflow(serve, name, body):
    server = serve(handler(body), handler_budget=60)
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        client.send_frame(TEXT, name)
        client.expect_close(1011)
        assert_lives(server, neighbour, rounds=1)
    server.wait_log(r" error \[.*/x\] .*(overflow|error in error handling|C levels)")
    assert_counted(server, errors=1)


# ---- memory ----

HOGS = {
    "string": "local s = ('x'):rep(1000000000)",
    "doubled string": "local s = 'x' while true do s = s .. s end",
    "table": "local t = {} for i = 1, math.huge do t[i] = i end",
    "strings": "local t = {} for i = 1, math.huge do t[i] = ('x'):rep(1000) .. i end",
    "closures": "local f = print while true do local g = f f = function() return g end end",
    "coroutines": "local t = {} for i = 1, math.huge do t[i] = coroutine.create(type) coroutine.resume(t[i], 1) end",
    "nested tables": "local t = {} while true do t = { t } end",
    "in a coroutine": "coroutine.wrap(function() local t = {} for i = 1, math.huge do t[i] = {} end end)()",
    "buffer": "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1000000) end ws:send(table.concat(t))",
    "after pcall": """
        local t = {}
        pcall(function() for i = 1, math.huge do t[i] = {} end end)
        for i = 1, math.huge do t[-i] = {} end""",
}


@pytest.mark.parametrize("name", HOGS)
def test_exhausted_memory_ends_the_connection_only(serve, name):
    server = serve(handler(HOGS[name]), vm_memory="8m")
    with server.raw("/fine") as neighbour:
        for i in range(1, 4):
            with server.raw("/x") as client:
                client.send_frame(TEXT, "go")
                client.expect_close(1011)
            server.wait_log(r"error \[.*/x\] .*not enough memory")
            assert_lives(server, neighbour, rounds=1)
            assert_counted(server, errors=i)


def test_exhausted_memory_can_be_caught(serve):
    server = serve(handler("""
        local ok, message = pcall(function() local t = {} for i = 1, math.huge do t[i] = {} end end)
        ws:send(tostring(ok) .. " " .. message)"""), vm_memory="8m")
    with server.raw("/x") as client:
        for _ in range(3):
            client.send_frame(TEXT, "go")
            assert client.text() == "false not enough memory"
    assert_counted(server)


def test_memory_kept_by_the_script_leaves_the_process_alive(serve):
    server = serve(handler("KEPT = KEPT or {} for i = #KEPT + 1, math.huge do KEPT[i] = { i } end"), vm_memory="8m")
    for _ in range(20):
        with server.raw("/x") as client:
            client.send_frame(TEXT, "go")
            client.expect_close(1011)
        with server.raw("/fine") as client:  # served or refused with 1011, as memory allows
            client.send_frame(TEXT, "x")
            client.frame()
    assert server.ask("health").startswith("ok ")
    server.wait_metric("tidewire_websockets", 0)


def test_messages_too_big_for_the_memory(serve):
    server = serve(handler("KEPT = KEPT or {} KEPT[#KEPT + 1] = data ws:send(#KEPT .. '')"), vm_memory="8m")
    with server.raw("/x") as client:
        answers = []
        for i in range(20):
            client.send_frame(TEXT, f"{i}" + "x" * 1000000)
            opcode, payload = client.frame()
            answers.append(opcode)
            if opcode != TEXT:
                assert payload[:2] == close_payload(1011), payload
                break
    assert answers[-1] == CLOSE and TEXT in answers
    assert_counted(server, errors=1)


# ---- the time budget ----

LOOPS = {
    "while": "while true do end",
    "repeat": "repeat until false",
    "for": "for _ = 1, math.huge do end",
    "goto": "::again:: goto again",
    "tail call": "local function f() return f() end f()",
    "pcall": "pcall(function() while true do end end)",
    "pcall again and again": "local function f() while true do end end while true do pcall(f) end",
    "pcall of pcall": """
        local function f(depth) while true do if depth < 100 then pcall(f, depth + 1) end end end
        f(0)""",
    "pcall of C functions": "while true do pcall(error, 'x') end",
    "xpcall": "xpcall(function() while true do end end, debug.traceback)",
    "xpcall again and again": "local function f() while true do end end while true do xpcall(f, f) end",
    "xpcall handler": "xpcall(error, function() while true do end end)",
    "xpcall and its handler": "xpcall(function() while true do end end, function() while true do end end)",
    "xpcall handler with pcall": """
        local function spin() while true do end end
        xpcall(error, function() while true do pcall(spin) end end)""",
    "coroutine, resume": "coroutine.resume(coroutine.create(function() while true do end end))",
    "coroutine, resume again and again": """
        while true do
          coroutine.resume(coroutine.create(function() while true do end end))
        end""",
    "coroutine, wrap": "coroutine.wrap(function() while true do end end)()",
    "coroutine, wrap in pcall": "while true do pcall(coroutine.wrap(function() while true do end end)) end",
    "coroutine, pcall within": """
        local function spin() while true do end end
        coroutine.wrap(function() while true do pcall(spin) end end)()""",
    "coroutines, nested": """
        local function nest(depth)
          if depth == 0 then while true do end end
          while true do coroutine.resume(coroutine.create(nest), depth - 1) end
        end
        nest(10)""",
    "coroutine, the outer one loops": """
        local co = coroutine.wrap(function() while true do coroutine.yield() end end)
        while true do co() end""",
    "coroutines made without end": "while true do coroutine.wrap(function() end)() end",
    "coroutine.close": """
        local co = coroutine.create(function()
          local _ <close> = setmetatable({}, { __close = function() while true do end end })
          coroutine.yield()
        end)
        coroutine.resume(co)
        coroutine.close(co)""",
    "coroutine.close again and again": """
        while true do
          local co = coroutine.create(function()
            local _ <close> = setmetatable({}, { __close = function() while true do end end })
            coroutine.yield()
          end)
          coroutine.resume(co)
          coroutine.close(co)
        end""",
    "coroutine, __close after its error": """
        pcall(coroutine.wrap(function()
          local _ <close> = setmetatable({}, { __close = function() while true do end end })
          error('x')
        end))""",
    "__index": "local t = setmetatable({}, { __index = function() while true do end end }) return t.x",
    "__call": "setmetatable({}, { __call = function() while true do end end })()",
    "__tostring": "tostring(setmetatable({}, { __tostring = function() while true do end end }))",
    "__eq": """
        local meta = { __eq = function() while true do end end }
        return setmetatable({}, meta) == setmetatable({}, meta)""",
    "__close": "do local _ <close> = setmetatable({}, { __close = function() while true do end end }) end",
    "__close and the body": """
        local _ <close> = setmetatable({}, { __close = function() while true do end end })
        while true do end""",
    "__close and the body, in a coroutine": """
        coroutine.wrap(function()
          local _ <close> = setmetatable({}, { __close = function() while true do end end })
          while true do end
        end)()""",
    "__close of every level": """
        local function f(depth)
          local _ <close> = setmetatable({}, { __close = function() while true do end end })
          if depth == 0 then while true do end end
          f(depth - 1)
        end
        f(50)""",
    "sort comparator": "table.sort({ 3, 2, 1 }, function() while true do end end)",
    "gsub callback": "('x'):gsub('.', function() while true do end end)",
    "load reader": "load(function() while true do end end)",
    "iterator": "for _ in function() return 1 end do end",
    "generator": "for _ in coroutine.wrap(function() while true do coroutine.yield(1) end end) do end",
    "require": "require('forever')",
    "dofile": "dofile(FOLDER .. '/forever.lua')",
    "log of an object": "log.info(setmetatable({}, { __tostring = function() while true do end end }))",
    "sending": "while true do ws:send('') end",
    "string building": "local s = '' while true do s = (s .. 'x'):sub(-10) end",
}


@pytest.mark.parametrize("name", LOOPS)
def test_an_endless_loop_is_cut(serve, tmp_path, name):
    (tmp_path / "forever.lua").write_text("while true do end", encoding="utf-8")
    text = f"FOLDER = '{tmp_path}' package.path = FOLDER .. '/?.lua' " + handler(LOOPS[name])
    server = serve(text, handler_budget="0.3", send_limit="64m")
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        while (got := client.frame())[0] == TEXT:
            pass
        assert got == (CLOSE, close_payload(1011, b"internal error"))
        assert_lives(server, neighbour)
        assert_counted(server, cuts=1)
    server.wait_log(r" error \[worker 1, connection \d+, /x\] .*cut: it ran longer than 0\.3 s \(handler_budget\)")
    with server.raw("/fine") as later:
        assert_lives(server, later)
    assert_counted(server, cuts=1)


@not_under_tsan
def test_a_pcall_within_a_pcall_without_end_is_cut_soon(serve):
    server = serve(handler("local function f() while true do pcall(f) end end f()"), handler_budget=1)
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
        assert_lives(server, neighbour)
        assert_counted(server, cuts=1)
    server.stop()
    assert "stuck:" not in server.log, "a hundred thousand levels of pcall take long to unwind"


def test_a_cut_tells_line_and_traceback(serve):
    server = serve(handler("""
        local function spin()
          while true do end
        end
        local function call()
          spin()
        end
        call()"""), handler_budget="0.1")
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
    entry = error_entry(server)
    for pattern in (r"main\.lua:5: cut: ", r"stack traceback:", r"main\.lua:8: in ", r"main\.lua:10: in "):
        assert re.search(pattern, entry), entry


@pytest.mark.parametrize("body", ["while true do end", "coroutine.wrap(function() while true do end end)()"])
def test_every_endless_loop_on_a_worker_is_cut(serve, body):
    server = serve(handler(body), handler_budget="0.1")
    with server.raw("/fine") as neighbour:
        for i in range(1, 4):
            with server.raw("/x") as client:
                client.send_frame(TEXT, "go")
                client.expect_close(1011)
            assert_counted(server, cuts=i)
        assert_lives(server, neighbour)


@pytest.mark.parametrize("name, text, opcode", [
    ("route function", 'app.websocket("/x", function() while true do end end)', None),
    ("on_binary", handler("while true do end", "on_binary"), BINARY_OP),
])
def test_an_endless_loop_elsewhere_is_cut(serve, name, text, opcode):
    server = serve(text + ("" if FINE in text else FINE), handler_budget="0.1")
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        if opcode:
            client.send_frame(opcode, name)
        client.expect_close(1011)
        assert_lives(server, neighbour)
        assert_counted(server, cuts=1)


@pytest.mark.parametrize("body", ["while true do end", "while true do pcall(function() while true do end end) end"])
def test_an_endless_on_close_is_cut(serve, body):
    server = serve(handler(body, "on_close"), handler_budget="0.1")
    with server.raw("/fine") as neighbour:
        for ending in ("close", "reset"):
            with server.raw("/x") as client:
                if ending == "close":
                    client.send_frame(CLOSE, close_payload(1000))
                    client.expect_close(1000)
        server.wait_metric(CUTS, 2)
        assert_lives(server, neighbour)
        assert_counted(server, cuts=2)


def test_an_endless_on_close_while_the_server_stops_is_cut(serve):
    server = serve(handler("log.info('on_close') while true do end", "on_close"), handler_budget="0.1")
    clients = [server.raw("/x") for _ in range(3)]
    server.send_signal(signal.SIGTERM)
    for client in clients:
        assert client.frame()[0] == CLOSE
        client.send_frame(CLOSE, close_payload(1001))
        client.close()
    assert server.stop(None) == 0
    assert server.log.count("cut: it ran longer") == 3


def test_an_endless_error_message_is_cut(serve):
    server = serve(handler("error(setmetatable({}, { __tostring = function() while true do end end }))"),
                   handler_budget="0.1")
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
        assert_lives(server, neighbour)
    metrics = server.metrics()
    assert metrics[ERRORS] + metrics[CUTS] == 1


def test_an_endless_close_after_an_error_is_cut(serve):
    server = serve(handler("""
        local _ <close> = setmetatable({}, { __close = function() while true do end end })
        error("boom")"""), handler_budget="0.1")
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
        assert_lives(server, neighbour)
    server.wait_log(r"error \[.*main\.lua:(5: boom|4: cut)")  # the later error takes over, as everywhere in Lua
    metrics = server.metrics()
    assert metrics[ERRORS] + metrics[CUTS] == 1


def test_a_coroutine_that_outlives_a_cut_can_go_on(serve):
    server = serve(handler("""
        CO = CO or coroutine.wrap(function()
          local n = 0
          while true do n = n + 1 coroutine.yield(n) end
        end)
        if data == "cut" then
          CO()
          coroutine.wrap(function() while true do end end)()
        end
        ws:send(tostring(CO()))"""), handler_budget="0.1")
    with server.raw("/x") as first:
        first.send_frame(TEXT, "cut")
        first.expect_close(1011)
    with server.raw("/x") as second:
        second.send_frame(TEXT, "go on")
        assert second.text() == "2"
    assert_counted(server, cuts=1)


def test_short_handlers_by_the_thousand_are_never_cut(serve):
    server = serve(handler("local n = 0 for i = 1, 1000 do n = n + i end ws:send('' .. n)"), handler_budget="0.3")
    with server.raw("/x") as client:
        for _ in range(50):
            client.send(text_frame("x") * 100)
            for _ in range(100):
                assert client.text() == "500500"
    assert_counted(server)


def one_on_each_worker(server, path, workers):
    """One client on each worker; the route sends app.worker first."""
    clients = {}
    for _ in range(1000):
        client = server.raw(path)
        number = int(client.text())
        if number in clients:
            client.close()
        else:
            clients[number] = client
        if len(clients) == workers:
            return clients
    raise AssertionError(f"only the workers {sorted(clients)} get connections")


def test_a_busy_worker_does_not_hold_up_another(serve, tmp_path):
    signal_file = tmp_path / "end"
    server = serve(f"""
        app.websocket("/x", function(ws)
          ws:send("" .. app.worker)
          ws:on_text(function(ws, text)
            if text == "spin" then
              log.info("spinning")
              while not io.open("{signal_file}") do end
            end
            ws:send(text)
          end)
        end)""", workers=2, handler_budget=3600)
    clients = one_on_each_worker(server, "/x", 2)
    clients[1].send_frame(TEXT, "spin")
    server.wait_log("spinning")
    for i in range(20):
        clients[2].send_frame(TEXT, f"{i}")
        assert clients[2].text() == f"{i}"
    signal_file.write_text("now", encoding="ascii")
    assert clients[1].text() == "spin"


def test_a_cut_on_one_worker_leaves_the_other_alone(serve):
    server = serve("""
        app.websocket("/x", function(ws)
          ws:send("" .. app.worker)
          ws:on_text(function(ws, text)
            while text == "spin" do end
            local n = 0
            for i = 1, 100000 do n = n + 1 end
            ws:send("" .. n)
          end)
        end)""", workers=2, handler_budget="0.3")
    clients = one_on_each_worker(server, "/x", 2)
    clients[1].send_frame(TEXT, "spin")
    while server.metrics()[CUTS] == 0:
        clients[2].send_frame(TEXT, "count")
        assert clients[2].text() == "100000"
    clients[1].expect_close(1011)
    assert_counted(server, cuts=1)


# ---- what cannot be cut ----

# Lua's pattern matcher tries about 66^5 / 5! ways to match, inside one C function.
COSTLY = "local _ = ({ a = ('a'):rep(66):find(('.-'):rep(5) .. 'b') })"


def test_a_stuck_c_function_is_reported_until_it_returns(serve):
    server = serve(handler(f"log.info('begins') {COSTLY} log.info('goes on')"), handler_budget="0.05")
    with server.raw("/fine") as neighbour, server.raw("/x") as client:
        assert run("health", "--control", server.control_path).returncode == 0
        client.send_frame(TEXT, "go")
        server.wait_log(r"error \[worker 1\] stuck: .*C function.*string\.find")
        assert server.ask("health") == "error worker 1 does not answer\n"
        done = run("health", "--control", server.control_path)
        assert done.returncode == 1 and "worker 1" in done.stdout + done.stderr
        client.expect_close(1011)
        server.wait_log(r"error \[worker 1, connection \d+, /x\] .*main\.lua:4: cut: ")
        assert_lives(server, neighbour)
        while not server.ask("health").startswith("ok "):  # the watchdog sees it a moment later
            assert_lives(server, neighbour, rounds=1)
    assert_counted(server, cuts=1)
    server.stop()
    assert "goes on" not in server.log and server.log.count("stuck:") == 1


def test_abort_stuck_ends_the_process(serve):
    server = serve(handler(COSTLY), "--abort-stuck", handler_budget="0.05")
    server.expected_exit = -signal.SIGABRT
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        server.wait_log("stuck: ")
        server.wait_log("abort_stuck is set: aborting")
        assert server.stop(None) == -signal.SIGABRT


def test_abort_stuck_spares_what_can_be_cut(serve):
    server = serve(handler("while true do pcall(function() while true do end end) end"), "--abort-stuck",
                   handler_budget="0.1")
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
    server.stop()
    assert "cut: " in server.log and "stuck:" not in server.log


def test_stopping_does_not_wait_for_a_stuck_worker(serve):
    server = serve(handler(f"log.info('begins') for _ = 1, 100 do {COSTLY} end"), handler_budget=3600, drain_timeout=0)
    server.expected_exit = 1
    with server.raw("/x") as client:
        client.send_frame(TEXT, "go")
        server.wait_log("begins")
        assert server.stop() == 1
    assert "1 of 1 workers did not end in time" in server.log
