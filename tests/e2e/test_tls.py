# SPDX-License-Identifier: MIT
"""What a TLS handshake agrees on: protocols, ciphers, ALPN, certificates by name, resumption, clients' certificates, and
what scripts see of it in req.tls."""
import json
import re
import shutil
import socket
import ssl
import subprocess
from ssl import TLSVersion

import pytest

from conftest import PATIENCE

FACTS = """
local function facts(req)
  local tls = req.tls
  return tls and json.encode({tls = tls, worker = app.worker, has_client = tls.client ~= nil}) or "plain"
end
app.get("facts", facts)
app.websocket("facts", function(ws, req)
  ws:send(facts(req))
  ws:on_text(function(ws) ws:send(facts(ws.request)) end)
end)
"""


@pytest.fixture
def secure(serve, certs):
    """secure(*pairs, key=value...): a server with TLS; options of the listener, then of the server as `server`."""
    def start(*pairs, script=FACTS, server=None, **options):
        return serve(script, listen=certs.spec(*pairs, **options), **(server or {}))
    return start


def get(client, path="/facts"):
    return client.request(f"GET {path} HTTP/1.1\nHost: a\n\n")


def facts_of(client):
    answer = get(client)
    assert answer.status == 200
    return json.loads(answer.body)


def refused(server, context, **how):
    """The reason of the handshake's failure, as the client has it; in TLS 1.3 it may learn of it afterwards."""
    with pytest.raises((ssl.SSLError, ConnectionResetError)) as caught:
        with server.secure(context, **how) as client:
            get(client)
    return getattr(caught.value, "reason", None) or str(caught.value)


def s_client(server, *args, stdin=b""):
    """openssl s_client's whole output."""
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *args], input=stdin, timeout=PATIENCE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout.decode("utf-8", "replace")


# ---- protocols and ciphers ----

@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_protocols_and_kinds_of_keys(secure, certs, version, kind):
    server = secure(certs.pair(kind=kind))
    with server.secure(certs.context(version=version)) as client:
        assert client.sock.version() == ("TLSv1.2" if version == TLSVersion.TLSv1_2 else "TLSv1.3")
        tls = facts_of(client)["tls"]
        assert tls["version"] == client.sock.version()
        assert tls["cipher"] == client.sock.cipher()[0]
    assert server.metrics()['tidewire_tls_handshakes_total{outcome="ok"}'] == 1


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_protocols_are_refused(secure, version):
    server = secure()
    said = s_client(server, version, "-cipher", "ALL:@SECLEVEL=0")
    assert "alert number 70" in said, said  # protocol_version
    server.wait_metric('tidewire_tls_handshakes_total{outcome="failed"}', 1)


def test_min_refuses_tls_1_2(secure, certs):
    server = secure(min="1.3")
    assert "alert number 70" in s_client(server, "-tls1_2")
    with server.secure(certs.context()) as client:
        assert facts_of(client)["tls"]["version"] == "TLSv1.3"


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256", "aNULL",
                                    "eNULL"])
def test_ciphers_that_keep_keys_or_do_not_authenticate_are_refused(secure, certs, cipher):
    server = secure(certs.pair(), certs.pair("localhost", kind="rsa"))
    assert "alert number 40" in s_client(server, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")  # handshake_failure


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
                                    "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_ciphers_of_tls_1_2(secure, cipher):
    server = secure()
    assert re.search(f"Cipher +(is|:) +{cipher}", s_client(server, "-tls1_2", "-cipher", cipher))


def test_compression_is_never_agreed_on_and_renegotiation_is_secure(secure):
    said = s_client(secure(), "-tls1_2")
    assert "Compression: NONE" in said
    assert "Secure Renegotiation IS supported" in said


# ---- ALPN (RFC 7301) ----

@pytest.mark.parametrize("offered, chosen", [(None, None), (["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"),
                                             (["http/1.0"], "http/1.0"), (["http/1.0", "http/1.1"], "http/1.1")])
def test_alpn(secure, certs, offered, chosen):
    with secure().secure(certs.context(alpn=offered)) as client:
        assert client.sock.selected_alpn_protocol() == chosen
        assert get(client).status == 200


def test_alpn_without_http_1_is_refused(secure):
    server = secure()
    assert "alert number 120" in s_client(server, "-alpn", "h2")  # no_application_protocol
    server.wait_metric('tidewire_tls_handshakes_total{outcome="failed"}', 1)


# ---- certificates by name (RFC 6066, 3) ----

NAMES = [("a.example", "a.example"), ("A.EXAMPLE", "a.example"), ("b.example", "b.example"), ("x.wild.example", "any.wild.example"),
         ("wild.example", "a.example"), ("x.y.wild.example", "a.example"), ("nobody.example", "a.example"), (None, "a.example"),
         ("also-b.example", "b.example")]


@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_the_name_picks_the_certificate_and_an_unknown_one_the_first(secure, certs, version):
    server = secure(certs.pair("a.example"), certs.pair("b.example", "also-b.example", kind="rsa"), certs.pair("*.wild.example"))
    context = certs.context(version=version)
    context.check_hostname = False
    for name, expected in NAMES:
        with server.secure(context, name=name) as client:
            subject = dict(pair for (pair,) in client.sock.getpeercert()["subject"])
            assert subject["commonName"] == expected, name
            assert facts_of(client)["tls"].get("server_name") == name


# ---- resumption ----

def resumable(server, context, **how):
    """A session of one connection, for the next."""
    with server.secure(context, **how) as client:
        facts = facts_of(client)  # the tickets of TLS 1.3 come after the handshake
        return client.sock.session, facts


@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3])
def test_sessions_are_resumed_in_every_worker_and_after_a_reload(secure, certs, version):
    server = secure(server={"workers": 2})
    context = certs.context(version=version)
    session, facts = resumable(server, context)
    assert facts["tls"]["resumed"] is False
    workers = set()
    while workers != {1, 2}:
        with server.secure(context, session=session) as client:
            facts = facts_of(client)
            assert client.sock.session_reused and facts["tls"]["resumed"] is True
            assert facts["tls"]["server_name"] == "localhost"
            workers.add(facts["worker"])
    assert server.reload(FACTS + "-- changed")
    before = server.metrics()["tidewire_tls_resumed_total"]
    with server.secure(context, session=session) as client:
        assert facts_of(client)["tls"]["resumed"] is True
    assert server.metrics()["tidewire_tls_resumed_total"] == before + 1


def test_a_session_of_before_a_restart_is_not_resumed(secure, certs):
    context = certs.context()
    session, _ = resumable(secure(), context)
    with secure().secure(context, session=session) as client:
        assert facts_of(client)["tls"]["resumed"] is False


def test_sessions_are_resumed_only_where_the_same_is_asked_of_clients(serve, certs, tmp_path):
    copy = tmp_path / "copy-of-ca.pem"
    shutil.copy(certs.ca(), copy)
    specs = [certs.spec(), certs.spec(ca=certs.ca()), certs.spec(ca=copy), certs.spec(ca=certs.ca(), client="optional"),
             certs.spec(ca=certs.ca("strange"))]
    server = serve(FACTS, listen=",".join(specs))
    server.wait_log(r"(?s)(listening on \S+ \(TLS\).*){5}")
    plain, asked, same, optional, other = map(int, re.findall(r"listening on 127\.0\.0\.1:(\d+)", server.log))
    context = certs.context(client=certs.pair("alice"))
    server.port = asked
    session, _ = resumable(server, context)
    server.port = same  # the same certificates in another file
    with server.secure(context, session=session) as client:
        facts = facts_of(client)
        assert facts["tls"]["resumed"] is True
        assert facts["tls"]["client"]["subject"] == "CN=alice,O=Tests"
    for server.port in (plain, optional):
        with server.secure(context, session=session) as client:
            assert facts_of(client)["tls"]["resumed"] is False
    server.port = other
    refused(server, context, session=session)
    server.port = plain
    session, _ = resumable(server, context)
    server.port = asked  # nothing was asked when that session began
    with server.secure(context, session=session) as client:
        facts = facts_of(client)
        assert facts["tls"]["resumed"] is False and facts["has_client"]


# ---- clients' certificates ----

def test_a_client_certificate_is_required(secure, certs):
    server = secure(ca=certs.ca())
    with server.secure(certs.context(client=certs.pair("alice", kind="rsa"))) as client:
        facts = facts_of(client)["tls"]["client"]
    shown = subprocess.run(["openssl", "x509", "-in", certs.pair("alice", kind="rsa").cert, "-noout", "-serial", "-fingerprint",
                            "-sha256"], text=True, capture_output=True, check=True).stdout
    serial, fingerprint = re.findall(r"=(\S+)", shown)
    assert facts == {"subject": "CN=alice,O=Tests", "issuer": "CN=ca,O=Tests", "serial": serial.lower(),
                     "fingerprint": fingerprint.replace(":", "").lower()}
    assert "CERTIFICATE_REQUIRED" in refused(server, certs.context())
    assert refused(server, certs.context(version=TLSVersion.TLSv1_2)) == "SSLV3_ALERT_HANDSHAKE_FAILURE"
    assert server.wait_metric('tidewire_tls_handshakes_total{outcome="failed"}', 2) == 2


@pytest.mark.parametrize("stranger, alert", [({"ca": "strange"}, "UNKNOWN_CA"), ({"days": -1}, "CERTIFICATE_EXPIRED")])
@pytest.mark.parametrize("client", ["required", "optional"])
def test_a_client_certificate_must_be_good(secure, certs, stranger, alert, client):
    server = secure(ca=certs.ca(), client=client, server={"log_level": "debug"})
    assert alert in refused(server, certs.context(client=certs.pair("mallory", **stranger)))
    server.wait_log(r"debug .*TLS.*(self-signed certificate|unable to get|certificate has expired)")


def test_a_client_certificate_may_be_optional(secure, certs):
    server = secure(ca=certs.ca(), client="optional")
    with server.secure(certs.context()) as client:
        assert not facts_of(client)["has_client"]
    with server.secure(certs.context(client=certs.pair("alice"))) as client:
        assert facts_of(client)["tls"]["client"]["subject"] == "CN=alice,O=Tests"


def test_clients_are_told_whose_certificates_are_good(secure, certs):
    said = s_client(secure(ca=certs.ca(), client="optional"))
    assert "Acceptable client certificate CA names\nO = Tests, CN = ca" in said


# ---- req.tls ----

def test_a_websocket_knows_what_was_agreed_on_also_after_a_reload(secure, certs):
    server = secure(ca=certs.ca())
    with server.secure(certs.context(client=certs.pair("alice")), "/facts") as client:
        facts = json.loads(client.text())
        assert facts["tls"]["client"]["subject"] == "CN=alice,O=Tests"
        assert facts["tls"]["server_name"] == "localhost"
        assert server.reload()
        assert json.loads(client.text()) == facts  # it has moved
        client.send_frame(1, "again")
        assert json.loads(client.text()) == facts


def test_a_plain_connection_has_no_tls(serve):
    with serve(FACTS).raw() as client:
        assert get(client).body == "plain"


# ---- other protocols on the port ----

def test_plain_http_on_a_tls_port_ends_and_disturbs_nobody(secure, certs):
    server = secure()
    with server.secure(certs.context(), "/facts") as other:
        facts = other.text()
        with server.raw() as client:
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            client.expect_end()
        server.wait_metric('tidewire_tls_handshakes_total{outcome="failed"}', 1)
        other.send_frame(1, "still there?")
        assert other.text() == facts


def test_tls_on_a_plain_port_is_told_so(serve):
    server = serve(FACTS)
    with server.raw() as other:
        with pytest.raises(ssl.SSLError):
            context = ssl.create_default_context()
            context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), PATIENCE), server_hostname="a")
        assert get(other).body == "plain"
    assert server.metrics()['tidewire_http_responses_total{class="4xx"}'] == 1


def test_renegotiation_is_refused(secure):
    said = s_client(secure(), "-tls1_2", stdin=b"R\n")
    assert "RENEGOTIATING" in said and "no renegotiation" in said, said


@pytest.mark.parametrize("command", [b"k", b"K"])
def test_keys_may_be_updated(secure, command):
    server = secure()
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as client:
        for _ in range(2):
            client.stdin.write(command + b"\n")
            while b"KEYUPDATE" not in (line := client.stderr.readline()):
                assert line, "it ended before"
        client.stdin.write(b"GET /facts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in client.stdout.read()
