# SPDX-License-Identifier: MIT
"""The command line: verbs, options, environment, exit codes, and what a failed start says and leaves behind."""
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from conftest import BINARY, PATIENCE, ROOT, environment, run

ECHO = 'app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)\n'
VERBS = ["run", "check", "routes", "health", "reload", "version", "help"]
OPTIONS = sorted(re.findall(r"^    KEY\((\w+),", (ROOT / "src/base/config.c").read_text(encoding="utf-8"), re.M))


@pytest.fixture(name="script")
def write_script(tmp_path):
    """script(text) writes main.lua into a folder of its own and returns its path."""
    def write(text=ECHO, name="main.lua"):
        folder = tmp_path / "scripts"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(text, encoding="utf-8")
        return path
    return write


@pytest.fixture(name="quiet")
def quiet_options(tmp_path):
    """Options with which a server would disturb no other."""
    return {"listen": "127.0.0.1:0", "control": tmp_path / "quiet.sock"}


def one_line(text, *patterns):
    """`text` is one line, and has each of the patterns."""
    assert len(text.splitlines()) == 1, text
    for pattern in patterns:
        assert re.search(pattern, text), (pattern, text)
    return text


class Process:
    """A server that need not get as far as listening."""

    def __init__(self, *args, **options):
        self.process = subprocess.Popen([BINARY, *map(str, args)], env=environment(**options), text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.log = ""
        self.watch = threading.Timer(PATIENCE, self.process.kill)
        self.watch.start()

    def wait(self, mark):
        """Reads the log until it contains `mark`."""
        while mark not in self.log:
            line = self.process.stdout.readline()
            assert line, f"ended without {mark!r}: {self.log}"
            self.log += line
        return self

    def end(self, number=signal.SIGTERM):
        """Sends the signal and returns the exit code."""
        self.process.send_signal(number)
        self.log += self.process.stdout.read()
        return self.process.wait()

    def discard(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.watch.cancel()


@pytest.fixture(name="start")
def start_process():
    """start(argument..., option=value...) starts the program; the test ends it."""
    started = []

    def start(*args, **options):
        started.append(Process(*args, **options))
        return started[-1]
    yield start
    for process in started:
        process.discard()


# ---- help and version ----


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"], ["check", "--help"], ["run", "x.lua", "-h"]])
def test_help_lists_verbs_and_options(args, script):
    done = run(*[script() if arg == "x.lua" else arg for arg in args])
    assert done.returncode == 0 and done.stderr == ""
    assert len(OPTIONS) > 15
    for option in OPTIONS:
        assert re.search(rf"^  .*--{option.replace('_', '-')} +\S", done.stdout, re.M), option
    for verb in VERBS:
        assert re.search(rf"^  tidewire .*\b{verb}\b", done.stdout, re.M), verb
    for word in ("SIGHUP", "SIGTERM", "TIDEWIRE_", "[127.0.0.1:8080]", "debug|info|warn|error"):
        assert word in done.stdout


def test_help_fits_a_terminal():
    assert max(map(len, run("--help").stdout.splitlines())) <= 110


@pytest.mark.parametrize("args", [["--version"], ["-V"], ["version"]])
def test_version_names_the_libraries(args):
    done = run(*args)
    assert done.returncode == 0 and done.stderr == ""
    for pattern in (r"^tidewire \d+\.\d+\.\d+$", r"^Lua 5\.4\.\d+$", r"^libev \d+\.\d+$", r"^wslay \d",
                    r"^llhttp \d+\.", r"^OpenSSL 3\.", r"^libcurl \d+\."):
        assert re.search(pattern, done.stdout, re.M), pattern


# ---- words and options ----


@pytest.mark.parametrize("args, patterns", [
    ([], ["nothing to serve", "--help"]),
    (["run"], ["run needs a script"]),
    (["check"], ["check needs a script"]),
    (["routes"], ["routes needs a script"]),
    (["gone.lua"], [r"cannot read gone\.lua: No such file"]),
    (["run", "gone.lua"], [r"cannot read gone\.lua: No such file"]),
    (["check", "gone.lua"], [r"cannot read gone\.lua: No such file"]),
    (["health", "extra"], ["unexpected argument extra"]),
    (["--wrokers", "2"], ["unknown option --wrokers; did you mean --workers\\?"]),
    (["--handler_budgett=2"], ["unknown option --handler_budgett=2; did you mean --handler-budget\\?"]),
    (["--log-lvel", "warn"], ["did you mean --log-level\\?"]),
    (["--qqqqqqqqqqqqqqqqqq"], ["unknown option --qqqqqqqqqqqqqqqqqq; see tidewire --help"]),
    (["-x"], ["unknown option -x"]),
    (["--listen"], ["--listen needs a value"]),
    (["-w"], ["-w needs a value"]),
])
def test_unusable_command_line(args, patterns, tmp_path):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    one_line(done.stderr, "^tidewire: ", *patterns)


@pytest.mark.parametrize("args, patterns", [
    (["--workers", "many"], ['--workers: "many"', "from 1 to 256", "or auto"]),
    (["-w", "0"], ['-w: "0"']),
    (["-w0"], ['-w0?: "0"']),
    (["--workers=1.5"], ['"1.5"']),
    (["--workers", "257"], ['"257"']),
    (["--workers", "-1"], ['"-1"']),
    (["--workers="], ['""']),
    (["--max-message", "12q"], ['--max-message: "12q" is not a number of bytes from 1 to']),
    (["--max-message", "0"], ['"0"']),
    (["--max-message", "1e400"], ['"1e400"']),
    (["--max-message", "nan"], ['"nan"']),
    (["--max-message", "2g"], ['"2g"']),
    (["--ping-interval", "soon"], ['--ping-interval: "soon" is not a number of seconds']),
    (["--ping-interval", "-1"], ['"-1"']),
    (["--handler-budget", "0"], ['"0"', "0\\.05"]),
    (["--log-level", "loud"], ['--log-level: "loud" is none of debug|info|warn|error']),
    (["--log-format", "xml"], ['"xml" is none of text|json']),
    (["--abort-stuck=perhaps"], ['"perhaps" is neither true nor false']),
    (["--listen="], ["--listen=?: no value given"]),
])
@pytest.mark.parametrize("verb", ["run", "check"])
def test_unusable_value(args, patterns, verb, script):
    done = run(verb, script(), *args)
    assert done.returncode == 2 and done.stdout == ""
    one_line(done.stderr, "^tidewire: ", *patterns)


def test_a_second_script_is_refused(script):
    done = run("check", script(), "other.lua")
    assert done.returncode == 2
    one_line(done.stderr, "unexpected argument other.lua")


def test_folder_without_main_lua(tmp_path):
    done = run("check", tmp_path)
    assert done.returncode == 2
    one_line(done.stderr, re.escape(f"cannot read {tmp_path}/main.lua: No such file"))


@pytest.mark.parametrize("spelling", ["{0}", "{0}/", "{0}/main.lua"])
@pytest.mark.parametrize("verb", ["check", "routes"])
def test_script_or_folder(script, spelling, verb):
    (script().parent / "part.lua").write_text("return 1", encoding="utf-8")
    path = script(ECHO + 'assert(require("part") == 1)')
    done = run(verb, spelling.format(path.parent))
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_script_in_the_current_folder(script):
    (script().parent / "part.lua").write_text("return 1", encoding="utf-8")
    path = script(ECHO + 'assert(require("part") == 1)')
    assert run("check", "main.lua", cwd=path.parent).returncode == 0
    assert run("check", ".", cwd=path.parent).returncode == 0


@pytest.mark.parametrize("given", [["-w3"], ["-w", "3"], ["--workers=3"], ["--workers", "3"]])
def test_spellings_of_an_option(serve, given):
    assert "3 workers" in serve(ECHO, *given).ask("health")


@pytest.mark.parametrize("verb", [[], ["run"]])
def test_run_serves(verb, script, start, quiet):
    server = start(*verb, script(), **quiet).wait("listening on 127.0.0.1:")
    assert run("health", env={"control": quiet["control"]}).returncode == 0
    assert server.end() == 0, server.log


# ---- environment ----


@pytest.mark.parametrize("env, patterns", [
    ({"wrokers": 2}, ["unknown environment variable TIDEWIRE_WROKERS; did you mean TIDEWIRE_WORKERS\\?"]),
    ({"log_lvel": "warn"}, ["did you mean TIDEWIRE_LOG_LEVEL\\?"]),
    ({"qqqqqqqqqqqqqqqqqqqq": 1}, ["unknown environment variable TIDEWIRE_QQQQQQQQQQQQQQQQQQQQ"]),
    ({"workers": "many"}, ['TIDEWIRE_WORKERS: "many"']),
    ({"workers": ""}, ['TIDEWIRE_WORKERS: ""']),
    ({"log_level": "loud"}, ['TIDEWIRE_LOG_LEVEL: "loud" is none of']),
])
def test_unusable_environment(env, patterns, script):
    done = run("check", script(), env=env)
    assert done.returncode == 2 and done.stdout == ""
    one_line(done.stderr, "^tidewire: ", *patterns)


@pytest.mark.parametrize("env", [
    {"service_host": "10.0.0.1", "service_port": "8080"},
    {"port": "tcp://10.0.0.1:8080", "port_8080_tcp": "tcp://10.0.0.1:8080", "port_8080_tcp_addr": "10.0.0.1"},
    {"service_port_http": "8080"},
])
def test_variables_of_a_kubernetes_service_are_passed_over(env, script):
    done = run("check", script(), env=env)
    assert done.returncode == 0 and done.stderr == "", done.stderr


def test_environment_sets_options(serve):
    assert "2 workers" in serve(ECHO, workers=2).ask("health")


def test_flags_win_over_the_environment(serve):
    server = serve(ECHO, "--workers=2", "-l", "127.0.0.1:0", workers=3, listen="127.0.0.1:1")
    assert "2 workers" in server.ask("health") and server.port > 1
    server.stop()
    assert server.log.count("listening on") == 1


def test_addresses_of_the_environment_are_a_list(serve):
    assert serve(ECHO, listen="127.0.0.1:0,127.0.0.2:0,").wait_log(r"listening on 127\.0\.0\.2:\d+")


# ---- listening ----


def test_several_addresses_each_get_a_line_and_serve(serve, tmp_path):
    path = tmp_path / "web.sock"
    server = serve(ECHO, "-l", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--listen", f"unix:{path}", workers=2)
    server.wait_log(rf"listening on unix:{path}")
    found = re.findall(r"listening on (\S+):(\d+)", server.log)
    assert [host for host, _ in found] == ["127.0.0.1", "127.0.0.2"] and server.log.count("listening on") == 3
    head = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    for host, port in found:
        with socket.create_connection((host, int(port)), PATIENCE) as s:
            s.sendall(head)
            assert s.recv(4096).startswith(b"HTTP/1.1 404 ")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(PATIENCE)
        s.connect(str(path))
        s.sendall(head)
        assert s.recv(4096).startswith(b"HTTP/1.1 404 ")
    assert server.stop() == 0
    assert not path.exists()


def test_ipv6_address(serve):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = serve(ECHO, listen="[::1]:0")
    assert server.address.startswith("[::1]:")
    socket.create_connection(("::1", server.port), PATIENCE).close()


def test_stale_unix_address_is_taken_over(serve, tmp_path):
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    serve(ECHO, listen=f"unix:{path}")


@pytest.mark.parametrize("address, pattern", [
    ("8080", "expected ADDRESS:PORT"),
    ("127.0.0.1:", "expected ADDRESS:PORT"),
    ("127.0.0.1:65536", "expected ADDRESS:PORT"),
    ("127.0.0.1:http", "expected ADDRESS:PORT"),
    ("::1:8080", "brackets"),
    ("unix:relative.sock", "must be absolute"),
    ("unix:/" + "x" * 200, "longer than"),
    ("192.0.2.1:0", "this machine has no such address"),
    ("unix:/no/such/folder/web.sock", "cannot listen on unix:/no/such/folder/web.sock: No such file"),
    ("proxy:127.0.0.1:0", "from trusted_proxies only, and there are none"),
])
def test_address_that_cannot_be_served(address, pattern, script, quiet):
    quiet["listen"] = address
    done = run(script(), env=quiet)
    assert done.returncode in (1, 2)
    one_line(done.stderr, pattern)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("theirs", [1, 3])
def test_port_taken_by_another_instance(serve, script, quiet, workers, theirs):
    first = serve(ECHO, workers=theirs)
    done = run(script(), env={**quiet, "listen": first.address, "workers": workers})
    assert done.returncode == 1 and done.stdout == ""
    one_line(done.stderr, re.escape(f"cannot listen on {first.address}: address already in use"), "choose another address")


def test_port_taken_by_another_program(script, quiet):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run(script(), env={**quiet, "listen": address})
    assert done.returncode == 1
    one_line(done.stderr, re.escape(f"cannot listen on {address}: address already in use"))


def test_second_address_taken_leaves_the_first_closed(serve, script, quiet, tmp_path):
    first = serve(ECHO)
    path = tmp_path / "web.sock"
    done = run(script(), "-l", f"unix:{path}", "-l", first.address, env=quiet)
    assert done.returncode == 1
    one_line(done.stderr, "address already in use")
    assert not path.exists() and not quiet["control"].exists()


def test_unix_address_of_a_live_server_is_not_taken_over(serve, script, quiet, tmp_path):
    address = f"unix:{tmp_path}/web.sock"
    serve(ECHO, listen=address)
    done = run(script(), env={**quiet, "listen": address})
    assert done.returncode == 1
    one_line(done.stderr, re.escape(f"cannot listen on {address}: address already in use"))
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(address.removeprefix("unix:"))


@pytest.mark.parametrize("taken", ["listen", "control"])
def test_failed_start_leaves_another_servers_files_alone(serve, script, quiet, tmp_path, taken):
    pid_file = tmp_path / "pid"
    first = serve(ECHO, pid_file=pid_file)
    theirs = {"listen": first.address, "control": first.control_path}
    done = run(script(), env={**quiet, taken: theirs[taken], "pid_file": pid_file})
    assert done.returncode == 1
    assert pid_file.read_text(encoding="ascii") == f"{first.pid}\n"
    assert first.ask("health").startswith("ok ")


# ---- check ----


@pytest.mark.parametrize("text, routes", [
    (ECHO, "1 route"),
    ("", "0 routes"),
    ("# a first line for the shell\n" + ECHO, "1 route"),
    ("\ufeff" + ECHO, "1 route"),
    (ECHO + 'app.websocket("/rooms/:name", print) app.websocket("/rooms/:name/**", print)', "3 routes"),
], ids=["one route", "empty", "shebang", "byte order mark", "three routes"])
def test_check_of_a_good_script(script, text, routes):
    path = script(text)
    done = run("check", path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == f"{path}: fine, {routes}\n"


BAD_SCRIPTS = {
    "syntax": ("local x = 1\nlocal y = = 2\n", [r"main\.lua:2: unexpected symbol near '='"]),
    "unfinished": ("function f()\n\n", [r"main\.lua:\d+: 'end' expected \(to close 'function' at line 1\)"]),
    "raised": ("local function deep()\n  error('on purpose')\nend\nlocal function top()\n  deep()\nend\ntop()\n",
               [r"main\.lua:2: on purpose\n", r"stack traceback:", r"main\.lua:5: in ", r"main\.lua:7: in main chunk"]),
    "nil called": ("\nnothing()\n", [r"main\.lua:2: .*nil value \(global 'nothing'\)", "stack traceback:"]),
    "table raised": ("error({})", ["error object is a table value", r"main\.lua:1:"]),
    "nil raised": ("error()", ["nil", r"main\.lua:1:"]),
    "object raised": ("error(setmetatable({}, { __tostring = function() return 'my words' end }))",
                      ["my words", r"main\.lua:1:"]),
    "bad __tostring raised": ("error(setmetatable({}, { __tostring = function() error('again') end }))", ["."]),
    "in a module": ("require('gone')", [r"module 'gone' not found", r"no file '.*/scripts/gone\.lua'",
                                        r"main\.lua:1: in main chunk"]),
    "stack": ("local function f() return 1 + f() end f()", [r"main\.lua:1: .*stack overflow"]),
    "yield": ("\ncoroutine.yield()", ["attempt to yield from outside a coroutine", r"main\.lua:2:"]),
    "binary": ("\x1bLua", ["attempt to load a binary chunk"]),
    "duplicate": ('app.websocket("/a/:x", print)\n\napp.websocket("a/:y", print)\n',
                  [r"main\.lua:3: ", "a/:y", "same as", "a/:x", r"main\.lua:1\b"]),
    "bad pattern": ('\napp.websocket("/a/**/b", print)', [r"main\.lua:2: ", r"\*\*"]),
}


@pytest.mark.parametrize("case", BAD_SCRIPTS)
def test_check_of_a_bad_script(script, case):
    text, patterns = BAD_SCRIPTS[case]
    done = run("check", script(text))
    assert done.returncode == 1 and done.stdout == ""
    for pattern in patterns:
        assert re.search(pattern, done.stderr), (pattern, done.stderr)


def test_check_of_a_script_beyond_its_memory(script):
    done = run("check", script("local t = {} for i = 1, 1e9 do t[i] = tostring(i) end"), env={"vm_memory": "8m"})
    assert done.returncode == 1 and "not enough memory" in done.stderr


@pytest.mark.parametrize("call, patterns", [
    ("app.websocket()", ["bad argument #1", "string expected"]),
    ("app.websocket(5, print)", ["bad argument #1", "string expected, got number"]),
    ("app.websocket('x')", ["bad argument #2", "function expected, got no value"]),
    ("app.websocket('x', 5)", ["bad argument #2", "function expected, got number"]),
    ("app.websocket('x', {})", ["bad argument #3", "function expected, got no value"]),
    ("app.websocket('x', print, 1)", ["3 arguments"]),
    ("app:websocket('x', print)", ["with a dot"]),
    ("app.wesocket('x', print)", ["app has no function or field 'wesocket'; did you mean 'websocket'?"]),
    ("local x = app.versoin", ["app has no function or field 'versoin'"]),
    ("local x = app[1]", ["app has no function or field '1'"]),
    ("app.own = 1", ["app.own cannot be set"]),
    ("app.worker = 1", ["app.worker cannot be set"]),
    ("log.print('x')", ["log has no function 'print'; there are debug, error, info and warn"]),
    ("app.group('x', function(g) g.gte('y', print) end)", ["a group has no function 'gte'; did you mean 'get'?"]),
    ("log.inof('x')", ["log has no function 'inof'; did you mean 'info'?"]),
])
def test_check_of_misuse(script, call, patterns):
    done = run("check", script("\n" + call + "\n"))
    assert done.returncode == 1
    for pattern in (*patterns, r"main\.lua:2: ", "stack traceback:", r"main\.lua:2: in main chunk"):
        assert re.search(pattern, done.stderr), (pattern, done.stderr)


def test_routes_are_not_registered_in_a_handler(serve):
    server = serve("""
        app.websocket("/x", function(ws)
          app.websocket("/y", print)
        end)""")
    with server.raw("/x") as client:
        client.expect_close(1011)
    server.wait_log(r"main\.lua:3: app\.websocket: .*while the script loads")


def test_workers_that_disagree_about_routes(script, quiet):
    path = script("if app.worker == 2 then app.websocket('/only-there', print) end")
    done = run(path, env={**quiet, "workers": 2})
    assert done.returncode == 1
    for word in ("worker 2 registers other routes than worker 1", "only-there"):
        assert word in done.stderr


def test_warning_for_a_script_without_routes(serve):
    serve("local x = 1").wait_log(r"warn .*main\.lua registers no route")


@pytest.mark.parametrize("verb", ["run", "check", "routes"])
def test_endless_load_is_cut(script, quiet, verb):
    done = run(verb, script("\nwhile true do end\n"), env={**quiet, "load_budget": "0.3"})
    assert done.returncode == 1 and done.stdout == ""
    for pattern in (r"main\.lua:2: cut: it ran longer than 0\.3 s \(load_budget\)", "stack traceback:"):
        assert re.search(pattern, done.stderr), done.stderr


@pytest.mark.parametrize("text", [
    "while true do pcall(function() while true do end end) end",
    "while true do xpcall(function() while true do end end, function() while true do end end) end",
    "while true do coroutine.wrap(function() while true do end end)() end",
    "local function f() while true do coroutine.resume(coroutine.create(f)) end end f()",
    "local t = setmetatable({}, { __index = function() while true do end end }) while true do pcall(rawlen, t.x) end",
    "error(setmetatable({}, { __tostring = function() while true do end end }))",
    "require('forever')",
])
def test_endless_load_cannot_hide(script, text):
    (script(text).parent / "forever.lua").write_text("while true do end", encoding="utf-8")
    done = run("check", script(text), env={"load_budget": "0.3"})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_an_endless_load_ends_the_process(script, start, quiet, tmp_path, number):
    pid_file = tmp_path / "pid"
    path = script("log.info('loading') while true do pcall(function() while true do end end) end")
    loading = start(path, load_budget=3600, pid_file=pid_file, **quiet).wait("loading")
    assert loading.end(number) == 0, loading.log
    assert "listening" not in loading.log
    assert not pid_file.exists() and not quiet["control"].exists()


FAILING = {"syntax error": "x =", "load error": "error('x')", "endless": "while true do end"}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING)
def test_nothing_is_left_of_a_failed_start(script, quiet, tmp_path, text):
    pid_file, address = tmp_path / "pid", tmp_path / "web.sock"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run(script(text), "-l", f"127.0.0.1:{port}", "-l", f"unix:{address}", "--pid-file", pid_file,
               env={**quiet, "load_budget": "0.3"})
    assert done.returncode == 1 and "listening" not in done.stderr
    assert not pid_file.exists() and not address.exists() and not quiet["control"].exists()
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) != 0


def test_failed_start_tells_file_line_and_traceback_in_the_log(script, quiet):
    done = run(script("\nerror('on purpose')"), env=quiet)
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert re.fullmatch(r"\S+Z error .*main\.lua:2: on purpose", first)
    assert any("main.lua:2: in main chunk" in line for line in rest)


# ---- routes ----


def test_routes_table_is_aligned(script):
    path = script("""app.websocket("/", print)
app.websocket("/a/rather/long/pattern/:with/:parameters/**", print)
app.websocket("chat", print)
""")
    done = run("routes", path)
    assert done.returncode == 0 and done.stderr == ""
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["METHOD", "PATTERN", "WHERE"]
    columns = [heading.index(word) for word in heading.split()]
    starts = columns + [len(done.stdout)]
    cells = [[row[a:b].strip() for a, b in zip(starts, starts[1:])] for row in rows]
    assert sorted(pattern for _, pattern, _ in cells) == ["/", "/a/rather/long/pattern/:with/:parameters/**", "/chat"]
    for method, pattern, where in cells:
        assert method.lower() == "websocket"
        line = {"/": 1, "/chat": 3}.get(pattern, 2)
        assert where.endswith(f"main.lua:{line}")
    assert not any(line != line.rstrip() for line in done.stdout.splitlines())


def test_routes_of_a_bad_script(script):
    done = run("routes", script("error('on purpose')"))
    assert done.returncode == 1 and done.stdout == "" and "main.lua:1: on purpose" in done.stderr


def test_check_and_routes_leave_a_running_server_alone(serve, script, tmp_path):
    pid_file = tmp_path / "pid"
    server = serve(ECHO, pid_file=pid_file)
    env = {"listen": server.address, "control": server.control_path, "pid_file": pid_file}
    for verb in ("check", "routes"):
        assert run(verb, script(), env=env).returncode == 0
    assert pid_file.read_text(encoding="ascii") == f"{server.pid}\n" and server.ask("health").startswith("ok ")


# ---- pid file ----


def test_pid_file_is_written_and_removed(serve, tmp_path):
    pid_file = tmp_path / "pid"
    server = serve(ECHO, pid_file=pid_file)
    assert pid_file.read_text(encoding="ascii") == f"{server.pid}\n"
    assert server.stop() == 0
    assert not pid_file.exists()


def test_pid_file_of_a_server_that_died_is_replaced(serve, tmp_path):
    pid_file = tmp_path / "pid"
    pid_file.write_text("4194305\n", encoding="ascii")
    server = serve(ECHO, pid_file=pid_file)
    assert pid_file.read_text(encoding="ascii") == f"{server.pid}\n"


def test_pid_file_that_cannot_be_written(script, quiet):
    done = run(script(), "--pid-file", "/no/such/folder/pid", env=quiet)
    assert done.returncode == 1
    one_line(done.stderr, "cannot write the pid file /no/such/folder/pid: No such file")


# ---- control socket ----


def test_health_of_a_running_server(serve):
    server = serve(ECHO, workers=2)
    with server.raw("/echo"):
        done = run("health", "--control", server.control_path)
    assert done.returncode == 0 and done.stderr == ""
    assert re.fullmatch(r"ok generation 1, 2 workers, 1 connections?\n", done.stdout)


def test_health_without_a_server(tmp_path):
    done = run("health", "--control", tmp_path / "nobody.sock")
    assert done.returncode == 1 and done.stdout == ""
    one_line(done.stderr, re.escape(f"no server answers on the control socket {tmp_path}/nobody.sock"))


def test_health_of_a_server_that_is_gone(serve):
    server = serve(ECHO)
    server.stop()
    assert not server.control_path.exists()
    assert run("health", env={"control": server.control_path}).returncode == 1


def test_health_of_a_server_that_is_stopping(serve):
    server = serve(ECHO, drain_timeout=3600, close_timeout=3600)
    with server.raw("/echo"):
        server.send_signal(signal.SIGTERM)
        server.wait_log("SIGTERM: stopping")
        done = run("health", env={"control": server.control_path})
        assert done.returncode == 1 and "stopping" in done.stdout + done.stderr
    assert server.stop(None) == 0


@pytest.fixture(name="runtime")
def runtime_dir(tmp_path, monkeypatch):
    """$XDG_RUNTIME_DIR of this test's servers."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def test_default_control_socket_is_in_the_runtime_folder(script, start, runtime):
    server = start(script(), listen="127.0.0.1:0").wait("listening on")
    path = runtime / "tidewire.sock"
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) & 0o077 == 0
    assert run("health").stdout.startswith("ok ")
    assert server.end() == 0, server.log
    assert not path.exists()


def test_second_server_with_the_default_control_socket_only_warns(script, start, runtime):
    first = start(script(), listen="127.0.0.1:0").wait("listening on")
    second = start(script(), listen="127.0.0.1:0").wait("listening on")
    assert re.search(rf"warn .*no control socket.*{runtime}/tidewire\.sock.*--control", second.log)
    assert "no control socket" not in first.log
    assert second.end() == 0, second.log
    assert run("health").returncode == 0, "the second one took the first one's socket away"
    assert first.end() == 0, first.log


def test_default_control_socket_is_beside_the_pid_file(script, start, runtime, tmp_path):
    pid_file = tmp_path / "server.pid"
    server = start(script(), listen="127.0.0.1:0", pid_file=pid_file).wait("listening on")
    assert run("health", "--pid-file", pid_file).stdout.startswith("ok ")
    assert Path(f"{pid_file}.sock").exists() and not list(runtime.iterdir())
    assert server.end() == 0, server.log


def test_named_control_socket_of_a_live_server_is_refused(serve, script):
    first = serve(ECHO)
    done = run(script(), env={"listen": "127.0.0.1:0", "control": first.control_path})
    assert done.returncode == 1
    one_line(done.stderr, re.escape(f"cannot open the control socket {first.control_path}: Address already in use"))
    assert first.ask("health").startswith("ok ")


def test_abstract_control_socket(serve):
    name = f"@tidewire-test-{os.getpid()}-{os.urandom(8).hex()}"
    server = serve(ECHO, control=name)
    done = run("health", "--control", name)
    assert done.returncode == 0 and done.stdout.startswith("ok ")
    assert server.stop() == 0
    assert run("health", "--control", name).returncode == 1


def test_stale_control_socket_is_replaced(serve, tmp_path):
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
    serve(ECHO, control=path)
    assert run("health", env={"control": path}).returncode == 0


@pytest.mark.parametrize("option, prefix, pattern", [
    ("control", "", "cannot open the control socket"),
    ("listen", "unix:", "cannot listen on unix:"),
])
def test_a_socket_does_not_replace_a_file(script, start, quiet, tmp_path, option, prefix, pattern):
    path = tmp_path / "precious"
    path.write_text("data", encoding="ascii")
    server = start(script(), **{**quiet, option: f"{prefix}{path}"}).wait("\n")
    assert server.end(0) == 1, server.log
    one_line(server.log, pattern)
    assert path.read_text(encoding="ascii") == "data"


@pytest.mark.parametrize("name", ["x" * 200, ""], ids=["too long", "empty"])
def test_control_socket_with_an_unusable_name(script, name):
    for args in (["health"], ["run", script()]):
        done = run(*args, env={"listen": "127.0.0.1:0", "control": name})
        assert done.returncode in (1, 2)
        one_line(done.stderr, "a path of 1 to \\d+ bytes, or @name")


@pytest.mark.parametrize("request_line", ["unknown", "", "health please", "HEALTH"])
def test_control_socket_answers_what_it_does_not_know(serve, request_line):
    server = serve(ECHO)
    assert server.ask(request_line).startswith("error ")
    assert server.ask("health").startswith("ok ")


@pytest.mark.parametrize("request_bytes", [b"x" * 1000, b"x" * 1000 + b"\n", b"health", b"\0\n", b""])
def test_control_socket_survives_any_client(serve, request_bytes):
    server = serve(ECHO)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(server.control_path))
        s.sendall(request_bytes)
    assert server.ask("health").startswith("ok ")


def test_control_socket_after_many_idle_clients(serve):
    server = serve(ECHO)
    idle = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for s in idle:
        s.connect(str(server.control_path))
    for s in idle:
        s.close()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # it may not have noticed yet that they have gone, and refuse one more
        try:
            if server.ask("health").startswith("ok "):
                return
        except (BlockingIOError, ConnectionResetError, BrokenPipeError):
            pass
    pytest.fail("no answer")
