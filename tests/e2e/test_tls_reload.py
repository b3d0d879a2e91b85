# SPDX-License-Identifier: MIT
"""Certificates that change under a server: the next reload reads them, connections that are there stay."""
import json
import shutil
import ssl

import pytest

from conftest import TEXT

SCRIPT = """
app.get("facts", function(req) return json.encode(req.tls) end)
app.websocket("echo", function(ws) ws:on_text(function(ws, text) ws:send(text) end) end)
"""


@pytest.fixture
def files(certs, tmp_path):
    """put(pair): the files that the server reads have this pair now."""
    def put(pair):
        shutil.copy(pair.cert, tmp_path / "cert.pem")
        shutil.copy(pair.key, tmp_path / "key.pem")
    put(certs.pair("old.example"))
    shutil.copy(certs.ca(), tmp_path / "ca.pem")
    return put


@pytest.fixture
def start(serve, files, tmp_path):
    return lambda more="": serve(SCRIPT, listen=f"tls:127.0.0.1:0?cert={tmp_path}/cert.pem&key={tmp_path}/key.pem{more}")


def facts(server, context, name, session=None):
    with server.secure(context, name=name, session=session) as client:
        answer = client.request("GET /facts HTTP/1.1\nHost: a\n\n")
        return json.loads(answer.body), client.sock.session


def test_a_new_certificate_is_for_new_connections_and_live_ones_stay(start, files, certs):
    server, context = start(), certs.context()
    with server.secure(context, "/echo", name="old.example") as client:
        files(certs.pair("new.example", kind="rsa"))
        facts(server, context, "old.example")  # not read yet
        assert server.reload()
        facts(server, context, "new.example")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            server.secure(context, name="old.example")
        client.send_frame(TEXT, "still there")
        assert client.text() == "still there"


@pytest.mark.parametrize("fault, said", [("missing", "No such file"), ("cut", "whole and in PEM form"),
                                         ("of another key", "it is not the key of the certificate")])
def test_a_bad_certificate_refuses_the_reload_and_the_old_one_stays(start, certs, tmp_path, fault, said):
    server, context = start(), certs.context()
    if fault == "missing":
        (tmp_path / "cert.pem").unlink()
    elif fault == "cut":
        (tmp_path / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB", encoding="ascii")
    else:
        shutil.copy(certs.pair("new.example").key, tmp_path / "key.pem")
    assert not server.reload(SCRIPT.replace("echo", "other"))
    server.wait_log(said)
    facts(server, context, "old.example")
    with server.secure(context, "/echo", name="old.example"):
        pass  # and so does the script


def test_sessions_of_before_another_ca_are_not_resumed(start, certs, tmp_path):
    server, context = start(f"&ca={tmp_path}/ca.pem"), certs.context(client=certs.pair("alice"))
    first, session = facts(server, context, "old.example")
    assert first["client"]["subject"] == "CN=alice,O=Tests"
    assert server.reload()
    assert facts(server, context, "old.example", session)[0]["resumed"]
    certs.ca("strange")
    shutil.copy(certs.ca("strange"), tmp_path / "ca.pem")
    assert server.reload()
    with pytest.raises((ssl.SSLError, ConnectionResetError)):  # or who was let in once would be for hours
        facts(server, context, "old.example", session)
