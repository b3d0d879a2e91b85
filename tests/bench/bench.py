#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Measures Tidewire beside its peers, in rounds: what `make bench` runs. bench.py --help lists the parts."""
import argparse
import contextlib
import datetime
import io
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import idle
import peers
import table

HERE = Path(__file__).resolve().parent
TOOLS = peers.BUILD / "bench"
TRIES = 5  # of a run in which other processes got too much
PATIENCE = 60  # seconds beyond what a run should take

PIPELINE = """
init = function()
  local one = {}
  for i = 1, %d do one[i] = wrk.format(nil, wrk.path) end
  all = table.concat(one)
end
request = function() return all end
"""


class Server(NamedTuple):
    name: str
    pids: tuple
    port: int
    client: tuple  # what pins the generator to its processor


class Part(NamedTuple):
    servers: tuple
    work: dict  # name: what `run` takes
    run: object  # function(o, server, work): what the generator said, as a dict


# ---- one run ----

def generate(o, server, program, *options):
    """What a load generator of ours reports about this server."""
    command = [*server.client, TOOLS / program, "--seconds", o.seconds, "--warmup", o.warm_up, "--cpu-of",
               ",".join(map(str, server.pids)), "--json", *(("--tls",) if server.name.endswith("TLS") else ()), *options]
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=o.seconds + PATIENCE, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{program} ended with {done.returncode}")
    return json.loads(done.stdout)


def echo(o, server, options):
    path = options.get("path", "echo")
    flags = [part for name, value in options.items() if name != "path" for part in (f"--{name}", value)]
    return generate(o, server, "load", "--url", f"127.0.0.1:{server.port}/{path}", *flags,
                    *(("--floor",) if server.name == "floor" else ()))


def workers(o, server, options):
    """Adds what the CPU time comes to, and the rate at which it would fill as many processors as there are workers."""
    result = echo(o, server, options)
    cost = result["server_user_us_per_message"] + result["server_system_us_per_message"]
    result["server_cpu_seconds"] = cost * result["messages_per_second"] * result["seconds"] / 1e6
    result["capacity"] = int(server.name[0]) * 1e6 / cost
    return result


def fan(o, server, options):
    mode, clients, size, in_flight = options
    run = f"?run={time.monotonic_ns()}" if server.name == "nchan" else ""
    return generate(o, server, "fan", "--url", f"127.0.0.1:{server.port}/all{run}", "--to", "all", "--mode", mode,
                    "--clients", clients, "--size", size, "--in-flight", in_flight)


def connect(o, server, options):
    return generate(o, server, "connect", "--url", f"127.0.0.1:{server.port}/echo", *options)


def shake_hands(o, server, options):
    """Adds the rate at which the CPU time of a connection would fill a processor."""
    result = connect(o, server, options)
    cost = result["server_user_us_per_connect"] + result["server_system_us_per_connect"]
    return result | {"capacity": 1e6 / cost if cost else 0}


def http(o, server, options):
    """Any error that wrk counts is a failure."""
    path, pipelined = options
    seconds = max(1, round(o.seconds))
    script = Path(o.folder) / "pipeline.lua"
    script.write_text(PIPELINE % pipelined, encoding="utf-8")
    usage, before, start = resource.getrusage(resource.RUSAGE_CHILDREN), peers.cpu_seconds(*server.pids), time.monotonic()
    done = subprocess.run([*server.client, "wrk", "-t1", "-c100", f"-d{seconds}", "-s", script,
                           f"http://127.0.0.1:{server.port}{path}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=seconds + PATIENCE, check=False)
    elapsed, after = time.monotonic() - start, peers.cpu_seconds(*server.pids)
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    requests = re.search(r"(\d+) requests in", done.stdout)
    wrong = re.search(r"Socket errors.*|Non-2xx.*", done.stdout)
    if done.returncode != 0 or wrong or not requests or requests.group(1) == "0":
        raise RuntimeError(wrong.group() if wrong else f"wrk says: {done.stdout.strip()[-200:]}")
    count = int(requests.group(1))
    user, system = (b - a for a, b in zip(before, after))
    return {"requests_per_second": float(re.search(r"Requests/sec: +([\d.]+)", done.stdout).group(1)),
            "server_user_us_per_request": user * 1e6 / count, "server_system_us_per_request": system * 1e6 / count,
            "server_cpu_percent": 100 * (user + system) / elapsed,
            "load_cpu_percent": 100 * (own.ru_utime + own.ru_stime - usage.ru_utime - usage.ru_stime) / elapsed}


TLS = ("Tidewire TLS", "Tidewire behind nginx TLS", "Bun TLS", "node ws TLS")
ECHO = ("Tidewire", peers.TUNED, "floor", "Bun", "libwebsockets", "gorilla", "node ws")
FAN_WORK = {"1 to 1,000, 20 B": ("1-to-n", 1000, 20, 1), "1 to 1,000, 20 B, 16 in flight": ("1-to-n", 1000, 20, 16),
            "100 to 100, 20 B": ("n-to-n", 100, 20, 1), "500 to 500, 20 B": ("n-to-n", 500, 20, 1),
            "100 to 100, 1 KiB": ("n-to-n", 100, 1024, 1), "500 to 500, 1 KiB": ("n-to-n", 500, 1024, 1)}
PARTS = {
    "echo": Part(ECHO, {"20 B": {"connections": 200, "size": 20}, "1 KiB": {"connections": 200, "size": 1024}}, echo),
    "in-flight": Part(ECHO, {"20 B": {"connections": 100, "size": 20, "in-flight": 16}}, echo),
    # So few that what is on its way stays well under the memory that the kernel gives TCP.
    "large": Part(ECHO, {"64 KiB": {"connections": 50, "size": 65536}, "1 MiB": {"connections": 10, "size": 1 << 20}},
                  echo),
    "fan": Part(("Tidewire", "Bun", "node ws", "nchan"), {name: FAN_WORK[name] for name in table.FAN}, fan),
    "linear": Part(("Tidewire", "Bun"), {f"1 to {n:,}": ("1-to-n", n, 20, 1) for n in (10, 100, 1000, 10000)}, fan),
    "connect": Part(ECHO, {"upgrade": ()}, connect),
    "latency": Part(ECHO, {f"{rate:,} messages/s": {"connections": 200, "size": 20, "rate": rate}
                           for rate in (20000, 50000)}, echo),
    "tls": Part(("Tidewire", *TLS), {
        "20 B": {"connections": 200, "size": 20}, "20 B, 16 in flight": {"connections": 100, "size": 20, "in-flight": 16},
        "1 KiB": {"connections": 200, "size": 1024}, "64 KiB": {"connections": 50, "size": 65536}}, echo),
    "handshakes": Part(TLS, {"full": (), "resumed": ("--resume",)}, shake_hands),
    "http": Part(("Tidewire", "nginx + Lua"), {
        "short text": ("/text", 1), "JSON": ("/json", 1), "path and query": ("/param/you?mark=!", 1),
        "short text, 16 pipelined": ("/text", 16)}, http),
    "workers": Part(("2 workers", "1 worker"), {
        "echo, 1 in flight": {"connections": 200, "size": 20},
        "echo, 16 in flight": {"connections": 200, "size": 20, "in-flight": 16},
        "compute": {"connections": 200, "size": 20, "path": "compute"}}, workers),
}
NAMES = [*PARTS, "idle"]


# ---- rounds ----

def say(text):
    print(text, flush=True)


def run_watched(o, part, server, work):
    """One run, and as its `others` the share of the busy time that went to processes that take no part."""
    def others():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return peers.busy_seconds() - sum(peers.cpu_seconds(*server.pids)) - usage.ru_utime - usage.ru_stime

    busy, before = peers.busy_seconds(), others()
    result = part.run(o, server, part.work[work])
    spent = peers.busy_seconds() - busy
    return result | {"others": (others() - before) / spent if spent > 0 else 0}


def run_undisturbed(o, part, server, work):
    """The least disturbed of a few tries: the first in which other processes got little."""
    best = run_watched(o, part, server, work)
    for _ in range(1, 1 if o.quick else TRIES):
        if best["others"] <= table.DISTURBED:
            break
        best = min(best, run_watched(o, part, server, work), key=lambda result: result["others"])
    return best


def start(o, stack, part, name):
    """Starts a server on the first processor (two workers, and their generator, on both)."""
    both = ("taskset", "-c", ",".join(map(str, o.cpus)))
    server, client = (both, both) if name == "2 workers" else (("taskset", "-c", str(cpu)) for cpu in o.cpus)
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    pids, port = stack.enter_context(peers.start(name, "fan" if part.run is fan else "echo", folder, server))
    return Server(name, pids if isinstance(pids, tuple) else (pids,), port, client)


def run_anew(o, part, name, work):
    """One run with a server that was started for it: some luck lies in where a process has its memory."""
    with contextlib.ExitStack() as stack:
        return run_undisturbed(o, part, start(o, stack, part, name), work)


def measure(o, name):
    """Runs a part; prints each row of its table when its rounds are over. Returns what is kept of it."""
    part = PARTS[name]
    kept = {"date": o.date, "commit": o.commit, "rounds": o.rounds, "seconds": o.seconds, "notes": [], "records": []}
    kept["servers"] = [name for name in part.servers if not o.only or name in o.only]
    say(f"\n{table.TABLES[name].title}\n\n{table.head(name)}")
    for work in part.work:
        failed = set()
        for i in range(o.rounds):
            turn = i % max(1, len(kept["servers"]))
            for server in kept["servers"][turn:] + kept["servers"][:turn]:
                if server in failed:
                    continue
                record = {"work": work, "server": server, "round": i}
                try:
                    kept["records"].append(record | run_anew(o, part, server, work))
                except (LookupError, SystemExit) as error:
                    kept["notes"].append(f"{server} is not measured: {error}.")
                    kept["servers"].remove(server)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    failed.add(server)
                    kept["records"].append(record | {"error": str(error).splitlines()[0]})
        say("\n".join(table.rows(name, kept, work, kept["servers"])))
    for remark in table.remarks(kept):
        say(f"\n{remark}")
    return kept


def measure_idle(o):
    """What idle.py prints, and the numbers for the goal out of its first table by part."""
    say("\nidle: memory of an idle connection, and its parts")
    options = argparse.Namespace(connections=3000 if o.quick else 15000, rounds=min(3, o.rounds),
                                 server_cpus=str(o.cpus[0]), client_cpus=str(o.cpus[1]))
    text, notes = io.StringIO(), []
    with contextlib.redirect_stdout(text):
        try:
            idle.measure_memory(options)
            idle.measure_parts(options)
            idle.measure_tls(options)
        except (OSError, RuntimeError, SystemExit, subprocess.CalledProcessError) as error:
            notes.append(f"idle.py failed: {error}.")
    text = re.sub(r"^## ", "### ", text.getvalue().strip(), flags=re.M)
    found = [re.search(rf"^\| {row} \| ([\d,]+) ", text, re.M) for row in
             ("request head", r"\*\*growth of anonymous memory\*\*")]
    head, whole = (int(match.group(1).replace(",", "")) if match else None for match in found)
    say("\n".join([text, *notes]))
    return {"date": o.date, "commit": o.commit, "notes": notes, "text": text, "records": [],
            "bytes": {"head": head, "all": whole} if head and whole else None}


# ---- the whole ----

def machine():
    """What the results stand on, as the rows of a table."""
    return {"processors and kernel": peers.machine(), "memory": f"{peers.memory_gib():.0f} GiB",
            "flags": "of the Makefile's release build, also for the floor, the generators, the libwebsockets server",
            **peers.versions()}


def keep(o, results):
    """Writes the raw values and the tables."""
    o.json.parent.mkdir(parents=True, exist_ok=True)
    o.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    o.report.write_text(table.document(results), encoding="utf-8")


def parse():
    parser = argparse.ArgumentParser(description="Measures Tidewire beside its peers. Without a part: all of them.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="that each run measures")
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 s, to see that all works; writes "
                        "quick.json and quick.md in build/bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all values [build/bench/results.json]; parts that "
                        "are not run stay as they are in it, and in the report; where it is not there yet and not "
                        "all parts are run, that goes where --quick writes")
    parser.add_argument("--only", metavar="NAME,NAME", help="servers to measure, by their names in the tables; writes "
                        "where --quick does")
    parser.add_argument("--cpus", metavar="SERVER,CLIENT", help="processors [the first two that it may use]")
    parser.add_argument("--report-only", action="store_true", help="measures nothing, writes the tables anew")
    o = parser.parse_args()
    unknown = set(o.parts) - set(NAMES)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}: {', '.join(NAMES)}")
    allowed = sorted(os.sched_getaffinity(0))
    o.cpus = [int(cpu) for cpu in o.cpus.split(",")] if o.cpus else allowed[:2]
    if len(set(o.cpus) & set(allowed)) != 2 or len(o.cpus) != 2:
        parser.error("it takes two processors")
    if o.quick:
        o.rounds, o.seconds = 1, 0.3
    o.warm_up = min(0.5, o.seconds / 3)
    partial = o.parts and set(o.parts) != set(NAMES)
    nothing_there = not (o.json or TOOLS / "results.json").exists()
    if o.report_only and nothing_there:
        parser.error("there are no values yet: run it without --report-only first")
    aside = o.quick or o.only or (partial and nothing_there)  # or the parts that are not run would go from the report
    o.only = set(o.only.split(",")) if o.only else None
    o.parts = o.parts or NAMES
    o.json = o.json or TOOLS / ("quick.json" if aside else "results.json")
    o.report = TOOLS / "quick.md" if aside else HERE / "RESULTS.md"
    return o


def main():
    o = parse()
    results = json.loads(o.json.read_text(encoding="utf-8")) if o.json.exists() else {"parts": {}}
    if o.report_only:
        o.report.write_text(table.document(results), encoding="utf-8")
        return 0
    for program in "load", "fan", "floor", "connect":
        if not (TOOLS / program).exists():
            raise SystemExit(f"build/bench/{program} is not built: make bench-tools")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    o.date, o.commit = datetime.date.today().isoformat(), peers.commit()
    results["machine"] = machine()
    say("\n".join(f"{name}: {value}" for name, value in results["machine"].items()))
    failed = False
    with tempfile.TemporaryDirectory() as o.folder:
        for name in o.parts:
            part = results["parts"][name] = measure_idle(o) if name == "idle" else measure(o, name)
            keep(o, results)
            failed |= name == "idle" and not part["bytes"]
            failed |= any("error" in record and record["server"] in ("Tidewire", "Tidewire TLS", "1 worker", "2 workers")
                          for record in part["records"])
    say("\n" + "\n".join(table.goal_rows(results)) + f"\n\n{o.report} has the tables, {o.json} all values.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
