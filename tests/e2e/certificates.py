# SPDX-License-Identifier: MIT
"""Certificates for one run of the tests, made with the openssl command when they are first asked for, and clients'
contexts that believe them. No key is kept anywhere else."""
import socket
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

KEYS = {"ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"), "rsa": ("rsa:2048",)}


class Pair(NamedTuple):
    cert: Path
    key: Path


class TlsSocket(ssl.SSLSocket):
    def shutdown(self, how):
        """The TCP connection's side ends; TLS goes on as far as it can. Python's own would read on without TLS."""
        socket.socket.shutdown(self, how)


class Certificates:
    def __init__(self, folder):
        self.folder = folder
        self._made = {}

    def _openssl(self, *args):
        subprocess.run(["openssl", *map(str, args)], cwd=self.folder, check=True, capture_output=True)

    def path(self, name):
        return self.folder / name

    def ca(self, name="ca"):
        """A certificate that signs others: "ca" is believed by context()."""
        if name not in self._made:
            self._openssl("req", "-x509", "-newkey", *KEYS["ec"], "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem",
                          "-subj", f"/O=Tests/CN={name}", "-days", 2)
            self._made[name] = Pair(self.path(f"{name}.pem"), self.path(f"{name}.key"))
        return self._made[name].cert

    def pair(self, *names, kind="ec", ca="ca", days=2):
        """A certificate for these names, the first of them its subject's, and its key. Without names: localhost."""
        names = names or ("localhost",)
        made = (names, kind, ca, days)
        if made not in self._made:
            self.ca(ca)
            stem = f"pair{len(self._made)}"
            subject = names[0].replace("*", "any")
            extra = self.path(f"{stem}.ext")
            extra.write_text("subjectAltName=" + ",".join([f"DNS:{n}" for n in names] + ["IP:127.0.0.1"]), encoding="ascii")
            self._openssl("req", "-new", "-newkey", *KEYS[kind], "-nodes", "-keyout", f"{stem}.key", "-out", f"{stem}.csr",
                          "-subj", f"/O=Tests/CN={subject}")
            self._openssl("x509", "-req", "-in", f"{stem}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                          "-out", f"{stem}.pem", "-days", days, "-extfile", extra)
            self._made[made] = Pair(self.path(f"{stem}.pem"), self.path(f"{stem}.key"))
        return self._made[made]

    def expired(self):
        return self.pair("localhost", days=-1)

    def encrypted_key(self):
        """The key of pair() behind a password."""
        self._openssl("ec", "-in", self.pair().key, "-aes256", "-passout", "pass:secret", "-out", "encrypted.key")
        return self.path("encrypted.key")

    def spec(self, *pairs, address="127.0.0.1:0", **options):
        """What --listen takes; without pairs with that of localhost."""
        parts = [f"cert={p.cert}&key={p.key}" for p in pairs or (self.pair(),)]
        parts += [f"{name}={value}" for name, value in options.items()]
        return f"tls:{address}?{'&'.join(parts)}"

    def context(self, client=None, alpn=None, version=None):
        """A client's: believes our CA, has the client certificate `client`, speaks `version` only."""
        context = ssl.create_default_context(cafile=self.ca())
        context.sslsocket_class = TlsSocket
        if client is not None:
            context.load_cert_chain(*client)
        if alpn is not None:
            context.set_alpn_protocols(alpn)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context
