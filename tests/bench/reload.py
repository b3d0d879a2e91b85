#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What reloads do to live connections, beside nginx's: reload.py [delay] [nginx] [memory] [--connections N] ..."""
import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from peers import busy_seconds, cpu_seconds, free_port, machine, memory_of, wait_for

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
BINARY = os.environ.get("TIDEWIRE_BIN", str(BUILD / "tidewire"))
PATIENCE = 60  # seconds for what must happen

SCRIPT = """
app.websocket("/", function(ws)
  if not ws.migrated then ws.state.n = 0 end
  ws:on_text(function(ws, text)
    local state = ws.state
    state.n = state.n + 1
    ws:send(("%d %d %s"):format(app.generation, state.n, text))
  end)
end)
app.on_start(function() app.shared.incr("started") end)
"""

# Two workers, for each proxied connection takes two of the files that a process may open.
NGINX = """
daemon off;
worker_processes 2;
worker_rlimit_nofile {files};
pid nginx.pid;
error_log error.log;
{shutdown}
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://127.0.0.1:{behind};
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""


def on_cpus(cpus):
    return ("taskset", "-c", cpus)


class Tidewire:
    """A server whose log is read as it comes."""

    def __init__(self, folder, o):
        self.port = free_port()
        script = Path(folder) / "main.lua"
        script.write_text(SCRIPT, encoding="utf-8")
        env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")}
        self.process = subprocess.Popen(
            [*on_cpus(o.server_cpus), BINARY, "run", script, "--listen", f"127.0.0.1:{self.port}", "--workers",
             str(o.workers), "--control", f"@tidewire-bench-{self.port}"], env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.served, self.moved = [], []  # when each generation served, and when all had moved to it
        self.changed = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()
        wait_for(self.process, self.port, "tidewire")

    def read(self):
        for line in self.process.stdout:
            with self.changed:
                if "serves new connections" in line:
                    self.served.append(time.monotonic())
                elif "connections moved to it" in line:
                    self.moved.append(time.monotonic())
                elif "error" in line or "refused" in line:
                    print(line, end="")
                self.changed.notify_all()

    @property
    def pid(self):
        return self.process.pid

    def reload(self):
        """Seconds from the signal until the new code served, and from then until all had moved."""
        with self.changed:
            seen, start = len(self.moved), time.monotonic()
            self.process.send_signal(signal.SIGHUP)
            if not self.changed.wait_for(lambda: len(self.moved) > seen, PATIENCE):
                raise SystemExit("a reload did not end")
            return self.served[-1] - start, self.moved[-1] - self.served[-1]

    def stop(self):
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def tidewire(o):
    with tempfile.TemporaryDirectory() as folder:
        server = Tidewire(folder, o)
        try:
            yield server
        finally:
            server.stop()


class Client:
    """A run of build/bench/reload; it has connected."""

    def __init__(self, o, port, connections, rate, seconds, phases=1):
        self.process = subprocess.Popen(
            [*on_cpus(o.client_cpus), BUILD / "bench" / "reload", "--url", f"127.0.0.1:{port}/", "--connections",
             str(connections),
             "--rate", str(rate), "--seconds", str(seconds), "--phases", str(phases)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "connected\n":
            raise SystemExit("the clients could not connect")

    def wait_phase(self, phase):
        if self.process.stdout.readline() != f"phase {phase}\n":
            raise SystemExit("the clients failed")

    def results(self):
        """Of each phase, and of the whole run."""
        *phases, whole = [json.loads(line) for line in self.process.stdout if line.startswith("{")]
        if self.process.wait() != 0:
            raise SystemExit("the clients failed")
        return phases, whole

    def stop(self):
        self.process.terminate()
        self.process.wait()


# ---- what a reload adds to the delay ----

KEYS = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "p100_ms")


def reload_for(server, until, every, times):
    while (begin := time.monotonic()) < until:
        times.append(server.reload())
        time.sleep(max(0, begin + every - time.monotonic()))


def used_seconds(server):
    """Of processors: by all processes, and by those that take part and have ended or are the server."""
    ours = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return busy_seconds(), sum(cpu_seconds(server.pid)) + sum(usage.ru_utime + usage.ru_stime for usage in ours)


def milliseconds(values):
    return f"{1000 * statistics.median(values):.1f} (at most {1000 * max(values):.1f})"


def measure_delay(o):
    """Phases without and with reloads in turn, over the same connections."""
    times = []
    with tidewire(o) as server:
        before, begin, begin_used = memory_of(server.pid), time.monotonic(), used_seconds(server)
        client = Client(o, server.port, o.connections, o.rate, o.seconds, 2 * o.rounds)
        for phase in range(2 * o.rounds):
            client.wait_phase(phase)
            if phase % 2 == 1:
                reload_for(server, time.monotonic() + o.seconds - 1, o.every, times)
        phases, whole = client.results()
        memory, used, elapsed = memory_of(server.pid), used_seconds(server), time.monotonic() - begin
    others = (used[0] - begin_used[0]) - (used[1] - begin_used[1])
    plain, reloaded = phases[::2], phases[1::2]
    print(f"## The delay of messages\n\n{o.connections:,} connections, {o.rate:,} messages a second that are due at "
          f"fixed times, workers: {o.workers}, a reload every {o.every} s in every other phase; medians of {o.rounds} "
          f"phases of {o.seconds} s.\n\n| delay in ms | median | 90 % | 99 % | 99.9 % | longest |\n"
          f"| --- {'| --- ' * 5}|")
    rows = {"without reloads": [statistics.median(p[key] for p in plain) for key in KEYS],
            "with reloads": [statistics.median(p[key] for p in reloaded) for key in KEYS]}
    rows["added"] = [b - a for a, b in zip(*rows.values())]
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in row)} |")
    print(f"\nReloads: {len(times)}. Messages lost: {whole['messages_lost']:.0f} of {whole['messages_sent']:,.0f}. "
          f"Connections lost: {whole['connections_lost']:.0f}. Milliseconds from the signal until the new code serves: "
          f"{milliseconds([t[0] for t in times])}; from then until all have moved: "
          f"{milliseconds([t[1] for t in times])}. One process; {before:.0f} MiB without connections, {memory:.0f} at "
          f"the end. Other processes had {100 * others / elapsed:.0f} % of a processor.\n", flush=True)


# ---- nginx ----

@contextlib.contextmanager
def nginx(o, behind, shutdown=""):
    """(process, port)"""
    with tempfile.TemporaryDirectory() as folder:
        port, path = free_port(), Path(folder) / "nginx.conf"
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        path.write_text(NGINX.format(port=port, behind=behind, shutdown=shutdown, files=files), encoding="utf-8")
        process = subprocess.Popen([*on_cpus(o.server_cpus), "nginx", "-p", folder, "-c", path],
                                   stdin=subprocess.DEVNULL)
        try:
            wait_for(process, port, "nginx")
            yield process, port
        finally:
            for pid in family(process.pid)[1:]:
                os.kill(pid, signal.SIGTERM)
            process.terminate()
            process.wait()


def family(pid):
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


def nginx_reload(process):
    """Until the old workers have been told to end."""
    before = family(process.pid)
    process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + PATIENCE
    while len(set(family(process.pid)) - set(before)) < 2:
        if time.monotonic() > deadline:
            raise SystemExit("nginx does not reload")
        time.sleep(0.05)
    time.sleep(0.5)


def print_processes(what, process, clients=None):
    pids = family(process.pid)
    row = [what, len(pids), f"{memory_of(*pids):.0f}"]
    lost = "0" if clients is None else f"{sum(client.results()[1]['connections_lost'] for client in clients):,.0f}"
    print(f"| {' | '.join(map(str, [*row, lost]))} |", flush=True)


def measure_nginx(o):
    """nginx as a proxy before Tidewire, which echoes and is not reloaded."""
    turns, rate = 10, 500
    print(f"## nginx -s reload\n\n{o.connections:,} WebSockets through nginx with two workers.\n\n"
          "| | processes of nginx | their memory, MiB | connections cut |\n| --- | --- | --- | --- |")
    with tidewire(o) as server:
        with nginx(o, server.port) as (process, port):
            clients = [Client(o, port, o.connections, rate, 5)]
            print_processes("no reload", process, clients)
        with nginx(o, server.port) as (process, port):
            clients = []
            for _ in range(turns):
                clients.append(Client(o, port, o.connections // turns, rate // turns, 40))
                nginx_reload(process)
            print_processes(f"{turns} reloads, a {turns}th of the connections made before each", process, clients)
        with nginx(o, server.port, "worker_shutdown_timeout 10s;") as (process, port):
            clients = [Client(o, port, o.connections, rate, 20)]
            nginx_reload(process)
            print_processes("one reload with worker_shutdown_timeout 10s, at once after it", process)
            whole = clients[0].results()[1]
            print(f"| the same, 20 s later | {len(family(process.pid))} | {memory_of(*family(process.pid)):.0f} | "
                  f"{whole['connections_lost']:,.0f} |\n", flush=True)


# ---- memory ----

def measure_memory(o):
    """Reloads with live connections, each once all have moved."""
    marks = [mark for mark in (1, 10, 100, 500, 1000) if mark < o.reloads] + [o.reloads]
    connections = min(o.connections, 1000)
    print(f"## Memory\n\n{connections:,} connections with 500 messages a second.\n\n"
          "| reloads | resident memory, MiB |\n| --- | --- |")
    with tidewire(o) as server:
        client = Client(o, server.port, connections, 500, 3600)
        print(f"| 0 | {memory_of(server.pid, what='Rss'):.1f} |")
        for i in range(1, o.reloads + 1):
            server.reload()
            if i in marks:
                print(f"| {i:,} | {memory_of(server.pid, what='Rss'):.1f} |", flush=True)
        client.stop()
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], "delay", "nginx", "memory"], help="all without one")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=5000, help="messages a second, all together")
    parser.add_argument("--seconds", type=float, default=10, help="of a phase")
    parser.add_argument("--rounds", type=int, default=3, help="phases of each kind")
    parser.add_argument("--every", type=float, default=0.3, help="seconds between reloads")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--server-cpus", default="0", help="as for taskset")
    parser.add_argument("--client-cpus", default="1")
    parser.add_argument("--reloads", type=int, default=1000, help="of the memory run")
    o = parser.parse_args()
    if not (BUILD / "bench" / "reload").exists():
        raise SystemExit("build/bench/reload is not built: make bench-tools")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(machine() + "\n")
    for name, measure in (("delay", measure_delay), ("nginx", measure_nginx), ("memory", measure_memory)):
        if not o.parts or name in o.parts:
            measure(o)


if __name__ == "__main__":
    main()
