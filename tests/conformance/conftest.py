# SPDX-License-Identifier: MIT
"""Fixtures of the conformance tests: one Tidewire for each set of options, a connection for each test, in the role that
is its parameter; and a table of the results by section."""
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cases import LONG
from peer import Call, open_to_client, open_to_server, reach

OPTIONS = {"ping_interval": 0, "idle_timeout": 0, "max_message": "17m"}

SCRIPT = """
local function echo(ws)
  ws:on_text(function(socket, text) socket:send(text) end)
  ws:on_binary(function(socket, bytes) socket:send_binary(bytes) end)
end

app.websocket("echo", echo)
app.websocket("choosy", {protocols = {"chat.v2", "chat.v1"}}, echo)
app.websocket("closed", {should_upgrade = function() return false end}, echo)

app.post("connect", function(req)
  local order = req:json()
  local ws, message = app.connect(order.url, order.opts, echo)
  if not ws then return {open = false, message = message} end
  return {open = true, protocol = ws.protocol}
end)
"""


def load_e2e():
    """The end-to-end tests' conftest, which knows how a server is started; not by its name, which is ours too."""
    path = Path(__file__).resolve().parents[1] / "e2e" / "conftest.py"
    spec = importlib.util.spec_from_file_location("e2e_conftest", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # for what it imports
    spec.loader.exec_module(module)
    return module


e2e = load_e2e()


def pytest_collection_modifyitems(items):
    """What is marked so belongs to the long form only."""
    if not LONG:
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only in the long form, `make conformance`")


# ---- servers ----

@pytest.fixture(scope="session")
def tidewire(tmp_path_factory):
    """tidewire(key=value...) gives a Tidewire with these options, the same one for all who ask for the same. In the end
    each must stop with exit code 0 and without a word from a sanitizer."""
    running, all_of_them = {}, []

    def get(**options):
        key = tuple(sorted(options.items()))
        if key not in running or running[key].process.poll() is not None:
            folder = tmp_path_factory.mktemp("tidewire")
            script = folder / "main.lua"
            script.write_text(SCRIPT, encoding="utf-8")
            running[key] = e2e.Server(script, folder, **{**OPTIONS, **options})
            all_of_them.append(running[key])
        return running[key]
    yield get
    problems = []
    for server in all_of_them:
        try:
            code = server.stop()
            if code != 0 or e2e.SANITIZER.search(server.log):
                problems.append(f"exit code {code}:\n{server.log}")
        except subprocess.TimeoutExpired:
            problems.append(f"did not end after SIGTERM:\n{server.log}")
        finally:
            server.kill()
    assert not problems, "\n".join(problems)


# ---- connections ----

@pytest.fixture(params=["server", "client"], ids=["as_server", "as_client"])
def role(request):
    """What Tidewire is in the conversation."""
    return request.param


@pytest.fixture
def connect(tidewire, role):
    """connect(**options) gives a peer that has an open WebSocket with a Tidewire in this role, echoing."""
    peers = []

    def get(**options):
        server = tidewire(**options)
        peers.append(open_to_server(server) if role == "server" else open_to_client(server))
        return peers[-1]
    yield get
    for peer in peers:
        peer.sock.close()


@pytest.fixture
def ws(connect):
    return connect()


@pytest.fixture
def agree(tidewire, role):
    """agree(parameters, **options) gives a peer with permessage-deflate agreed upon."""
    peers = []

    def get(params="", **options):
        server = tidewire(**{"compression": "true", "compression_min": 0, "compression_window": 15, **options})
        open_to = open_to_server if role == "server" else open_to_client
        peers.append(open_to(server, **{"offer" if role == "server" else "answer": "permessage-deflate" + params}))
        return peers[-1]
    yield get
    for peer in peers:
        peer.sock.close()


@pytest.fixture
def raw(tidewire):
    """A connection to a Tidewire that serves, before the handshake."""
    with reach(tidewire()) as peer:
        yield peer


@pytest.fixture
def call(tidewire):
    """call(**opts) has a Tidewire connect to us, and waits with the answer."""
    calls = []

    def get(server=None, **opts):
        calls.append(Call(server or tidewire(), **opts))
        return calls[-1]
    yield get
    for one in calls:
        one.__exit__()


# ---- the table ----

def section_of(nodeid):
    """test_5_5_1_a_name is RFC 6455's 5.5.1, test_7692_7_1_a_name is RFC 7692's 7.1."""
    name = nodeid.rpartition("::")[2].partition("[")[0]
    found = re.match(r"test_(7692_)?(\d+(?:_\d+)*)_", name)
    return (7692 if found[1] else 6455, tuple(map(int, found[2].split("_")))) if found else (0, ())


def pytest_terminal_summary(terminalreporter):
    passed, failed = Counter(), Counter()
    for outcome, count in (("passed", passed), ("failed", failed), ("error", failed)):
        for report in terminalreporter.stats.get(outcome, []):
            if outcome != "passed" or report.when == "call":
                count[section_of(report.nodeid)] += 1
    if not passed and not failed:
        return
    terminalreporter.write_line(f"\n{'section':<20}{'passed':>8}{'failed':>8}")
    for section in sorted(passed.keys() | failed.keys()):
        rfc, numbers = section
        name = f"RFC {rfc}, {'.'.join(map(str, numbers))}" if rfc else "without a section"
        terminalreporter.write_line(f"{name:<20}{passed[section]:>8}{failed[section]:>8}")
    terminalreporter.write_line(f"{'all':<20}{sum(passed.values()):>8}{sum(failed.values()):>8}")
