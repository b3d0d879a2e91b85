#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What a connection that is idle costs in memory: idle.py [memory] [parts] [tls] [--connections N] [--rounds N]"""
import argparse
import collections
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from peers import behind_nginx, bun, find_bun, free_port, machine, memory_of, node, serve, tidewire

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
BINARY = os.environ.get("TIDEWIRE_BIN", str(BUILD / "tidewire"))
FIRST = 1000  # connections from which on the growth is measured: pools and tables have their usual sizes by then
TLS_MOST = 5000  # connections with TLS
SETTLE = 1  # seconds until the memory is read

ECHO_TEXT = "ws:on_text(function(self, text) self:send(text) end)"
ECHO_BINARY = "ws:on_binary(function(self, bytes) self:send_binary(bytes) end)"
SCRIPTS = {"one handler": ECHO_TEXT, "two handlers": f"{ECHO_TEXT} {ECHO_BINARY}"}


def on_cpus(cpus):
    return ("taskset", "-c", cpus)


class Held:
    """Connections that stay open until the end of the block."""

    def __init__(self, o, port, connections, tls=False):
        self.process = subprocess.Popen(
            [*on_cpus(o.client_cpus), BUILD / "bench" / "connect", "--url", f"127.0.0.1:{port}/", "--hold",
             str(connections), "--json", *(("--tls",) if tls else ())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the connections could not be made")
        return json.loads(line)

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        if self.process.wait() != 0 and kind is None:
            raise RuntimeError("connections were lost")


def growth(o, server, read, tls=False):
    """What `read(pid)` gives with FIRST and with all connections."""
    with server as (pid, port), Held(o, port, FIRST, tls):
        time.sleep(SETTLE)
        before = read(pid)
        with Held(o, port, o.connections - FIRST, tls):
            time.sleep(SETTLE)
            return before, read(pid)


def each(o, before, after):
    """Bytes for each connection."""
    return (after - before) / (o.connections - FIRST)


# ---- beside others ----

def our_script(folder, handlers):
    script = Path(folder) / "main.lua"
    script.write_text(f'app.websocket("/", function(ws) {handlers} end)\n', encoding="utf-8")
    return script


def our_server(o, folder, handlers, prefix=(), tls=False):
    return tidewire(BINARY, our_script(folder, handlers), (*on_cpus(o.server_cpus), *prefix), ("--workers", "1"), tls)


def floor(o):
    port = free_port()
    return serve("floor", [*on_cpus(o.server_cpus), BUILD / "bench" / "floor", "--port", port], port)


def servers(o, folder):
    """{name: a function that makes the server}, and a sentence for each that is missing."""
    prefix = on_cpus(o.server_cpus)
    makers = {f"Tidewire, {name}": lambda handlers=handlers: our_server(o, folder, handlers)
              for name, handlers in SCRIPTS.items()}
    makers["floor"] = lambda: floor(o)
    makers["node ws"] = lambda: node(HERE / "node_echo.js", prefix)
    binary, missing = find_bun(BUILD / "peers")
    if not missing:
        makers["Bun"] = lambda: bun(binary, HERE / "bun_echo.js", prefix)
    return makers, [f"Bun is not measured: {missing}."] if missing else []


def tls_servers(o, folder):
    """{(name, whether it is spoken to over TLS): a function that makes the server}, and a sentence for each that is
    missing."""
    prefix = on_cpus(o.server_cpus)
    binary, missing = find_bun(BUILD / "peers")
    makers = {}
    for tls in False, True:
        makers["Tidewire", tls] = lambda tls=tls: our_server(o, folder, ECHO_TEXT, tls=tls)
        makers["node ws", tls] = lambda tls=tls: node(HERE / "node_echo.js", prefix, tls)
        if not missing:
            makers["Bun", tls] = lambda tls=tls: bun(binary, HERE / "bun_echo.js", prefix, tls)
    if shutil.which("nginx"):
        makers["Tidewire behind nginx, both", True] = lambda: behind_nginx(
            BINARY, our_script(folder, ECHO_TEXT), folder, prefix, ("--workers", "1"))
    return makers, ([f"Bun is not measured: {missing}."] if missing else []) + (
        [] if shutil.which("nginx") else ["nginx is not measured: it is not here."])


def read_anonymous(pid):
    """Of a process, or several."""
    return memory_of(*(pid if isinstance(pid, tuple) else (pid,)), what="Pss_Anon") * 2**20


def print_growth(o, title, makers, notes):
    """Measures servers, {(name, whether it is spoken to over TLS): a function that makes it}, and prints a table."""
    print(f"## {title}\n\nGrowth of anonymous memory from {FIRST:,} to {o.connections:,} "
          f"connections, divided by their number; medians of {o.rounds}.\n\n"
          f"| server | bytes for each connection | MiB with {FIRST:,} | MiB with {o.connections:,} |\n"
          "| --- | --- | --- | --- |")
    for (name, tls), make in makers.items():
        name += ", TLS" if tls else ""
        try:
            rounds = [growth(o, make(), read_anonymous, tls) for _ in range(o.rounds)]
        except (LookupError, OSError, RuntimeError, SystemExit) as error:
            notes.append(f"{name} is not measured: {error}.")
            continue
        bytes_each = statistics.median(each(o, *values) for values in rounds)
        before, after = (statistics.median(values) / 2**20 for values in zip(*rounds))
        print(f"| {name} | {bytes_each:,.0f} | {before:.1f} | {after:.1f} |", flush=True)
    print("\n" + "".join(f"{note}\n\n" for note in notes), end="", flush=True)


def measure_memory(o):
    with tempfile.TemporaryDirectory() as folder:
        makers, notes = servers(o, folder)
        print_growth(o, "Memory of an idle connection", {(name, False): make for name, make in makers.items()}, notes)


def measure_tls(o):
    o = argparse.Namespace(**vars(o) | {"connections": min(o.connections, TLS_MOST)})
    with tempfile.TemporaryDirectory() as folder:
        print_growth(o, "Memory of an idle connection with TLS", *tls_servers(o, folder))


# ---- ours by part ----

MASSIF = ("valgrind", "--tool=massif", "--detailed-freq=1", "--threshold=0.01", "--massif-out-file=/dev/null")
LIBEV, LUA, OTHERS = "libev.so", "liblua", ("others", "")

# Which part it is, by the source file that allocates it; other files name themselves.
PARTS = {"conn.c": "struct conn", "session.c": "struct session", "head.c": "request head", "sessions.c": "table of ids",
         "outq.c": "send queue", "http1.c": "state of HTTP", "peers.c": "table of addresses"}
# What Lua allocates, by the function of its API that was called.
LUA_PARTS = {"lua_newuserdatauv": "Lua box", "luaL_ref": "Lua registry", "lua_rawseti": "Lua registry",
             "lua_callk": "Lua closures", "lua_pcallk": "Lua closures", "lua_resume": "Lua closures",
             "lua_newthread": "Lua coroutines"}
FRAME = re.compile(r"0x[0-9A-F]+: (\S+) \((.*)\)$")
SMALLEST = 2  # bytes for each connection: less is put together, as massif hides by another threshold in each snapshot


def part_of(frames):
    """(part, where) of an allocation with these callers, the innermost first."""
    api, library, place = None, None, None  # a function of Lua's API; the innermost library; our innermost place
    for match in map(FRAME.match, frames):
        if not match:  # "in N places, below massif's threshold"
            break
        function, where = match[1].split(".")[0], match[2]  # without what the compiler adds to the name
        if where.startswith("in "):
            library = library or where
            if place is None and LUA in where and function != "???":
                api = function
        elif function != "vm_alloc":
            place = place or where
            if function != "UnknownInlinedFun":
                return name_part(api, library, place), f"`{function}`, {place}"
    return OTHERS


def name_part(api, library, place):
    if library and LUA in library:
        return LUA_PARTS.get(api, f"Lua: {api}")
    if library:
        return "libev's tables" if LIBEV in library else Path(library).name
    file = place.split(":")[0]
    return PARTS.get(file, file)


def read_snapshot(path):
    """({(part, where): bytes}, bytes of the allocator's own) of massif's file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    parts, frames = collections.Counter(), []
    for line in lines:
        match = re.match(r"( *)n(\d+): (\d+) (.*)", line)
        if match:
            frames[len(match[1]):] = [match[4]]
            if match[2] == "0":
                parts[part_of(frames[1:])] += int(match[3])
    extra = next(int(line.split("=")[1]) for line in lines if line.startswith("mem_heap_extra_B="))
    return parts, extra


def take_snapshot(pid, folder):
    path = Path(folder) / "snapshot"
    subprocess.run(["vgdb", f"--pid={pid}", "detailed_snapshot", path], stdin=subprocess.DEVNULL, capture_output=True,
                   check=True)
    return read_snapshot(path)


def rows_of(o, before, after, whole):
    """(part, bytes for each connection, where) of two snapshots, and what they do not say of the `whole`."""
    parts = collections.Counter()
    for key in before[0] | after[0]:
        value = each(o, before[0][key], after[0][key])
        parts[key if abs(value) >= SMALLEST else OTHERS] += value
    rows = [(part, value, where) for (part, where), value in parts.most_common()]
    rows.append(("the allocator's headers and rounding", each(o, before[1], after[1]), ""))
    rows.append(("pages used in part, and what is not from the heap", whole - sum(row[1] for row in rows), "the rest"))
    return [*rows, ("**growth of anonymous memory**", whole, "without valgrind")]


def measure_parts(o):
    if shutil.which("vgdb") is None:
        raise SystemExit("valgrind is not here: scripts/deps bench")
    for name, handlers in SCRIPTS.items():
        with tempfile.TemporaryDirectory() as folder:
            before, after = growth(o, our_server(o, folder, handlers, MASSIF), lambda pid: take_snapshot(pid, folder))
            whole = statistics.median(each(o, *growth(o, our_server(o, folder, handlers), read_anonymous))
                                      for _ in range(o.rounds))
        print(f"## Parts of an idle connection, {name}\n\nFrom {FIRST:,} to {o.connections:,} connections.\n\n"
              "| part | bytes for each connection | made in |\n| --- | --- | --- |")
        for part, value, where in rows_of(o, before, after, whole):
            print(f"| {part} | {value:,.0f} | {where} |")
        print(flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="*", choices=[[], "memory", "parts", "tls"], help="all without one")
    parser.add_argument("--connections", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server-cpus", default="0", help="as for taskset")
    parser.add_argument("--client-cpus", default="1")
    o = parser.parse_args()
    if o.connections <= FIRST:
        raise SystemExit(f"--connections must be more than {FIRST}")
    for tool in ("connect", "floor"):
        if not (BUILD / "bench" / tool).exists():
            raise SystemExit(f"build/bench/{tool} is not built: make bench-tools")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(machine() + "\n")
    for name, measure in (("memory", measure_memory), ("parts", measure_parts), ("tls", measure_tls)):
        if not o.work or name in o.work:
            measure(o)


if __name__ == "__main__":
    main()
