#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Compares short HTTP answers of Tidewire with those of nginx and its Lua module, under wrk: answers.py [ROUNDS [SECONDS]]"""
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import cpu_seconds, nginx, tidewire

BINARY = os.environ.get("TIDEWIRE_BIN", str(Path(__file__).resolve().parents[2] / "build" / "tidewire"))
SERVER, CLIENT = ("taskset", "-c", "0"), ("taskset", "-c", "1")
CONNECTIONS, PIPELINED = 100, 16

SCRIPT = """
app.get("text", function() return "Hello, world!" end)
app.get("json", function() return {message = "Hello, world!", number = 1} end)
app.get("param/:name", function(req) return "Hello, " .. req.params.name .. req.query.mark end)
"""
ROUTES = """
keepalive_requests 1000000000;
default_type text/plain;
location = /text { content_by_lua_block { ngx.header.content_length = 13 ngx.print("Hello, world!") } }
location = /json {
  default_type application/json;
  content_by_lua_block {
    local body = require("cjson").encode({message = "Hello, world!", number = 1})
    ngx.header.content_length = #body
    ngx.print(body)
  }
}
location ~ ^/param/([^/]+)$ {
  content_by_lua_block {
    local body = "Hello, " .. ngx.var[1] .. ngx.req.get_uri_args().mark
    ngx.header.content_length = #body
    ngx.print(body)
  }
}
"""
WORK = [("short text", "/text", 1), ("JSON", "/json", 1), ("path and query", "/param/you?mark=!", 1),
        (f"short text, {PIPELINED} pipelined", "/text", PIPELINED)]

# Asks for n requests at once.
PIPELINE = """
init = function()
  local one = {}
  for i = 1, %d do one[i] = wrk.format(nil, wrk.path) end
  all = table.concat(one)
end
request = function() return all end
"""


def run(pid, port, path, pipelined, seconds, folder):
    """Requests a second, and user and system time in microseconds of each; an error of any kind ends it all."""
    script = Path(folder) / "pipeline.lua"
    script.write_text(PIPELINE % pipelined, encoding="utf-8")
    before = cpu_seconds(pid)
    wrk = subprocess.run([*CLIENT, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "-s", script,
                          f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True, check=True).stdout
    after = cpu_seconds(pid)
    if "Socket errors" in wrk or "Non-2xx" in wrk:
        raise SystemExit(wrk)
    requests = int(re.search(r"(\d+) requests in", wrk).group(1))
    rate = float(re.search(r"Requests/sec: +([\d.]+)", wrk).group(1))
    return rate, *((b - a) * 1e6 / requests for a, b in zip(before, after))


def main(rounds=5, seconds=3):
    print(f"Requests a second, medians of {rounds} rounds of {seconds} s that alternate; user and system time of the "
          f"server for each request in microseconds; {CONNECTIONS} connections.\n")
    print("| work | Tidewire | nginx + Lua | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "main.lua"
        script.write_text(SCRIPT, encoding="utf-8")
        with tidewire(BINARY, script, SERVER) as ours, nginx(folder, ROUTES, SERVER) as theirs:
            for name, path, pipelined in WORK:
                results = [[run(*server, path, pipelined, seconds, folder) for server in (ours, theirs)]
                           for _ in range(rounds)]
                a, b = ([statistics.median(column) for column in zip(*server)] for server in zip(*results))
                ratio = statistics.median(us[0] / them[0] for us, them in results)
                print(f"| {name} | {a[0]:,.0f} ({a[1]:.2f} + {a[2]:.2f}) | {b[0]:,.0f} ({b[1]:.2f} + {b[2]:.2f}) "
                      f"| {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
