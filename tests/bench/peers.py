# SPDX-License-Identifier: MIT
"""Starts the servers that Tidewire is compared with, and reads what they cost."""
import contextlib
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

PATIENCE = 10  # seconds for a server to start
TICKS = os.sysconf("SC_CLK_TCK")

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
TUNED = "Tidewire tuned"  # what `make tuned` makes
BINARY = os.environ.get("TIDEWIRE_BIN", str(BUILD / "tidewire"))

NGINX = """
{modules}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  {http}
  server {{
    listen 127.0.0.1:{port};
    {routes}
  }}
}}
"""

# Short answers made in Lua. Their length is said, or they would be chunked; connections are kept for good.
NGINX_LUA = """
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

# TLS in front of another server. Its buffers hold a large message; sessions are resumed by tickets, the default.
NGINX_TLS = """
listen 127.0.0.1:{port} ssl backlog=4096;
ssl_certificate {cert};
ssl_certificate_key {key};
ssl_protocols TLSv1.3;
location / {{
  proxy_pass http://unix:{socket}:;
  proxy_http_version 1.1;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection upgrade;
  proxy_buffer_size 64k;
  proxy_buffers 8 64k;
}}
"""

# Who publishes gets the message too. Each run has a channel of its own, from whose beginning on everybody hears.
NCHAN_HTTP = "nchan_shared_memory_size 1g;"
NCHAN = """
location = /all {
  nchan_pubsub websocket;
  nchan_channel_id $arg_run;
  nchan_subscriber_first_message newest;
  nchan_message_buffer_length 4096;
  nchan_message_timeout 10s;
}
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
def nginx(folder, routes, prefix=(), modules=("ndk_http", "ngx_http_lua"), http=""):
    """Serves `routes`, the inside of a server block: (pid of the one that works, port). All that is not said there or
    in `http`, the block around it, is nginx's default. `prefix` is what stands before the command, such as taskset."""
    port = free_port()
    path = Path(folder) / "nginx.conf"
    load = "".join(f"load_module /usr/lib/nginx/modules/{module}_module.so;\n" for module in modules)
    path.write_text(NGINX.format(port=port, routes=routes, modules=load, http=http), encoding="utf-8")
    process = subprocess.Popen([*prefix, "nginx", "-p", str(folder), "-c", str(path)], stdin=subprocess.DEVNULL)
    try:
        wait_for(process, port, f"nginx with {' and '.join(modules)}")
        children, deadline = [], time.monotonic() + PATIENCE  # it listens before it has one
        while not children and process.poll() is None and time.monotonic() < deadline:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        if not children:
            raise SystemExit("nginx did not start")
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


def tidewire(binary, script, prefix=(), options=(), tls=False):
    """(pid, port)"""
    port = free_port()
    listen = "tls:127.0.0.1:{}?cert={}&key={}".format(port, *certificate()) if tls else f"127.0.0.1:{port}"
    return serve("tidewire", [*prefix, binary, "run", script, "--listen", listen, "--control",
                              f"@tidewire-bench-{port}", *options], port,
                 env={name: value for name, value in os.environ.items() if not name.startswith("TIDEWIRE_")})


def certificate():
    """(certificate, key), ECDSA on P-256, which openssl makes when they are not there or more than a week old. Raises
    LookupError without it."""
    cert, key = BUILD / "bench" / "cert.pem", BUILD / "bench" / "key.pem"
    if not cert.exists() or time.time() - cert.stat().st_mtime > 7 * 86400:
        if not shutil.which("openssl"):
            raise LookupError("openssl is not here")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout",
                        key, "-out", cert], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return cert, key


@contextlib.contextmanager
def behind_nginx(binary, script, folder, prefix=(), options=()):
    """nginx with TLS in front of a Tidewire without, by a unix socket: ((pid of either), port)"""
    port, (cert, key) = free_port(), certificate()
    path = Path(folder) / "socket"
    routes = NGINX_TLS.format(port=port, cert=cert, key=key, socket=path)
    with tidewire(binary, script, prefix, ("--listen", f"unix:{path}", *options)) as (pid, _):
        os.chmod(folder, 0o711)
        os.chmod(path, 0o666)  # started by root, nginx works as somebody else
        with nginx(folder, routes, prefix, ()) as (front, _):
            yield (front, pid), port


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


def bun(binary, script, prefix=(), tls=False):
    """(pid, port)"""
    port = free_port()
    return serve("bun", [*prefix, binary, script, port, *(certificate() if tls else ())], port)


def node(script, prefix=(), tls=False):
    """With the modules that Debian ships: (pid, port)"""
    port = free_port()
    env = os.environ | {"NODE_PATH": "/usr/share/nodejs"}
    return serve("node", [*prefix, "node", script, port, *(certificate() if tls else ())], port, env)


def compiled(path, prefix=(), env=None):
    """A server whose only argument is the port: (pid, port)"""
    port = free_port()
    return serve(path.name, [*prefix, path, port], port, None if env is None else os.environ | env)


def floor(path, prefix=()):
    """(pid, port)"""
    port = free_port()
    return serve("floor", [*prefix, path, "--port", port], port)


# ---- by their names in the tables of bench.py ----

def start(name, work, folder, prefix=()):
    """The server of that name, for `work`, "echo" or "fan" where that is not the same one: a context of (pid, port),
    or of ((pid, pid), port) when it is two processes. A name that ends with " TLS" is of one that speaks it. `folder` is
    for what it writes. Raises LookupError with the reason when it is not here, OSError or SystemExit when it does not
    start."""
    name, tls = name.removesuffix(" TLS"), name.endswith(" TLS")
    if name == "Bun":
        binary, missing = find_bun(BUILD / "peers")
        if missing:
            raise LookupError(missing)
        return bun(binary, HERE / f"bun_{work}.js", prefix, tls)
    script = HERE / "bench.lua"
    path = {"Tidewire": Path(BINARY), TUNED: BUILD / "tuned" / "tidewire", "floor": BUILD / "bench" / "floor", "libwebsockets": BUILD / "bench" / "lws_echo",
            "gorilla": BUILD / "peers" / "gorilla_echo"}.get(name)
    if path and not path.exists():
        raise LookupError(f"{path.relative_to(BUILD.parent)} is not built")
    if "nginx" in name or name == "nchan":
        if not shutil.which("nginx"):
            raise LookupError("nginx is not here")
    return {
        "Tidewire": lambda: tidewire(BINARY, script, prefix, tls=tls),
        TUNED: lambda: tidewire(path, script, prefix),
        "Tidewire behind nginx": lambda: behind_nginx(BINARY, script, folder, prefix),
        "1 worker": lambda: tidewire(BINARY, script, prefix),
        "2 workers": lambda: tidewire(BINARY, script, prefix, ("--workers", "2", "--pin-workers")),
        "floor": lambda: floor(path, prefix),
        "libwebsockets": lambda: compiled(path, prefix),
        "gorilla": lambda: compiled(path, prefix, {"GOMAXPROCS": "1"}),
        "node ws": lambda: node(HERE / f"node_{work}.js", prefix, tls),
        "nchan": lambda: nginx(folder, NCHAN, prefix, ("ngx_nchan",), NCHAN_HTTP),
        "nginx + Lua": lambda: nginx(folder, NGINX_LUA, prefix),
    }[name]()


# ---- what they are, and what they cost ----

def said(*command):
    """The first line of what a command prints, without its name before the version; nothing when it fails."""
    try:
        done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=True)
        return done.stdout.strip().split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions():
    """What is compared, and what it stands on: {name: version}, of those that are here."""
    def package(name):
        return said("dpkg-query", "-W", "-f", "${Version}", name)

    def number(*command):
        found = re.search(r"\d[\w.+:~-]*", said(*command))
        return found.group() if found else ""

    node_ws = "console.log(require('/usr/share/nodejs/ws/package.json').version)"
    bun_path = BUILD / "peers" / "node_modules" / ".bin" / "bun"
    found = {
        "Tidewire": number(BINARY, "--version"), "compiler": said("gcc", "--version"), "libev": package("libev4"),
        "Lua": package("liblua5.4-0"), "Bun": number(bun_path, "--version"),
        "OpenSSL": number("openssl", "version"), "node": number("node", "--version"), "ws": said("node", "-e", node_ws),
        "libwebsockets": package("libwebsockets-dev"), "Go": number("go", "version"),
        "gorilla/websocket": package("golang-github-gorilla-websocket-dev"), "nginx": number("nginx", "-v"),
        "libnginx-mod-http-lua": package("libnginx-mod-http-lua"), "libnginx-mod-nchan": package("libnginx-mod-nchan"),
        "wrk": package("wrk")}
    return {name: version for name, version in found.items() if version}


def memory_gib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def commit():
    """Of this checkout, and whether files differ from it; "unknown" outside of git."""
    git = ("git", "-c", "safe.directory=*", "-C", HERE)
    name = said(*git, "rev-parse", "--short=12", "HEAD")
    changed = said(*git, "status", "--porcelain", "--untracked-files=no", "--", HERE.parents[1] / "src",
                   HERE.parents[1] / "Makefile")
    return (name or "unknown") + (" with changes" if name and changed else "")


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


def cpu_seconds(*pids):
    """(user, system) of processes so far."""
    user = system = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]) / TICKS, system + int(fields[12]) / TICKS
    return user, system


def memory_of(*pids, what="Pss"):
    """MiB. Rss is all that is resident; Pss counts of what processes share with others only their part; Pss_Anon what
    no file is behind."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += int(re.search(rf"^{what}:\s+(\d+) kB", rollup, re.M).group(1))
    return total / 1024
