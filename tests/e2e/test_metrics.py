# SPDX-License-Identifier: MIT
"""The metrics: that their text is what Prometheus' conventions ask for, that they count what they say, and that they only
rise."""
import math
import re
import shutil
import subprocess

import pytest

from conftest import BINARY_OP, CLOSE, PATIENCE, PING, PONG, TEXT, close_payload, run

ALL = """
app.websocket("echo", { compression = true, compression_min = 1 }, function(ws)
  ws:on_text(function(ws, text) ws:send(text) end)
  ws:on_binary(function(ws, bytes) ws:send_binary(bytes) end)
end)
app.websocket("all", function(ws)
  ws:subscribe("all")
  ws:on_text(function(ws, text) ws:publish("all", text) end)
  ws:on_binary(function(ws, bytes) ws:publish("all", bytes, { binary = true }) end)
end)
app.websocket("fails", function(ws) ws:on_text(function() error("as it should") end) end)
app.get("hello/:name", function(req) return "hello" end)
app.get("fails", function() error("as it should") end)
app.get("waits", function() app.sleep(0.01) app.sleep(0.01) return "" end)
app.get("waits/and/fails", function() app.sleep(0.01) error("late") end)
app.get("busy", function() local t = os.clock() while os.clock() - t < 0.3 do end return "" end)
app.post([[odd"\\]], function() return "" end)
"""


def series(text):
    """{("name", (("label", "value"), ...)): number} of a text, each line of which must be right by itself."""
    label = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
    line = re.compile(rf'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({label}(?:,{label})*)\}})? (\S+)')
    found = {}
    for sample in text.splitlines():
        if sample.startswith("#"):
            continue
        match = line.fullmatch(sample)
        assert match, f"no sample: {sample!r}"
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")
        assert len({name for name, _ in labels}) == len(labels), sample
        key = match[1], tuple(labels)
        assert key not in found, f"twice: {sample!r}"
        found[key] = float(match[3])
    return found


UNITS = re.compile(r"_(milli|micro|nano)seconds|_(minutes|hours|days|ms|s|kb|mb|kilobytes|megabytes|bits|percent)(_|$)")


def check_conventions(text):
    """What `promtool check metrics` looks at, and a few things more."""
    assert text.endswith("\n")
    types, seen, now = {}, set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            now, said = line[7:].split(" ", 1)
            assert now not in types and said.endswith("."), line
        elif line.startswith("# TYPE "):
            name, types[now] = line[7:].split(" ")
            assert name == now and types[now] in ("counter", "gauge", "histogram"), line
        else:
            name = re.match(r"\w+", line)[0]
            family = re.sub(r"_(bucket|sum|count)$", "", name) if types[now] == "histogram" else name
            assert family == now, f"{line!r} under {now}"
            seen.add(now)
    for name, kind in types.items():
        assert re.fullmatch(r"(tidewire|process)(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(bucket|sum|count|info)$", name) or name == "tidewire_build_info"
        assert not re.search("counter|gauge|histogram|summary", name) and not UNITS.search(name), name
    assert set(types) == seen, "a name without any sample"
    return types


def check_histograms(found, types):
    """Buckets rise, the last one has all, and the sum is that of so many values within their bounds."""
    for family in (name for name, kind in types.items() if kind == "histogram"):
        parts = {}
        for (name, labels), value in found.items():
            if name == family + "_bucket":
                bound = dict(labels)["le"]
                rest = tuple(pair for pair in labels if pair[0] != "le")
                parts.setdefault(rest, []).append((float(bound.replace("+Inf", "inf")), value))
        assert parts
        for labels, buckets in parts.items():
            assert buckets == sorted(buckets) and math.isinf(buckets[-1][0])
            counts = [count for _, count in buckets]
            assert counts == sorted(counts)
            total, summed = found[(family + "_count", labels)], found[(family + "_sum", labels)]
            assert total == counts[-1]
            least = most = before = lower = 0
            for bound, count in buckets:
                least, most = least + (count - before) * lower, most + (0 if count == before else (count - before) * bound)
                before, lower = count, bound
            assert least - 1e-6 <= summed <= most + 1e-6, (family, labels)


def exercise(server):
    """Some of everything that ALL has."""
    with server.raw() as client:
        for path in ("hello/you", "waits", "odd%22%5C", "fails", "waits/and/fails", "nothing"):
            client.request(f"{'POST' if 'odd' in path else 'GET'} /{path} HTTP/1.1\nHost: x\nContent-Length: 0\n\n")
    with server.raw("/echo", sec_websocket_extensions="permessage-deflate") as client:
        client.send_frame(TEXT, "a")
        client.take(2)
        client.send_frame(BINARY_OP, b"abc")
        client.take(2)
    with server.raw("/fails") as client:
        client.send_frame(TEXT, "a")
        client.expect_close(1011)
    with server.raw("/all") as one, server.raw("/all") as two:
        one.send_frame(TEXT, "to two")
        assert two.text() == "to two"
    server.wait_metric("tidewire_connections", 0)


# ---- the text ----


def test_the_text_follows_the_conventions(serve):
    server = serve(ALL, workers=2)
    exercise(server)
    text = server.ask("metrics")
    check_histograms(series(text), check_conventions(text))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of the package prometheus")
def test_promtool_finds_nothing(serve):
    server = serve(ALL, workers=2)
    exercise(server)
    done = subprocess.run(["promtool", "check", "metrics"], input=server.ask("metrics"), text=True, capture_output=True,
                          timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_command_prints_them(serve):
    server = serve(ALL)
    done = run("metrics", "--control", server.control_path)
    assert done.returncode == 0 and not done.stderr
    check_conventions(done.stdout)


def test_the_command_fails_when_there_is_no_server(tmp_path):
    done = run("metrics", "--control", tmp_path / "nobody")
    assert done.returncode == 1 and not done.stdout and "no server answers" in done.stderr


def test_patterns_are_escaped(serve):
    server = serve(ALL)
    exercise(server)
    assert 'tidewire_handler_calls_total{method="POST",route="/odd\\"\\\\"} 1\n' in server.ask("metrics")


# ---- what they count ----


def rise(server, action):
    """How much each metric has risen by an action."""
    before = server.metrics()
    action()
    now = server.metrics()
    return {name: now[name] - before.get(name, 0) for name in now}


def of(method, route, **labels):
    return "{" + ",".join(f'{k}="{v}"' for k, v in {"method": method, "route": route, **labels}.items()) + "}"


def test_calls_and_errors_by_route(serve):
    server = serve(ALL)
    exercise(server)
    now = server.metrics()
    for method, route, calls, errors in [
            ("GET", "/hello/:name", 1, 0), ("GET", "/fails", 1, 1), ("GET", "/waits/and/fails", 1, 1), ("GET", "/busy", 0, 0),
            ("WEBSOCKET", "/fails", 3, 1), ("WEBSOCKET", "/echo", 4, 0)]:  # opening, messages, end
        where = of(method, route)
        assert now["tidewire_handler_calls_total" + where] == calls, where
        assert now["tidewire_handler_errors_total" + of(method, route, reason="error")] == errors, where
        assert now["tidewire_handler_errors_total" + of(method, route, reason="budget")] == 0, where
    assert now["tidewire_handler_errors_total"] == 3


def test_what_is_for_no_route_is_counted_apart(serve):
    server = serve(ALL + "app.on_start(function() app.spawn(function() error('none') end) end)")
    none = "tidewire_handler_errors_total" + of("*", "none", reason="error")
    assert server.wait_metric(none, 1) == server.metrics()["tidewire_handler_errors_total"]
    assert server.metrics()["tidewire_handler_calls_total" + of("*", "none")] == 2  # on_start, and what it spawned


def test_a_cut_handler_counts_for_its_route(serve):
    server = serve("app.get('loops', function() while true do end end)", handler_budget="50ms")
    with server.raw() as client:
        assert client.request("GET /loops HTTP/1.1\nHost: x\n\n").status == 500
    assert server.metrics()["tidewire_handler_errors_total" + of("GET", "/loops", reason="budget")] == 1


def test_times_of_an_http_route(serve):
    """Each run is one value: an entry, and each time it goes on after it has waited. The waiting is no part of it."""
    server = serve(ALL)
    with server.raw() as client:
        for path in ("busy", "waits"):
            client.request(f"GET /{path} HTTP/1.1\nHost: x\n\n")
    now = server.metrics()
    name = "tidewire_handler_duration_seconds"
    assert now[f"{name}_count" + of("GET", "/busy")] == 1
    assert now[f"{name}_sum" + of("GET", "/busy")] >= 0.3
    assert now[f"{name}_bucket" + of("GET", "/busy", le="0.1")] == 0
    assert now[f"{name}_count" + of("GET", "/waits")] == 3
    assert now[f"{name}_sum" + of("GET", "/waits")] > 0


def test_messages_of_a_websocket_route_are_sampled(serve):
    server = serve(ALL)
    with server.raw("/echo") as client:
        for _ in range(1000):
            client.send_frame(TEXT, "x")
        for _ in range(1000):
            client.text()
        now = server.metrics()
    assert now["tidewire_handler_calls_total" + of("WEBSOCKET", "/echo")] == 1001
    assert 10 <= now["tidewire_handler_duration_seconds_count" + of("WEBSOCKET", "/echo")] <= 100


def test_a_worker_that_was_busy_is_in_the_delays_of_its_loop(serve):
    server = serve(ALL)
    with server.raw() as client:
        client.request("GET /busy HTTP/1.1\nHost: x\n\n")  # 0.3 s, three times the distance of two samples

    def slow():
        now = server.metrics()
        name = 'tidewire_loop_delay_seconds_bucket{worker="1",le="%s"}'
        return now[name % "+Inf"] - now[name % "0.1"]
    server.wait_metric('tidewire_loop_delay_seconds_count{worker="1"}', lambda _: slow() >= 1)


def test_messages_and_bytes_by_kind(serve):
    server = serve(ALL)
    with server.raw("/echo") as client:
        def talk():
            client.send_frame(TEXT, "é")
            assert client.text() == "é"
            client.send_frame(BINARY_OP, b"abc", fin=False)
            client.send_frame(0, b"de")
            assert client.frame() == (BINARY_OP, b"abcde")
            client.send_frame(PING, b"?")
            assert client.frame() == (PONG, b"?")
            client.send_frame(PONG, b"!")
            client.send_frame(CLOSE, close_payload(1000))
            client.expect_close(1000)
        up = rise(server, talk)
    for direction in ("received", "sent"):
        assert up[f'tidewire_messages_{direction}_total{{kind="text"}}'] == 1
        assert up[f'tidewire_messages_{direction}_total{{kind="binary"}}'] == 1
        assert up[f'tidewire_messages_{direction}_bytes_total{{kind="text"}}'] == 2
        assert up[f'tidewire_messages_{direction}_bytes_total{{kind="binary"}}'] == 5
        assert up[f'tidewire_control_frames_{direction}_total{{kind="close"}}'] == 1
    assert up['tidewire_control_frames_received_total{kind="ping"}'] == 1
    assert up['tidewire_control_frames_received_total{kind="pong"}'] == 1
    assert up['tidewire_control_frames_sent_total{kind="pong"}'] == 1
    assert up['tidewire_control_frames_sent_total{kind="ping"}'] == 0


def test_bytes_are_those_before_compression(serve):
    server = serve(ALL)
    with server.raw("/echo", sec_websocket_extensions="permessage-deflate") as client:
        client.send_frame(TEXT, "a" * 10000)
        client.take(2)
        now = server.metrics()
    assert now['tidewire_messages_sent_bytes_total{kind="text"}'] == 10000
    assert now["tidewire_sent_bytes_total"] < 5000


@pytest.mark.parametrize("workers", [1, 2])
def test_publishes_and_deliveries(serve, workers):
    server = serve(ALL, workers=workers)
    clients = [server.raw("/all") for _ in range(5)]
    server.wait_metric("tidewire_subscriptions", 5)

    def talk():
        clients[0].send_frame(TEXT, "four times")
        clients[0].send_frame(BINARY_OP, b"x" * 1000)
        clients[0].send_frame(TEXT, "")
        for client in clients[1:]:
            assert [client.frame() for _ in range(3)] == [(TEXT, b"four times"), (BINARY_OP, b"x" * 1000), (TEXT, b"")]
    up = rise(server, talk)
    assert up["tidewire_published_total"] == 3
    assert up["tidewire_deliveries_total"] == 12
    assert up['tidewire_messages_sent_total{kind="text"}'] == 8
    assert up['tidewire_messages_sent_total{kind="binary"}'] == 4
    assert up['tidewire_messages_sent_bytes_total{kind="text"}'] == 40
    assert up['tidewire_messages_sent_bytes_total{kind="binary"}'] == 4000
    for client in clients:
        client.close()


def test_connections_by_state(serve):
    server = serve(ALL, close_timeout=PATIENCE)
    one, two = server.raw("/echo"), server.raw()
    states = "open", "flushing", "lingering", "closed"

    def now():
        found = server.metrics()
        return [found[f'tidewire_connections{{state="{state}"}}'] for state in states]
    server.wait_metric("tidewire_connections", 2)
    assert now() == [2, 0, 0, 0]
    one.send_frame(CLOSE, close_payload(1000))
    one.frame()  # the server has said all it has to say, and waits for the end of the connection
    server.wait_metric('tidewire_connections{state="lingering"}', 1)
    assert now() == [1, 0, 1, 0]
    one.close()
    two.close()
    server.wait_metric("tidewire_connections", 0)
    assert now() == [0, 0, 0, 0]


def test_memory_of_lua_for_each_worker(serve):
    server = serve("app.get('keep', function() KEPT = ('x'):rep(5000000) return '' end)"
                   "app.get('waste', function() for i = 1, 200 do local _ = ('x'):rep(100000 + i) end return '' end)",
                   workers=2)
    memory = 'tidewire_lua_memory_bytes{worker="%d"}'
    for worker in (1, 2):
        server.wait_metric(memory % worker, lambda bytes_: 10000 < bytes_ < 1000000)
    with server.raw() as client:
        client.request("GET /waste HTTP/1.1\nHost: x\n\n")
        client.request("GET /keep HTTP/1.1\nHost: x\n\n")
        server.wait_metric("tidewire_lua_memory_bytes", lambda bytes_: bytes_ > 5000000)
        now = server.metrics()
    assert sorted(now[memory % worker] > 5000000 for worker in (1, 2)) == [False, True]
    assert now["tidewire_lua_collections_total"] >= 1


def test_figures_of_the_process(serve):
    server = serve(ALL)
    now = server.metrics()
    with open(f"/proc/{server.pid}/stat", encoding="ascii") as file:
        assert now["process_virtual_memory_bytes"] >= int(file.read().rsplit(")", 1)[1].split()[20]) / 2
    assert 10**6 < now["process_resident_memory_bytes"] < now["process_virtual_memory_bytes"]
    assert 5 < now["process_open_fds"] < now["process_max_fds"]
    assert now["process_cpu_seconds_total"] > 0
    assert server.metrics()["process_start_time_seconds"] == now["process_start_time_seconds"] > 1.6e9
    version = run("version").stdout.split()[1]
    assert now[f'tidewire_build_info{{version="{version}"}}'] == 1


# ---- over reloads ----


def test_the_first_load_is_no_reload(serve):
    server = serve(ALL)
    outcomes = 'tidewire_reloads_total{outcome="%s"}'
    assert server.metrics()["tidewire_reloads_total"] == 0
    assert server.reload(ALL)
    assert server.metrics()[outcomes % "ok"] == 1
    assert not server.reload("nonsense")
    now = server.metrics()
    assert (now[outcomes % "ok"], now[outcomes % "refused"], now[outcomes % "rolled_back"]) == (1, 1, 0)


def test_generations_that_are_alive(serve):
    server = serve("app.websocket('waits', function(ws) ws:on_text(function() ws:send('waits') app.sleep(1000) end) end)")
    with server.raw("/waits") as client:
        client.send_frame(TEXT, "x")
        assert client.text() == "waits"
        assert server.metrics()["tidewire_generations"] == 1
        assert server.reload(ALL)
        assert server.reload(ALL)
        server.wait_metric("tidewire_generations", 2)  # what waits keeps the first one; nothing the second
        now = server.metrics()
        assert now['tidewire_generation_websockets{generation="1"}'] == 1
        assert now['tidewire_generation_websockets{generation="3"}'] == 0
        assert 'tidewire_generation_websockets{generation="2"}' not in now
    server.wait_metric("tidewire_generations", 1)


def test_counters_never_go_back(serve):
    """Not at a reload, whether it is taken or not, nor when a route goes and comes back."""
    server = serve(ALL, workers=2)
    before = {}
    for script in (ALL, ALL, "nonsense", "app.get('hello/:name', function() return '' end)", ALL):
        server.reload(script)
        if script == ALL:
            exercise(server)
        text = server.ask("metrics")
        now, types = series(text), check_conventions(text)
        for key, value in before.items():
            family = re.sub(r"_(bucket|sum|count)$", "", key[0]) if key[0] not in types else key[0]
            if types[family] != "gauge":
                assert now[key] >= value, key
        check_histograms(now, types)
        before = now
    where = of("GET", "/hello/:name")
    assert server.metrics()["tidewire_handler_calls_total" + where] == 3
