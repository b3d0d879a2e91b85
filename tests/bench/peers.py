# SPDX-License-Identifier: MIT
"""Starts the servers that Tidewire is compared with, and reads what they cost."""
import contextlib
import os
import platform
import re
import socket
import subprocess
import time
from pathlib import Path

PATIENCE = 10  # seconds for a server to start
TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen 127.0.0.1:{port};
    {routes}
  }}
}}
"""


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(process, port, name):
    """Until the process accepts connections."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise SystemExit(f"{name} did not start")


@contextlib.contextmanager
def nginx(folder, routes, prefix=()):
    """Serves `routes`, the inside of a server block, with the Lua module: (pid of the one that works, port). All that
    is not said there is nginx's default. `prefix` is what stands before the command, such as taskset."""
    port = free_port()
    path = Path(folder) / "nginx.conf"
    path.write_text(NGINX.format(port=port, routes=routes), encoding="utf-8")
    process = subprocess.Popen([*prefix, "nginx", "-p", str(folder), "-c", str(path)], stdin=subprocess.DEVNULL)
    try:
        wait_for(process, port, "nginx with libnginx-mod-http-lua")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        yield int(children[0]), port
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def serve(name, command, port, env=None):
    """Runs a server that is one process: (pid, port)"""
    process = subprocess.Popen(list(map(str, command)), env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(process, port, name)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def tidewire(binary, script, prefix=(), options=()):
    """(pid, port)"""
    port = free_port()
    return serve("tidewire", [*prefix, binary, "run", script, "--listen", f"127.0.0.1:{port}", "--control",
                              f"@tidewire-bench-{port}", *options], port,
                 env={name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")})


def find_bun(folder):
    """(path of Bun's binary, None), which npm installs into `folder` when it is not there; or (None, why not)."""
    binary = Path(folder) / "node_modules" / ".bin" / "bun"
    try:
        if not binary.exists():
            subprocess.run(["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix",
                            folder, "bun"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
        return binary, None
    except FileNotFoundError as error:
        return None, f"{error.filename} is not here"
    except subprocess.CalledProcessError as error:
        return None, (error.stderr.strip() or f"{error.cmd[0]} failed").splitlines()[0]


def bun(binary, script, prefix=()):
    """(pid, port)"""
    port = free_port()
    return serve("bun", [*prefix, binary, script, port], port)


def node(script, prefix=()):
    """With the modules that Debian ships: (pid, port)"""
    port = free_port()
    env = os.environ | {"NODE_PATH": "/usr/share/nodejs"}
    return serve("node", [*prefix, "node", script, port], port, env)


def machine():
    """Processors and kernel, in a line."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")),
                 platform.machine())
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}"


def busy_seconds():
    """What all processors have worked so far, for whichever process."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def cpu_seconds(pid):
    """(user, system) of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def memory_of(*pids, what="Pss"):
    """MiB. Rss is all that is resident; Pss counts of what processes share with others only their part; Pss_Anon what
    no file is behind."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += int(re.search(rf"^{what}:\s+(\d+) kB", rollup, re.M).group(1))
    return total / 1024
