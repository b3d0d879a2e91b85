#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Compares publishing to many clients beside Bun and node's ws: fan.py [ROUNDS [SECONDS [others|all]]]"""
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import bun, busy_seconds, cpu_seconds, find_bun, machine, node, tidewire

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
BINARY = os.environ.get("TIDEWIRE_BIN", str(BUILD / "tidewire"))
SERVER, CLIENT = ("taskset", "-c", "0"), ("taskset", "-c", "1")
NAMES = ["Tidewire", "Bun", "node ws"]
DISTURBED, TRIES = 0.05, 5  # of a processor's time for processes that take no part; a round in which they got more

# No limit drops what a slow reader makes wait, as in the scripts of the others.
SCRIPT = """
local opts = {send_limit = 1024 * 1024 * 1024}
app.websocket("others", opts, function(ws)
  ws:subscribe("room")
  ws:on_text(function(self, text) self:publish("room", text) end)
end)
app.websocket("all", opts, function(ws)
  ws:subscribe("room")
  ws:on_text(function(_, text) app.publish("room", text) end)
end)
"""

# What it is called, mode, clients, bytes, messages in flight.
WORK = [("100 to 100, 20 B", "n-to-n", 100, 20, 1), ("500 to 500, 20 B", "n-to-n", 500, 20, 1),
        ("100 to 100, 1 KiB", "n-to-n", 100, 1024, 1), ("500 to 500, 1 KiB", "n-to-n", 500, 1024, 1),
        ("1 to 1,000, 20 B", "1-to-n", 1000, 20, 1), ("1 to 1,000, 20 B, 16 in flight", "1-to-n", 1000, 20, 16)]


def run(server, work, to, seconds):
    """What the load generator reports, and the share of a processor that went to processes that take no part."""
    pid, port = server
    _, mode, clients, size, in_flight = work

    def others():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return busy_seconds() - sum(cpu_seconds(pid)) - usage.ru_utime - usage.ru_stime

    before = busy_seconds(), others()
    result = subprocess.run(
        [*CLIENT, BUILD / "bench" / "fan", "--url", f"127.0.0.1:{port}/{to}", "--mode", mode, "--clients", str(clients),
         "--size", str(size), "--in-flight", str(in_flight), "--to", to, "--seconds", str(seconds),
         "--cpu-of", str(pid), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip())
    return json.loads(result.stdout), (others() - before[1]) / (busy_seconds() - before[0])


def run_undisturbed(server, work, to, seconds):
    """The least disturbed of a few tries: the first in which other processes got little."""
    best = run(server, work, to, seconds)
    for _ in range(1, TRIES):
        if best[1] <= DISTURBED:
            break
        best = min(best, run(server, work, to, seconds), key=lambda result: result[1])
    return best


def start(stack, folder):
    """Starts what is here: {name: (pid, port)}, and says what is missing."""
    script = Path(folder) / "main.lua"
    script.write_text(SCRIPT, encoding="utf-8")
    servers = {"Tidewire": tidewire(BINARY, script, SERVER), "node ws": node(HERE / "node_fan.js", SERVER)}
    binary, missing = find_bun(BUILD / "peers")
    if missing:
        print(f"Bun is not measured: {missing}.\n")
    else:
        servers["Bun"] = bun(binary, HERE / "bun_fan.js", SERVER)
    started = {}
    for name in NAMES:
        try:
            if name in servers:
                started[name] = stack.enter_context(servers[name])
                run(started[name], (name, "n-to-n", 10, 20, 1), "others", 0.1)
        except (OSError, RuntimeError, SystemExit) as error:
            print(f"{name} is not measured: {error}.\n")
            started.pop(name, None)
    return started


def cell(results):
    """Medians of the rounds with one server."""
    def median(key):
        return statistics.median(result[key] for result in results)

    return (f"{median('deliveries_per_second'):,.0f} ({median('server_user_ns_per_delivery'):.0f} + "
            f"{median('server_system_ns_per_delivery'):.0f}; {median('server_cpu_percent'):.0f} %, "
            f"{median('load_cpu_percent'):.0f} %)")


def main(rounds=5, seconds=3, to="others"):
    if not (BUILD / "bench" / "fan").exists():
        raise SystemExit("build/bench/fan is not built: make bench-tools")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = start(stack, folder)
        print(f"Deliveries a second, published to {to}: medians of {rounds} rounds of {seconds} s that alternate. In "
              "brackets user + system time of the server for each delivery in nanoseconds; how busy the server's and "
              f"the load generator's processor were.\n\n{machine()}\n")
        print(f"| work | {' | '.join(NAMES)} | Tidewire / Bun |\n| --- | --- | --- | --- | --- |")
        disturbed = 0
        for work in WORK:
            results = {name: [] for name in servers}
            for _ in range(rounds):
                for name, server in servers.items():
                    result, others = run_undisturbed(server, work, to, seconds)
                    results[name].append(result)
                    disturbed += others > DISTURBED
            ratio = "–"
            if "Tidewire" in results and "Bun" in results:
                rates = ([result["deliveries_per_second"] for result in results[name]] for name in ("Tidewire", "Bun"))
                ratio = f"{statistics.median(ours / theirs for ours, theirs in zip(*rates)):.2f}"
            cells = (cell(results[name]) if name in results else "–" for name in NAMES)
            print(f"| {work[0]} | {' | '.join(cells)} | {ratio} |", flush=True)
    if disturbed:
        print(f"\nIn {disturbed} runs other processes got over {100 * DISTURBED:.0f} % of the time: do not trust them.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
