# SPDX-License-Identifier: MIT
"""What the tests of a configuration that changes at a reload share (test_settings*.py)."""
import re
import socket
from pathlib import Path

from migrating import code

SCRIPT = code("one") + """
app.get("who", function(req) return req.remote_address end)
app.get("name", function() return NAME end)
app.get("long", function() return ("x"):rep(5000) end)
"""


def lua(values):
    """A configuration file: each value is a piece of Lua."""
    return "return {" + ", ".join(f"{key} = {value}" for key, value in values.items()) + "}\n"


def put(path, text):
    """A save as most editors do it: whole from the first moment on."""
    new = Path(f"{path}.new")
    new.write_text(text, encoding="utf-8")
    new.rename(path)


def free_everywhere():
    """A port that no client of another test has on any address, for servers that are going to listen on all."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return probe.getsockname()[1]


class Configured:
    """A server and its configuration file."""

    def __init__(self, serve, folder, values, *args, script=SCRIPT, **options):
        self.path = folder / "server.conf.lua"
        put(self.path, values if isinstance(values, str) else lua(values))
        self.server = serve(script, "-c", str(self.path), *args, **options)

    def reload(self, values, script=None):
        """Puts another configuration there and reloads; whether it was taken."""
        put(self.path, values if isinstance(values, str) else lua(values))
        return self.server.reload(script)

    def refused(self, values, pattern, script=None):
        start = self.server.mark()
        assert not self.reload(values, script), self.server.log
        self.server.wait_log(rf"reload refused, generation \d+ goes on: [^\n]*{pattern}", start)

    def told(self, pattern, start=0):
        """Waits for it; at the end of the pattern \\n is the end of a line."""
        return self.server.wait_log(re.sub(r"\\n$", r"(?=\\n|\\Z)", pattern), start)


def get(client, path, **headers):
    lines = "".join(f"{key.replace('_', '-')}: {value}\n" for key, value in headers.items())
    return client.request(f"GET {path} HTTP/1.1\nHost: localhost\n{lines}\n")


def addresses(server, start=0):
    """What it says it listens on, from line `start` of the log on."""
    return re.findall(r" (?<!longer )listening on (\S+)", "\n".join(server.log.splitlines()[start:]))
