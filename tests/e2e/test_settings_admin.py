# SPDX-License-Identifier: MIT
"""What a reload of the configuration does with the admin listener: all of it, or nothing."""
import re
import socket

import pytest

from conftest import PATIENCE, Raw
from configured import Configured, free_everywhere, put
from migrating import REFUSED, TAKEN

TOKEN, OTHER = "the-first-token", "the-second-token"


class Admin(Configured):
    """A server, its configuration file, and its admin listener."""

    def address(self, start=0):
        host, port = self.told(r"admin listening on ([^\s:]+:\d+)", start).group(1).rsplit(":", 1)
        return host, int(port)

    def connect(self, start=0):
        return Raw(socket.create_connection(self.address(start), PATIENCE))


@pytest.fixture(name="configured")
def configured_fixture(serve, tmp_path):
    return lambda **values: Admin(serve, tmp_path, {key: f'"{value}"' for key, value in values.items()})


def quoted(**values):
    return {key: f'"{value}"' for key, value in values.items()}


def status(client, token="none", path="/metrics"):
    return client.request(f"GET {path} HTTP/1.1\nHost: x\nAuthorization: Bearer {token}\n\n").status


def gone(address):
    try:
        socket.create_connection(address, PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def test_one_that_stays_keeps_its_clients(configured):
    c = configured(admin="127.0.0.1:0")
    with c.connect() as client:
        for _ in range(3):
            assert c.reload(quoted(admin="127.0.0.1:0"))
            assert status(client) == 200
    assert c.server.log.count("admin listening on") == 1


def test_one_can_come_and_go(configured):
    c = configured()
    assert "admin listening" not in c.server.log
    assert c.reload(quoted(admin="127.0.0.1:0"))
    address = c.address()
    with c.connect() as client:
        assert status(client) == 200
        assert c.reload({})
        client.expect_end()
    assert gone(address)


def test_one_can_move(configured):
    c = configured(admin="127.0.0.1:0")
    old, start = c.address(), c.server.mark()
    assert c.reload(quoted(admin="127.0.0.2:0"))
    with c.connect(start) as client:
        assert c.address(start)[0] == "127.0.0.2" and status(client) == 200
    assert gone(old)


def test_another_address_may_have_the_same_port(configured):
    port = free_everywhere()
    c = configured(admin=f"127.0.0.1:{port}")
    for number, address in enumerate([f"0.0.0.0:{port}", f"127.0.0.1:{port}"], 2):
        assert c.reload(quoted(admin=address, admin_token=TOKEN)), c.server.log
        with Raw(socket.create_connection(("127.0.0.1", port), PATIENCE)) as client:
            assert f"generation {number}," in client.request("GET /healthz HTTP/1.1\nHost: x\n\n").body


def test_a_new_token_holds_at_once(configured):
    c = configured(admin="127.0.0.1:0", admin_token=TOKEN)
    with c.connect() as client:
        assert status(client, TOKEN) == 200
        assert c.reload(quoted(admin="127.0.0.1:0", admin_token=OTHER))
        assert status(client, TOKEN) == 401 and status(client, OTHER) == 200
        assert c.reload(quoted(admin="127.0.0.1:0"))
        assert status(client) == 200
    assert TOKEN not in c.server.log and OTHER not in c.server.log


def test_the_file_of_the_token_is_read_again(configured, tmp_path):
    path = tmp_path / "token"
    put(path, TOKEN)
    values = quoted(admin="127.0.0.1:0", admin_token_file=path)
    c = configured(admin="127.0.0.1:0", admin_token_file=path)
    with c.connect() as client:
        put(path, OTHER)
        assert status(client, TOKEN) == 200
        assert c.reload(values)
        assert status(client, TOKEN) == 401 and status(client, OTHER) == 200


@pytest.mark.parametrize("values, pattern", [
    ({"admin": "0.0.0.0:0"}, "needs a token"),
    ({"admin": "127.0.0.1:0", "admin_token": ""}, "the token is empty"),
    ({"admin": "127.0.0.1:0", "admin_token_file": "/nowhere"}, "cannot read /nowhere"),
    ({"admin": "nonsense"}, "expected ADDRESS:PORT"),
    ({"admin": "192.0.2.7:1", "admin_token": OTHER}, "admin: cannot listen on 192.0.2.7:1"),
])
def test_what_cannot_be_used_refuses_the_reload(configured, values, pattern):
    c = configured(admin="127.0.0.1:0", admin_token=TOKEN)
    with c.connect() as client:
        c.refused(quoted(**values), pattern, script="app.get('new', function() return '' end)")
        assert status(client, TOKEN) == 200 and status(client, OTHER) == 401
        assert "generation 1," in client.request("GET /healthz HTTP/1.1\nHost: x\n\n").body
    metrics = c.server.metrics()
    assert (metrics[REFUSED], metrics[TAKEN]) == (1, 0)


def test_a_script_that_is_refused_leaves_it_as_it_was(configured):
    c = configured(admin="127.0.0.1:0", admin_token=TOKEN)
    c.refused(quoted(admin="127.0.0.1:0", admin_token=OTHER), "syntax error", script="nonsense")
    with c.connect() as client:
        assert status(client, OTHER) == 401 and status(client, TOKEN) == 200
    assert len(re.findall("admin listening", c.server.log)) == 1
