# SPDX-License-Identifier: MIT
"""A reload reads the configuration anew: what changes for new and for live connections, what cannot change, and that a
fault anywhere changes nothing."""
import json
import re
from pathlib import Path

import pytest

from conftest import BINARY, PING, PONG, TEXT, run
from configured import SCRIPT, Configured, get, lua, put
from migrating import FAILED, MOVED, REFUSED, ROLLED_BACK, TAKEN, ask, code, served_by, tell


@pytest.fixture(name="configured")
def configured_fixture(serve, tmp_path):
    return lambda values, *args, **options: Configured(serve, tmp_path, values, *args, **options)


# ---- what changes ----


def test_limits_of_live_websockets_change(configured):
    c = configured({"max_message": 1000})
    with c.server.raw("/run") as client:
        tell(client, "x = '" + "y" * 900 + "'")
        assert client.text() == ""
        assert c.reload({"max_message": 100})
        c.server.wait_metric(MOVED, 1)
        assert served_by(client) == "one 2"
        tell(client, "x = '" + "y" * 900 + "'")
        client.expect_close(1009)
    c.told(r"configuration: max_message 1000 -> 100\n")


def test_pings_of_live_websockets_change_unless_the_script_has_set_them(configured):
    c = configured({"ping_interval": 0, "idle_timeout": 0})
    with c.server.raw("/run") as quiet, c.server.raw("/run") as own:
        ask(own, "ws.ping_interval = 3600")
        assert c.reload({"ping_interval": 0.1, "idle_timeout": 0})
        assert quiet.frame() == (PING, b"")
        quiet.send_frame(PONG, b"")
        assert quiet.frame() == (PING, b"")
        assert served_by(own) == "one 2"  # the first frame that it gets
    c.told(r"configuration: ping_interval 0 -> 0\.1\n")


def test_idle_timeout_ends_live_websockets(configured):
    c = configured({"ping_interval": 0, "idle_timeout": 0})
    with c.server.raw("/run") as client:
        assert c.reload({"ping_interval": 0, "idle_timeout": 0.2, "close_timeout": 0.05})
        client.expect_close(1001)


def test_a_kept_http_connection_gets_the_new_limits(configured):
    c = configured({"gzip": "false"})
    with c.server.raw() as client:
        assert get(client, "/long", accept_encoding="gzip").headers.get("content-encoding") is None
        assert c.reload({"gzip": "true", "max_head": 600})
        c.server.wait_metric(TAKEN, 1)
        assert ask_generation(c) == "2"
        client.send(b"GET /long HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")
        head = client.until(b"\r\n\r\n").decode().lower()
        assert "content-encoding: gzip" in head
        client.take(int(re.search(r"content-length: (\d+)", head).group(1)))
        assert get(client, "/name", x=700 * "x").status == 431


def ask_generation(c):
    with c.server.raw("/run") as client:
        return ask(client, "return app.generation")


def test_times_hold_for_new_connections(configured):
    c = configured({"handshake_timeout": 3600})
    assert c.reload({"handshake_timeout": 0.1})
    assert ask_generation(c) == "2"
    with c.server.raw() as client:
        assert client.response().status == 408


def test_max_connections_goes_up_and_down(configured):
    c = configured({"max_connections": 2})
    with c.server.raw("/run") as one, c.server.raw("/run"):
        with c.server.raw() as third:
            assert third.response().status == 503
        assert c.reload({"max_connections": 3})
        assert ask(one, "return app.generation") == "2"
        with c.server.raw("/run"):
            assert c.reload({"max_connections": 1})
            assert ask(one, "return app.generation") == "3"  # none of them has to go
            with c.server.raw() as fourth:
                assert fourth.response().status == 503


def test_max_connections_per_address_counts_from_the_reload_on(configured):
    c = configured({})
    with c.server.raw("/run") as before:
        assert c.reload({"max_connections_per_address": 1})
        assert ask(before, "return app.generation") == "2"
        with c.server.raw("/run"), c.server.raw() as second:
            assert second.response().status == 429
            assert c.reload({})
            assert ask(before, "return app.generation") == "3"
            with c.server.raw("/run") as third:
                assert served_by(third) == "one 3"


def test_handshakes_per_second_changes(configured):
    c = configured({})
    assert c.reload({"handshakes_per_second": 1})
    assert ask_generation(c) == "2"
    with c.server.raw() as client:
        client.handshake("/run")
        assert client.response().status == 503


def test_trusted_proxies_change_for_the_next_request(configured):
    c = configured({})
    with c.server.raw() as client:
        assert get(client, "/who", x_forwarded_for="192.0.2.1").body == "127.0.0.1"
        assert c.reload({"trusted_proxies": '{"loopback"}'})
        assert ask_generation(c) == "2"
        assert get(client, "/who", x_forwarded_for="192.0.2.1").body == "192.0.2.1"
        assert c.reload({"trusted_proxies": '{"10.0.0.0/8"}'})
        assert ask_generation(c) == "3"
        assert get(client, "/who", x_forwarded_for="192.0.2.1").body == "127.0.0.1"
    c.told(r"configuration: trusted_proxies \+ loopback\n")
    c.told(r"configuration: trusted_proxies \+ 10\.0\.0\.0/8 - loopback\n")


def test_origins_change(configured):
    def status(origin):
        with c.server.raw() as client:
            client.handshake("/run", origin=origin)
            return client.response().status

    c = configured({})
    assert status("https://a.example") == 403
    assert c.reload({"origins": '{"same", "https://a.example"}'})
    assert ask_generation(c) == "2"
    assert status("https://a.example") == 101


def test_compression_changes_for_new_websockets(configured):
    def agreed():
        with c.server.raw() as client:
            client.handshake("/run", sec_websocket_extensions="permessage-deflate; client_max_window_bits")
            return client.response().headers.get("sec-websocket-extensions", "")

    c = configured({})
    assert agreed() == ""
    assert c.reload({"compression": "true", "compression_window": 10})
    assert ask_generation(c) == "2"
    assert "server_max_window_bits=10" in agreed()


def test_log_level_and_format_change(configured):
    c = configured({"log_level": '"error"'}, log_level=None)
    with c.server.raw("/run") as client:
        put(c.path, lua({"log_level": '"debug"', "log_format": '"json"'}))
        c.server.send_signal(1)
        c.told(r'"message":"configuration: log_level error -> debug, log_format text -> json"')
        c.server.wait_metric(MOVED, 1)
        ask(client, "log.debug('now it can be seen')")
        line = c.told(r'(\{[^\n]*now it can be seen[^\n]*)\n').group(1)
        assert json.loads(line)["level"] == "debug"
        assert c.reload({"log_level": '"info"'})
        assert ask(client, "return app.generation") == "3"
        ask(client, "log.debug('nobody') log.info('somebody')")
        c.told(r"info +\[[^\n]*somebody")
        assert "nobody" not in c.server.log


def test_the_handler_budget_changes(configured):
    c = configured({"handler_budget": 3600})
    with c.server.raw("/run") as client:
        assert c.reload({"handler_budget": 0.1})
        assert ask(client, "return app.generation") == "2"
        tell(client, "while true do end")
        client.expect_close(1011)
    c.told(r"it ran longer than 0\.1 s \(handler_budget\)")


def test_the_load_budget_and_the_memory_hold_for_the_code_that_comes_with_them(configured):
    c = configured({"load_budget": 3600})
    c.refused({"load_budget": 0.1}, r"it ran longer than 0\.1 s \(load_budget\)", script="while true do end")
    c.refused({"vm_memory": '"4m"'}, r"not enough memory", script="t = ('x'):rep(8 * 1024 * 1024)" + SCRIPT)
    assert c.server.reload(SCRIPT)


def test_max_state_holds_for_the_move_that_brings_it(configured):
    c = configured({"max_state": 10})
    with c.server.raw("/run") as client:
        ask(client, "ws.state.text = ('x'):rep(100)")
        assert c.reload({"max_state": 1000})
        c.server.wait_metric(MOVED, 1)
        assert ask(client, "return app.generation, #ws.state.text") == "2 100"


def test_environment_and_flags_still_win(configured):
    c = configured({"max_message": 50, "max_body": 50}, "--max-message", "1000", max_body=2000)
    assert c.reload({"max_message": 60, "max_body": 60, "max_head": 1000})
    line = c.told(r"configuration: ([^\n]*)\n").group(1)
    assert line == "max_head 16k -> 1000"


def test_nothing_is_said_when_nothing_changes(configured):
    c = configured({"max_message": 50})
    assert c.reload("-- another way to say it\nreturn { max_message = '50' }")
    assert "configuration:" not in c.server.log


def test_many_changes_are_one_line_of_bounded_length(configured):
    c = configured({})
    items = ", ".join(f'"https://{i}.{"x" * 190}.example"' for i in range(10))
    assert c.reload({"origins": f"{{{items}}}", "max_message": 77})
    line = c.told(r"(configuration: [^\n]*)\n").group(1)
    assert len(line) < 1600 and "max_message 1m -> 77" in line and line.endswith(" and 1 more")


# ---- what stays ----


FIXED = {
    "workers": ("2", "4"), "pin_workers": ("false", "true"), "shared_size": ('"8m"', '"16m"'), "watch": ("false", "true"),
}


def test_fixed_keys_stay_and_are_named_while_the_rest_applies(configured, tmp_path):
    before = {key: values[0] for key, values in FIXED.items()}
    before["pid_file"] = f'"{tmp_path}/pid"'
    after = {key: values[1] for key, values in FIXED.items()}
    after.update(pid_file=f'"{tmp_path}/other"', control=f'"{tmp_path}/elsewhere"', max_message=99)
    c = configured(before, control=None)
    c.server.control_path = tmp_path / "pid.sock"
    for _ in range(2):  # it is said again
        start = c.server.mark()
        assert c.reload(after)
        c.told(r"warn +workers: 2 stays until a restart \(the file says 4\)\n", start)
        c.told(r"warn +pin_workers: false stays until a restart \(the file says true\)\n", start)
        c.told(r"warn +shared_size: 8m stays until a restart \(the file says 16m\)\n", start)
        c.told(r"warn +watch: false stays until a restart \(the file says true\)\n", start)
        c.told(rf"warn +control: none stays until a restart \(the file says {tmp_path}/elsewhere\)\n", start)
        c.told(rf"warn +pid_file: {tmp_path}/pid stays until a restart \(the file says {tmp_path}/other\)\n", start)
    assert len(re.findall(r"configuration: max_message 1m -> 99\n", c.server.log)) == 1
    assert int((tmp_path / "pid").read_text()) == c.server.pid
    with c.server.raw("/run") as client:
        assert ask(client, "return app.workers") == "2"
        tell(client, "x" * 100)
        client.expect_close(1009)


def test_help_marks_exactly_the_fixed_keys():
    marked = re.findall(r"^ +(?:-\w, )?--(\S+) .* \*$", run("--help").stdout, re.M)
    fixed = {"control", "log-buffer", "pid-file", "pin-workers", "shared-size", "user", "watch", "workers"}
    assert set(marked) == fixed


def test_a_configuration_from_a_pipe_is_read_once(serve, started_by):
    started_by("""
read, write = os.pipe()
os.write(write, b"return { max_message = 10 }")
os.close(write)
os.dup2(read, 9)
""")
    server = serve(SCRIPT, config="/proc/self/fd/9")
    assert server.reload()
    with server.raw("/run") as client:
        tell(client, "x" * 11)
        client.expect_close(1009)


# ---- all or nothing ----


FAULTS = {
    "syntax": ("return {", r"server\.conf\.lua:1: unexpected symbol"),
    "raised": ("error('on purpose')", r"server\.conf\.lua:1: on purpose"),
    "no table": ("return 7", r"server\.conf\.lua: must return a table"),
    "unknown key": ("return { max_mesage = 7 }", r"server\.conf\.lua: unknown key max_mesage; did you mean max_message\?"),
    "bounds": ("return { max_head = 1 }", r"server\.conf\.lua: max_head: \"1\" is not a number of bytes from 512"),
    "type": ("return { max_head = {} }", r"server\.conf\.lua: max_head cannot be a table"),
    "choice": ("return { log_level = 'loud' }", r"server\.conf\.lua: log_level: \"loud\" is none of"),
    "fixed, out of bounds": ("return { workers = 0 }", r"server\.conf\.lua: workers: "),
    "origin": ("return { origins = 'a b' }", r"server\.conf\.lua: origins: \"a b\": "),
    "proxy": ("return { trusted_proxies = '10.0.0.1/8' }", r"server\.conf\.lua: trusted_proxies: "),
    "too long": ("while true do end", r"server\.conf\.lua: the configuration file runs for too long"),
    "in a part": ("return dofile('gone.lua')", r"cannot read gone\.lua"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_refuses_everything_and_names_the_place(configured, fault):
    text, pattern = FAULTS[fault]
    c = configured({"max_message": 200})
    with c.server.raw("/run") as client:
        c.refused(text, pattern, script=SCRIPT.replace('"one"', '"two"'))
        assert served_by(client) == "one 1"
        tell(client, "x" * 201)
        client.expect_close(1009)
    assert c.server.metrics()[REFUSED] == 1
    assert c.reload({"max_message": 300})  # with the script that waited
    with c.server.raw("/run") as client:
        assert served_by(client) == "two 2"


ADDRESS_FAULTS = {
    "form": ('"nowhere"', r"listen \"nowhere\": expected ADDRESS:PORT"),
    "not ours": ('"192.0.2.1:0"', r"listen: cannot listen on 192\.0\.2\.1:0: this machine has no such address"),
    "inherited": ('"fd:7"', r"listen: fd:7 can be taken over only when the server starts"),
    "no proxies": ('"proxy:127.0.0.1:0"', r"listen: proxy:\S+ takes connections from trusted_proxies only"),
    "unix": ('"unix:/nowhere/at/all"', r"listen: cannot listen on unix:/nowhere/at/all: No such file"),
}


@pytest.mark.parametrize("fault", ADDRESS_FAULTS)
def test_an_address_that_cannot_be_refuses_everything(configured, fault):
    address, pattern = ADDRESS_FAULTS[fault]
    c = configured({"listen": '"127.0.0.1:0"', "max_message": 200}, listen=None)
    c.refused({"listen": f'{{"127.0.0.1:0", "127.0.0.2:0", {address}}}', "max_message": 7},
              r"server\.conf\.lua: " + pattern, script=SCRIPT.replace('"one"', '"two"'))
    assert c.server.log.count("listening on") == 1
    with c.server.raw("/run") as client:
        assert served_by(client) == "one 1"


def test_a_fault_in_the_script_keeps_the_old_configuration(configured):
    c = configured({"listen": '"127.0.0.1:0"', "max_message": 200}, listen=None)
    c.refused({"listen": '{"127.0.0.1:0", "127.0.0.2:0"}', "max_message": 7, "log_level": '"error"'},
              r"main\.lua:1: on purpose", script='error("on purpose")')
    assert "configuration:" not in c.server.log and c.server.log.count("listening on") == 1
    with c.server.raw("/run") as client:
        assert served_by(client) == "one 1"
    c.refused({"max_message": 7}, "registers no route any more", script="")


def test_a_file_that_is_gone_is_a_fault_and_one_that_comes_is_taken(serve, tmp_path):
    server = serve(SCRIPT)
    path = Path(server.script).parent / "tidewire.conf.lua"
    put(path, lua({"max_message": 200}))
    assert server.reload()
    server.wait_log(r"configuration: max_message 1m -> 200")
    path.unlink()
    assert not server.reload()
    server.wait_log(rf"reload refused, [^\n]*: {path} is gone; one that says `return {{}}` gives the defaults")
    put(path, "return {}")
    assert server.reload()
    server.wait_log(r"configuration: max_message 200 -> 1m")


def test_a_named_file_that_is_gone_is_a_fault(configured):
    c = configured({})
    c.path.unlink()
    start = c.server.mark()
    assert not c.server.reload()
    c.told(rf"cannot read {c.path}: No such file", start)


def test_going_back_takes_the_configuration_along(configured):
    c = configured({"listen": '{"127.0.0.1:0", "127.0.0.2:0"}', "max_message": 1000, "rollback_share": 0}, listen=None)
    with c.server.raw("/run") as client:
        start = c.server.mark()
        assert c.reload({"listen": '{"127.0.0.1:0", "127.0.0.3:0"}', "max_message": 2000, "rollback_share": 0},
                        script=code("two", arrive='if ws.migrated then error("no") end'))
        c.server.wait_metric(ROLLED_BACK, 1)
        c.told(r"configuration: listen \+ 127\.0\.0\.3:0 - 127\.0\.0\.2:0, max_message 1000 -> 2000\n", start)
        c.told(r"configuration: listen \+ 127\.0\.0\.2:0 - 127\.0\.0\.3:0, max_message 2000 -> 1000\n", start)
        c.told(r"no longer listening on 127\.0\.0\.3:", start)
        assert served_by(client) == "one 3"
        assert c.server.metrics()[FAILED] == 1


# ---- asking for it ----


def test_tidewire_reload_tells_what_is_wrong(configured):
    c = configured({})
    env = {"control": c.server.control_path}
    put(c.path, lua({"max_head": 1}))
    done = run("reload", env=env)
    assert done.returncode == 1 and re.search(r"server\.conf\.lua: max_head: ", done.stderr)
    put(c.path, lua({"max_head": 1000}))
    done = run("reload", env=env)
    assert done.returncode == 0 and done.stdout.startswith("ok generation 2 serves")


def test_watch_follows_the_configuration_and_its_parts(configured, tmp_path):
    part = tmp_path / "part.lua"
    put(part, "return 100")
    c = configured(f'return {{ max_message = dofile("{part}") }}', "--watch")
    put(part, "return 200")
    c.told(r"part\.lua changed: loading [^$]*configuration: max_message 100 -> 200\n")
    start = c.server.mark()
    put(c.path, "return { max_message = 300 ")
    c.told(r"server\.conf\.lua changed: loading [^$]*reload refused", start)
    start = c.server.mark()
    put(c.path, "return { max_message = 300 }")
    c.told(r"configuration: max_message 200 -> 300\n", start)


def test_watch_sees_a_configuration_that_comes(serve):
    server = serve(SCRIPT, "--watch")
    put(Path(server.script).parent / "tidewire.conf.lua", lua({"max_message": 300}))
    server.wait_log(r"tidewire\.conf\.lua changed: loading [^$]*configuration: max_message 1m -> 300\n")


# ---- under traffic ----


def test_a_thousand_connections_bear_many_configurations(configured):
    """Each echoes numbered messages all the time, while limits, times and an address change again and again."""
    many, rounds = (200, 8) if "tsan" in BINARY else (1000, 20)
    c = configured({"listen": '{"127.0.0.1:0"}', "workers": 2}, listen=None, script=ECHO)
    clients = [c.server.raw("/echo") for _ in range(many)]
    try:
        for number in range(rounds):
            for client in clients:
                client.send_frame(TEXT, f"{number} a")
            start = c.server.mark()
            put(c.path, lua({"listen": f'{{"127.0.0.1:0", "127.0.0.{2 + number % 2}:0"}}', "workers": 2,
                             "max_message": 1000 + number, "ping_interval": 30 + number, "idle_timeout": 120 + number,
                             "max_connections": 20000 + number, "log_format": '"text"'}))
            c.server.send_signal(1)
            for client in clients:
                client.send_frame(TEXT, f"{number} b")
            for client in clients:
                assert client.text() == f"{number} a"
                assert client.text() == f"{number} b"
            c.told(r"serves new connections", start)
            c.told(rf"max_message \S+ -> {1000 + number}", start)
        assert c.server.metrics()["tidewire_websockets"] == many
        assert c.server.metrics()[FAILED] == 0
    finally:
        for client in clients:
            client.close()


ECHO = 'app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)'


# ---- tidewire check ----


def test_check_of_a_configuration_alone(tmp_path):
    path = tmp_path / "c.lua"
    put(path, 'return { max_message = 65536, listen = { "127.0.0.1:1", "127.0.0.1:2" }, workers = 1 }')
    for args in (("check", "-c", path), ("check", f"--config={path}")):
        done = run(*args)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0] == f"{path}: fine"
        assert [line.split() for line in lines[1:]] == [["listen", "127.0.0.1:1,127.0.0.1:2"], ["max_message", "64k"]]
    assert run("check", env={"config": path}).stdout == done.stdout
    assert run("check", "-c", path, "--max-message", "2k").stdout.splitlines()[2].split() == ["max_message", "2k"]


def test_check_of_both(tmp_path):
    config, script = tmp_path / "tidewire.conf.lua", tmp_path / "main.lua"
    put(config, "return { max_body = 0 }")
    put(script, SCRIPT)
    done = run("check", script)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == f"{config}: fine" and done.stdout.endswith(f"{script}: fine, 4 routes\n")
    put(script, "x = = 1")
    done = run("check", script)
    assert done.returncode == 1 and "main.lua:1:" in done.stderr
    put(config, "return { max_body = -1 }")
    done = run("check", script)
    assert done.returncode == 2 and f"{config}: max_body: " in done.stderr and done.stdout == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_check_names_a_fault_of_the_configuration(tmp_path, fault):
    text, pattern = FAULTS[fault]
    path = tmp_path / "server.conf.lua"
    put(path, text)
    done = run("check", "-c", path)
    assert done.returncode == 2 and re.search(pattern, done.stderr), done.stderr


def test_check_of_an_address_in_a_configuration(tmp_path):
    path = tmp_path / "server.conf.lua"
    put(path, 'return { listen = "nowhere" }')
    done = run("check", "-c", path)
    assert done.returncode == 2 and 'listen "nowhere"' in done.stderr
