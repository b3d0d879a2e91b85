# SPDX-License-Identifier: MIT
"""Listeners with TLS at start: what is wrong with certificates and keys is said, and the configuration file's table."""
import json
import ssl

import pytest

from conftest import run

SCRIPT = 'app.get("/", function(req) return req.tls and json.encode(req.tls) or "plain" end)'


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "main.lua"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


@pytest.fixture
def files(certs, tmp_path):
    """Good and bad files by name."""
    good = certs.pair()
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(good.cert.read_bytes()[:300])
    return {"cert": good.cert, "key": good.key, "other": certs.pair("other").key, "rsa": certs.pair(kind="rsa").key,
            "encrypted": certs.encrypted_key(), "missing": tmp_path / "missing", "empty": tmp_path / "empty",
            "cut": tmp_path / "cut", "ca": certs.ca(), "folder": tmp_path}


def get(server, context):
    with server.secure(context) as client:
        return client.request("GET / HTTP/1.1\nHost: a\n\n")


# ---- faults ----

FAULTS = [
    ("cert={missing}&key={key}", "certificate {missing}: No such file or directory"),
    ("cert={cert}&key={missing}", "key {missing}: No such file or directory"),
    ("cert={cert}&key={key}&ca={missing}", "ca {missing}: No such file or directory"),
    ("cert={empty}&key={key}", "certificate {empty}: there is none in it that is whole and in PEM form"),
    ("cert={cut}&key={key}", "certificate {cut}: there is none in it that is whole and in PEM form"),
    ("cert={key}&key={key}", "certificate {key}: there is none in it that is whole and in PEM form"),
    ("cert={folder}&key={key}", "certificate {folder}: "),
    ("cert={cert}&key={empty}", "key {empty}: there is none in it that is whole and in PEM form"),
    ("cert={cert}&key={cert}", "key {cert}: there is none in it that is whole and in PEM form"),
    ("cert={cert}&key={other}", "key {other}: it is not the key of the certificate {cert}"),
    ("cert={cert}&key={rsa}", "key {rsa}: it is not the key of the certificate {cert}"),
    ("cert={cert}&key={encrypted}", "key {encrypted}: it is behind a password; take that off: openssl pkey"),
    ("cert={cert}&key={key}&ca={key}", "ca {key}: no certificate or crl found"),
    ("cert={cert}&key={key}&cert={cert}&key={other}", "key {other}: it is not the key of the certificate {cert}"),
    ("cert={cert}&key={key}&client=required", "client= needs to know who signs clients' certificates: ca=FILE"),
    ("cert={cert}", "the certificate {cert} has no key"),
]


@pytest.mark.parametrize("command", ["run", "check"])
@pytest.mark.parametrize("options, said", FAULTS)
def test_what_is_wrong_with_a_file_is_said(script, files, command, options, said):
    spec = f"tls:127.0.0.1:0?{options.format(**files)}"
    done = run(command, script, env={"listen": spec})
    assert done.returncode == 2
    assert f'listen "{spec}": {said.format(**files)}' in done.stderr
    assert "listening" not in done.stderr


def test_an_expired_certificate_is_warned_of_once_and_served(serve, certs):
    old = certs.expired()
    server = serve(SCRIPT, listen=certs.spec(old))
    assert server.log.count(f"certificate {old.cert}: it has expired, clients will refuse it") == 1
    context = certs.context()
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        server.secure(context)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    assert get(server, context).status == 200


# ---- the configuration file ----

@pytest.fixture
def conf_server(serve, tmp_path):
    """A server with this listener in its configuration file, which lies beside copies of the pairs: c1.pem, k1.pem ..."""
    folder = tmp_path / "conf"
    folder.mkdir()

    def start(listener, *pairs, more=""):
        for i, pair in enumerate(pairs, 1):
            (folder / f"c{i}.pem").write_bytes(pair.cert.read_bytes())
            (folder / f"k{i}.pem").write_bytes(pair.key.read_bytes())
        conf = folder / "tidewire.conf.lua"
        conf.write_text(f"return {{ listen = {{ {listener} }}{more} }}\n", encoding="utf-8")
        return serve(SCRIPT, "-c", conf, listen=None)
    return start


def test_a_table_with_one_certificate_whose_path_begins_at_the_file(certs, conf_server):
    server = conf_server('{ address = "127.0.0.1:0", tls = { cert = "c1.pem", key = "k1.pem" } }', certs.pair())
    assert json.loads(get(server, certs.context()).body)["version"] == "TLSv1.3"
    server.wait_log(r"listening on 127\.0\.0\.1:\d+ \(TLS\)")


def test_a_table_with_several_certificates_and_all_options(certs, conf_server):
    server = conf_server('''{ address = "127.0.0.1:0", tls = {
        { cert = "c1.pem", key = "k1.pem" }, { cert = "c2.pem", key = "k2.pem" },
        ca = "%s", client = "optional", min = "1.3" } }''' % certs.ca(), certs.pair("a.example"), certs.pair("b.example"))
    context = certs.context(client=certs.pair("alice"))
    for name in ("a.example", "b.example"):
        with server.secure(context, name=name) as client:
            tls = json.loads(client.request("GET / HTTP/1.1\nHost: a\n\n").body)
            assert tls["client"]["subject"] == "CN=alice,O=Tests"
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        server.secure(certs.context(version=ssl.TLSVersion.TLSv1_2), name="a.example")


def test_a_table_without_tls_is_plain(conf_server):
    with conf_server('{ address = "127.0.0.1:0" }').raw() as client:
        assert client.request("GET / HTTP/1.1\nHost: a\n\n").body == "plain"


def test_a_table_with_proxy(certs, conf_server):
    server = conf_server('{ address = "127.0.0.1:0", proxy = true, tls = { cert = "c1.pem", key = "k1.pem" } }', certs.pair(),
                         more=', trusted_proxies = "loopback"')
    with server.raw() as client:
        client.send("GET / HTTP/1.1\r\n\r\n")
        server.wait_log("should begin with the PROXY protocol does not")


MISUSES = [
    ("{ }", "listen: a table needs an address"),
    ("{ address = 8080 }", "listen: address is a number, not a string"),
    ('{ address = "a:1", tsl = {} }', "listen: unknown key tsl; there are address, proxy and tls"),
    ('{ address = "a:1", [true] = 1 }', "listen: unknown key true; there are address, proxy and tls"),
    ('{ address = "a:1", proxy = "no" }', "listen: proxy is a string, not true or false"),
    ('{ address = "a:1", tls = true }', "listen: tls is a boolean, not { cert = FILE, key = FILE }"),
    ('{ address = "a:1", tls = {} }', "listen: tls: a certificate is { cert = FILE, key = FILE }"),
    ('{ address = "a:1", tls = { cert = "c" } }', "listen: tls: a certificate is { cert = FILE, key = FILE }"),
    ('{ address = "a:1", tls = { key = "c" } }', "listen: tls: a certificate is { cert = FILE, key = FILE }"),
    ('{ address = "a:1", tls = { cert = "c", key = 1 } }', "listen: tls: key is a number, not a string"),
    ('{ address = "a:1", tls = { cert = "c", key = "k&x" } }', 'listen: tls: key: "k&x" cannot have ? or & in it'),
    ('{ address = "a:1", tls = { cert = "c", key = "k", kee = "k" } }',
     "listen: tls: unknown key kee; there are cert, key, ca, client and min"),
    ('{ address = "a:1", tls = { "c" } }', "listen: tls: unknown key 1; there are cert, key, ca, client and min"),
    ('{ address = "a:1", tls = { { cert = "c" } } }', "listen: tls: a certificate is { cert = FILE, key = FILE }"),
    ('{ address = "a:1", tls = { { cert = "c", key = "k", ca = "a" } } }', "listen: tls: unknown key ca; there are cert and key"),
    ('{ address = "a:1", tls = { { cert = "c", key = "k" }, cert = "d", key = "e" } }',
     "listen: tls: with several certificates each is an element"),
    ('{ address = "127.0.0.1:0", tls = { cert = "c", key = "k", client = "required" } }', "client= needs to know who signs"),
    ('{ address = "127.0.0.1:0", tls = { cert = "c", key = "k" } }', "certificate FOLDER/c: No such file or directory"),
    ('{ address = "127.0.0.1:0", tls = { cert = "/none/c", key = "k" } }', "certificate /none/c: No such file or directory"),
]


@pytest.mark.parametrize("listener, said", MISUSES)
def test_what_is_wrong_with_a_table_is_said(script, tmp_path, listener, said):
    conf = tmp_path / "tidewire.conf.lua"
    conf.write_text(f"return {{ listen = {{ {listener} }} }}\n", encoding="utf-8")
    done = run(script)
    assert done.returncode == 2
    assert said.replace("FOLDER", str(tmp_path)) in done.stderr
