# SPDX-License-Identifier: MIT
"""app.shared: what each function does, what can be kept, time, the limit, many workers, reloads."""
import re

import pytest

from conftest import Server, run
from test_tasks import RUN, ask

SHARED = """
local s = app.shared
get, set, add, incr, delete, keys = s.get, s.set, s.add, s.incr, s.delete, s.keys
-- A value with everything that tells it from another, in one order.
function show(v)
  if v == json.null then return "null" end
  if type(v) ~= "table" then return math.type(v) == "float" and string.format("%a", v) or string.format("%q", v) end
  local parts = {}
  for k, x in pairs(v) do parts[#parts + 1] = show(k) .. "=" .. show(x) end
  table.sort(parts)
  return (getmetatable(v) or "") .. "{" .. table.concat(parts, ",") .. "}"
end
function same(v) set("same", v) return show(get("same")) == show(v) and rawequal(get("same"), v) == (type(v) ~= "table") end
"""
SCRIPT = RUN + SHARED
EVICTIONS = "tidewire_shared_evictions_total"
KEYS = "tidewire_shared_keys"
BYTES = "tidewire_shared_bytes"


def outcomes(serve, cases, **options):
    """Runs each piece of code in turn, on one server."""
    server = serve(SCRIPT, **options)
    with server.raw("/run") as client:
        for code, answer in cases.items():
            assert (code, ask(client, code)) == (code, answer)
    return server


# ---- what each function does ----

def test_functions(serve):
    server = outcomes(serve, {
        "return get('a')": "true nil",
        "return select('#', get('a'))": "true 1",
        "return set('a', 1), get('a')": "true true 1",
        "return set('a', 'two'), get('a')": "true true two",
        "return add('a', 3), get('a')": "true false two",
        "return add('b', false), get('b')": "true true false",
        "return delete('a'), delete('a'), get('a')": "true true false nil",
        "return set('b', nil), get('b')": "true true nil",
        "return set('b', nil)": "true true",
        "return incr('n')": "true 1",
        "return incr('n'), incr('n', 10), incr('n', -20)": "true 2 12 -8",
        "return incr('m', 1, 100), incr('m', 1, 100)": "true 101 102",
        "return incr('m', nil, nil)": "true 103",
        "return incr('m', 0.5), incr('m')": "true 103.5 104.5",
        "return incr('big', 1, math.maxinteger) == math.mininteger": "true true",
        "return incr('float', 2^63, 1)": "true 9.2233720368548e+18",
        "set('text', '1') return incr('text')": "true nil not a number",
        "set('text', {1}) return incr('text')": "true nil not a number",
        "return set(7, 'seven'), get('7')": "true true seven",
        "return set('', 'nothing'), get('')": "true true nothing",
        "return set(('k'):rep(255), 1), get(('k'):rep(255)), get(('k'):rep(254))": "true true 1 nil",
    })
    assert server.metrics()[KEYS] == 8


def test_keys(serve):
    outcomes(serve, {
        "local l, more = keys() return #l, more": "true 0 false",
        "for i = 1, 1001 do set('n' .. i, i) end set('m', 1) local l, more = keys() return #l, more": "true 1000 true",
        "local l, more = keys('n', 1001) return #l, more": "true 1001 false",
        "local l, more = keys('n', 1000) return #l, more": "true 1000 true",
        "local l, more = keys('m') return l[1], #l, more": "true m 1 false",
        "local l, more = keys('x') return #l, more": "true 0 false",
        "local l = keys('n100') table.sort(l) return table.concat(l, ' ')": "true n100 n1000 n1001",
        "set('a\\0b', 1) return keys('a\\0')[1] == 'a\\0b', #keys('a\\0c')": "true true 0",
        "for _, k in ipairs((keys('n', 1000000))) do delete(k) end return #keys()": "true 2",
    })


# ---- what can be kept ----

@pytest.mark.parametrize("value", [
    "0", "-1", "math.maxinteger", "math.mininteger", "123456789012345678", "1 << 53 | 1",
    "0.0", "-0.0", "1.0", "0.1", "5e-324", "1e308", "1/0", "-1/0", "2^53",
    "true", "false", "''", "'text'", "'\\0\\255\\128'", "('x'):rep(127)", "('x'):rep(128)", "('\\255\\0'):rep(1000000)",
    "{}", "{{}}", "{1, 2, 3}", "{1, nil, 3}", "{a = 1, b = {c = {d = 'e'}}}", "{1, 'two', three = 3, [4.5] = 4, [true] = 5}",
    "{[false] = {[''] = false}}", "{[math.mininteger] = 1, [-1] = 2, [0] = 3}", "{[1/0] = 'inf', ['1'] = 's', [1] = 'n'}",
    "(function() local t = {} for i = 1, 1000 do t[i] = {id = i, name = 'n' .. i} end return t end)()",
    "(function() local t = 1 for i = 1, 64 do t = {t} end return t end)()",
    "json.null", "{json.null, [json.null] = json.null}", "json.array()", "json.array({1, json.array(), {}})",
    "json.decode('{\"a\": [], \"b\": {}, \"c\": [null, 1, 1.0, [true]], \"d\": null}')",
])
def test_what_comes_back_is_the_same(serve, value):
    outcomes(serve, {f"return same({value})": "true true"})


def test_values_are_copies(serve):
    outcomes(serve, {
        "t = {1} set('a', t) t[1] = 2 get('a')[1] = 3 return get('a')[1]": "true 1",
        "local x = {1} set('a', {x, x}) local l = get('a') return l[1][1], l[2][1], l[1] == l[2]": "true 1 1 false",
        "set('nan', 0/0) return get('nan') ~= get('nan')": "true true",
        "setmetatable(_G, {}) set('a', 'x') return get('a')": "true x",
    })


ONLY = "only strings, numbers, booleans, json.null and tables of these can be kept"
REFUSED = {
    "set('k', print)": f"app.shared.set: value is a function; {ONLY}",
    "add('k', ws)": f"app.shared.add: value is a userdata; {ONLY}",
    "set('k', {users = {1, 2, {f = print}}})": f"app.shared.set: value.users[3].f is a function; {ONLY}",
    "set('k', {['a b'] = {[true] = {[1.5] = coroutine.create(print)}}})":
        f'app.shared.set: value["a b"][true][1.5] is a thread; {ONLY}',
    "set('k', {[('k'):rep(40)] = print})": f"app.shared.set: value.{'k' * 32}... is a function; {ONLY}",
    "set('k', {[('é'):rep(40)] = print})": f'app.shared.set: value["{"é" * 16}..."] is a function; {ONLY}',
    "set('k', {a = {[print] = 1}})":
        "app.shared.set: value.a has a function as a key; keys are strings, numbers and booleans",
    "set('k', {[{}] = 1})": "app.shared.set: value has a table as a key; keys are strings, numbers and booleans",
    "set('k', {a = setmetatable({}, {})})":
        "app.shared.set: value.a has a metatable, which would be lost; copy what is in it to another table",
    "local t = {} t.t = t set('k', t)": "app.shared.set: value.t is a table that contains itself",
    "local t = {a = {}} t.a.b = {c = t.a} set('k', t)": "app.shared.set: value.a.b.c is a table that contains itself",
    "local t = 1 for i = 1, 65 do t = {t} end set('k', t)":
        f"app.shared.set: value{'[1]' * 16}... is nested too deep; 64 tables in one another are the limit",
    "set(('k'):rep(256), 1)": "app.shared.set: a key has up to 255 bytes, this one has 256",
    "get(('k'):rep(1000))": "app.shared.get: a key has up to 255 bytes, this one has 1000",
    "get()": "bad argument #1 to 'get' (string expected, got no value)",
    "set('k')": "bad argument #2 to 'set' (value expected)",
    "add('k', nil)": "app.shared.add: a value is needed, and nil is none",
    "set('k', 1, 0)": "app.shared.set: ttl is a number of seconds from 0.001 to 1e9, not 0.0",
    "set('k', 1, -5)": "app.shared.set: ttl is a number of seconds from 0.001 to 1e9, not -5.0",
    "set('k', 1, 'x')": "bad argument #3 to 'set' (number expected, got string)",
    "incr('k', '1')": "bad argument #2 to 'incr' (number expected, got string)",
    "incr('k', 1, {})": "bad argument #3 to 'incr' (number expected, got table)",
    "keys('', 0)": "app.shared.keys: limit is from 1 to 100000000, not 0",
    "app.shared:get('k')": "app.shared.get: call it with a dot: app.shared.get(...)",
    "app.shared:set('k', 1)": "app.shared.set: call it with a dot: app.shared.set(...)",
    "app.shared:add('k')": "app.shared.add: call it with a dot: app.shared.add(...)",
    "app.shared:incr('k')": "app.shared.incr: call it with a dot: app.shared.incr(...)",
    "app.shared:delete('k')": "app.shared.delete: call it with a dot: app.shared.delete(...)",
    "app.shared:keys()": "app.shared.keys: call it with a dot: app.shared.keys(...)",
    "app.shared.gett('k')": "app.shared has no function 'gett'; did you mean 'get'?",
    "local x = app.shared.counter": "app.shared has no function 'counter'; there are add, delete, get, incr, keys and set",
    "app.shared.counter = 1":
        "app.shared.counter cannot be set so: call app.shared.set(\"counter\", value)",
    "app.shared = {}": "app.shared cannot be set: app belongs to the server; keep your own data in a local or a global",
    "setmetatable(app.shared, {})": "cannot change a protected metatable",
}


def test_misuse_raises_with_the_place(serve):
    server = outcomes(serve, {code: "false code:1: " + message for code, message in REFUSED.items()})
    assert server.metrics()[KEYS] == server.metrics()[BYTES] == 0


def test_the_place_is_the_scripts_own(serve):
    server = serve("app.get('/', function()\n  app.shared.set('k', {f = print})\nend)")
    with server.raw() as client:
        assert client.request("GET / HTTP/1.1\nHost: x\n\n").status == 500
    server.wait_log(r"main\.lua:2: app\.shared\.set: value\.f is a function")


@pytest.mark.parametrize("call", ["get('k')", "set('k', 1)", "set('k', nil)", "add('k', 1)", "incr('k')", "delete('k')", "keys()"])
def test_not_while_the_script_loads(call, tmp_path):
    script = tmp_path / "main.lua"
    script.write_text(f"local x = 1\napp.shared.{call}", encoding="utf-8")
    done = run("check", script)
    name = call.split("(")[0]
    assert done.returncode == 1
    assert f"main.lua:2: app.shared.{name}: app.shared cannot be used while the script loads; " in done.stderr


def test_what_is_set_up_while_loading_may_use_it_later(serve):
    server = serve(SCRIPT + "app.after(0, function() set('after', 1) log.info('has set it') end)")
    server.wait_log("has set it")
    with server.raw("/run") as client:
        assert ask(client, "return get('after')") == "true 1"


# ---- memory ----

def test_a_value_that_the_vm_has_no_memory_for_is_not_lost(serve):
    server = serve(SCRIPT, vm_memory="4m", shared_size="64m")
    big = "local t = {} for i = 1, 11000 do t[i] = {} end return set('big', t)"
    with server.raw("/run") as client:
        assert ask(client, big) == "true true"
    with server.raw("/run") as client:
        for _ in range(3):
            answer = ask(client, "local kept = {} for i = 1, 100 do kept[i] = get('big') end")
            assert answer == "false not enough memory"
            assert ask(client, "collectgarbage() return #get('big')") == "true 11000"
            assert ask(client, "collectgarbage() set('big', get('big')) return #get('big')") == "true 11000"


def test_too_large(serve):
    server = outcomes(serve, {
        "return set('k', ('x'):rep(524288 - 512))": "true true",
        "return #get('k')": f"true {524288 - 512}",
        "return set('k', ('x'):rep(524288))": "true nil too large",
        "return add('l', ('x'):rep(2000000))": "true nil too large",
        "return #get('k')": f"true {524288 - 512}",
        "local t = {} for i = 1, 50 do t = {t, t} end return set('k', t)": "true nil too large",
        "return set('k', 'x'), get('k')": "true true x",
    }, shared_size="1m")
    assert server.metrics()[EVICTIONS] == 0


def test_beyond_shared_size_the_least_recently_used_go(serve):
    server = serve(SCRIPT, shared_size="1m")
    with server.raw("/run") as client:
        assert ask(client, "for i = 1, 9 do set('k' .. i, ('x'):rep(100000)) end return #keys()") == "true 9"
        assert ask(client, "get('k1') add('k2', 1) incr('k3') set('k4', ('y'):rep(100000)) return #keys()") == "true 9"
        assert server.metrics()[EVICTIONS] == 0
        # From the one that was used longest ago: 3 5 6 7 8 9 1 2 4; ten find room.
        found = ask(client, "for i = 1, 4 do set('new' .. i, ('x'):rep(100000)) end "
                            "local l = keys() table.sort(l) return table.concat(l, ' ')")
        assert found == "true k1 k2 k4 k7 k8 k9 new1 new2 new3 new4"
        metrics = server.metrics()
        assert metrics[KEYS] == 10 and metrics[EVICTIONS] == 3 and metrics[BYTES] <= 1 << 20


def test_bytes_and_keys_are_counted(serve):
    server = serve(SCRIPT)
    with server.raw("/run") as client:
        assert ask(client, "return set('k', ('x'):rep(1000000))") == "true true"
        metrics = server.metrics()
        assert metrics[KEYS] == 1 and 1000000 < metrics[BYTES] < 1001000
        assert ask(client, "return delete('k')") == "true true"
        metrics = server.metrics()
        assert metrics[KEYS] == metrics[BYTES] == 0


# ---- time ----

GONE = "while get('k') do app.sleep(0.005) end return get('k'), add('k', 'new'), #keys()"


@pytest.mark.parametrize("put", ["set('k', 1, 0.05)", "add('k', 1, 0.05)", "incr('k', 1, 0, 0.05)",
                                 "set('k', 1) set('k', 2, 0.05)", "set('k', 1, 0.05) incr('k')",
                                 "set('k', 1, 0.05) incr('k', 1, 0, 1e9)", "set('k', 1, 0.05) add('k', 1, 1e9)"])
def test_it_is_gone_when_its_time_is_over(serve, put):
    server = serve(SCRIPT)
    with server.raw("/run") as client:
        assert ask(client, put + " " + GONE) == "true nil true 1"
    assert server.metrics()[EVICTIONS] == 0


def test_set_without_a_time_takes_it_away(serve):
    server = serve(SCRIPT)
    with server.raw("/run") as client:
        assert ask(client, "set('kept', 1, 0.01) set('kept', 2) set('k', 1, 0.05) while get('k') do app.sleep(0.005) end "
                           "return get('kept'), get('k')") == "true 2 nil"


def test_what_has_ended_is_in_no_list_and_is_removed_in_time(serve):
    server = serve(SCRIPT)
    with server.raw("/run") as client:
        assert ask(client, "for i = 1, 100 do set('k' .. i, i, 0.001) end "
                           "while #keys() > 0 do app.sleep(0.001) end return #keys('k')") == "true 0"
        ask(client, "for i = 1, 1000 do set('x', i) set('y' .. i, i) delete('y' .. i) end")
        assert server.metrics()[KEYS] == 1


# ---- workers and reloads ----

def all_workers(server: Server, n):
    """A client of each worker."""
    clients = {}
    for _ in range(1000):
        client = server.raw("/run")
        number = ask(client, "return app.worker")
        if number in clients:
            client.close()
        clients.setdefault(number, client)
        if len(clients) == n:
            return list(clients.values())
    raise AssertionError("a worker gets no connection")


def test_workers_share_it(serve):
    server = serve(SCRIPT, workers=3)
    clients = all_workers(server, 3)
    for i, client in enumerate(clients):
        assert ask(client, f"return set('k{i}', {{worker = app.worker, {{i = {i}}}}})") == "true true"
    for client in clients:
        numbers = {ask(client, f"local v = get('k{i}') assert(v[1].i == {i}) return v.worker") for i in range(3)}
        assert numbers == {"true 1", "true 2", "true 3"}
        assert ask(client, "return #keys('k')") == "true 3"
    assert ask(clients[0], "return delete('k1')") == "true true"
    assert ask(clients[1], "return get('k1')") == "true nil"
    for client in clients:
        client.close()


DECODED = '{"empty":[],"list":[1,null,{}],"none":null}'


def test_decoded_json_is_encoded_alike_by_another_worker_and_after_a_reload(serve):
    server = serve(SCRIPT, workers=2)
    first, second = all_workers(server, 2)
    encode = "return json.encode(get('k'), {sort = true}), get('k').none == json.null, getmetatable(get('k').list)"
    with first, second:
        assert ask(first, f"return set('k', json.decode('{DECODED}'))") == "true true"
        assert ask(second, encode) == f"true {DECODED} true json.array"
        assert server.reload(SCRIPT + "-- changed")
        with server.raw("/run") as new:
            assert ask(new, encode) == f"true {DECODED} true json.array"


# All at once: counts, replaces and reads tables whose two halves must agree, takes a place once.
STORM = """
local won = 0
for i = 1, 2000 do
  incr("sum") incr("other" .. i % 7, 2)
  if add("place" .. i, app.worker) then won = won + 1 end
  if i % 3 == 0 then set("pair", {a = i, b = {i}, c = ("x"):rep(i % 50)}) end
  local p = get("pair")
  assert(not p or p.a == p.b[1] and #p.c == p.a % 50)
  if i % 100 == 0 then keys("place", 10) set("short", i, 0.001) get("short") delete("none") end
end
return won
"""


@pytest.mark.parametrize("workers", [2, 4])
def test_counts_of_all_workers_at_once_are_exact(serve, workers):
    server = serve(SCRIPT, workers=workers)
    clients = all_workers(server, workers)
    for client in clients:
        client.send_frame(1, STORM)
    won = [client.text() for client in clients]
    assert sum(int(answer.removeprefix("true ")) for answer in won) == 2000, won
    assert ask(clients[0], "return get('sum'), #keys('place', 5000)") == f"true {2000 * workers} 2000"
    sums = ask(clients[0], "local n = 0 for i = 0, 6 do n = n + get('other' .. i) end return n")
    assert sums == f"true {4000 * workers}"
    for client in clients:
        client.close()


def test_workers_at_once_over_the_limit(serve):
    server = serve(SCRIPT, workers=3, shared_size="1m")
    clients = all_workers(server, 3)
    for client in clients:
        client.send_frame(1, "for i = 1, 1000 do set(app.worker .. ' ' .. i % 50, ('x'):rep(20000)) "
                             "local k = keys()[1] local v = get(k) assert(not v or #v == 20000) end")
    for client in clients:
        assert client.text() == "true"
        client.close()
    metrics = server.metrics()
    assert metrics[BYTES] <= 1 << 20 and 0 < metrics[KEYS] < 53 and metrics[EVICTIONS] > 0


def test_it_survives_a_reload(serve):
    server = serve(SCRIPT, workers=2)
    with server.raw("/run") as old:
        assert ask(old, "set('k', {list = {1, 2}}) return incr('n'), app.generation") == "true 1 1"
        assert server.reload(SCRIPT + "-- changed")
        with server.raw("/run") as new:
            assert ask(new, "return app.generation, get('k').list[2], incr('n')") == "true 2 2 2"
            assert ask(old, "return app.generation, incr('n')") == "true 2 3"
        assert not server.reload("app.shared.set('k', 1)")
        with server.raw("/run") as new:
            assert ask(new, "return app.generation, get('k').list[1], incr('n')") == "true 2 1 4"
    server.wait_log(re.escape("main.lua:1: app.shared.set: app.shared cannot be used while the script loads"))


def test_an_option_out_of_bounds(tmp_path):
    script = tmp_path / "main.lua"
    script.write_text(SCRIPT, encoding="utf-8")
    done = run("check", script, "--shared-size", "1k")
    assert done.returncode == 2
    assert '--shared-size: "1k" is not a number of bytes from 1048576 to 68719476736' in done.stderr
