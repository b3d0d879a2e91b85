# SPDX-License-Identifier: MIT
"""Clients that people really use: node's ws, and Chromium's own WebSocket."""
import http.server
import os
import subprocess
import threading

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from conftest import PATIENCE, ROOT

TALK_BACK = (ROOT / "lua/examples/talk-back.lua").read_text(encoding="utf-8")

NODE_CLIENT = """
const WebSocket = require('ws');
const ws = new WebSocket(process.argv[1]);
ws.on('open', () => ws.send('HELLO'));
ws.on('message', (data) => { console.log(String(data)); ws.close(1000, 'done'); });
ws.on('close', (code) => console.log('closed ' + code));
ws.on('error', (e) => { console.log('error ' + e.message); process.exit(1); });
"""

# Runs in the page: the whole conversation, then how it ended.
BROWSER_CLIENT = """
const done = arguments[arguments.length - 1];
const got = [];
const ws = new WebSocket(arguments[0]);
ws.binaryType = 'arraybuffer';
ws.onopen = () => { ws.send('hello'); ws.send('good bye'); ws.send('hello'); };
ws.onmessage = (event) => { got.push(event.data); if (got.length === 2) ws.close(1000, 'done'); };
ws.onclose = (event) => done({messages: got, code: event.code, clean: event.wasClean});
"""

BROWSER_ECHO = """
const done = arguments[arguments.length - 1];
const sizes = arguments[1];
const ws = new WebSocket(arguments[0]);
ws.binaryType = 'arraybuffer';
const sent = sizes.map((n) => Uint8Array.from({length: n}, (_, i) => (i * 31 + n) & 255));
const wrong = [];
let at = 0;
ws.onopen = () => sent.forEach((bytes) => ws.send(bytes));
ws.onmessage = (event) => {
  const back = new Uint8Array(event.data);
  if (back.length !== sent[at].length || back.some((b, i) => b !== sent[at][i])) wrong.push(sizes[at]);
  if (++at === sent.length) ws.close();
};
ws.onclose = (event) => done({answers: at, wrong: wrong, code: event.code});
"""


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>client</title>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def page():
    """A page on loopback: Chromium lets only such a page talk to loopback."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def open_browser(folder, page, *flags):
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--disable-dev-shm-usage", f"--user-data-dir={folder}", *flags):
        options.add_argument(flag)
    driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
    driver.set_script_timeout(PATIENCE)
    driver.get(page)
    return driver


@pytest.fixture(scope="module")
def browser(tmp_path_factory, page):
    driver = open_browser(tmp_path_factory.mktemp("chromium"), page)
    yield driver
    driver.quit()


def test_node_ws(serve):
    server = serve(TALK_BACK)
    env = {**os.environ, "NODE_PATH": "/usr/share/nodejs"}
    client = subprocess.run(["node", "-e", NODE_CLIENT, server.url("/talk-back")], env=env, text=True,
                            capture_output=True, timeout=PATIENCE, check=False)
    assert client.stdout == "Is it me you're looking for...?\nclosed 1000\n", client.stderr


def test_chromium(serve, browser, page):
    server = serve(TALK_BACK, origins=page.rstrip("/"))
    answer = "Is it me you're looking for...?"
    ended = browser.execute_async_script(BROWSER_CLIENT, server.url("/talk-back"))
    assert ended == {"messages": [answer, answer], "code": 1000, "clean": True}


def test_chromium_from_a_strange_page(serve, browser):
    server = serve(TALK_BACK)
    ended = browser.execute_async_script(BROWSER_CLIENT, server.url("/talk-back"))
    assert ended == {"messages": [], "code": 1006, "clean": False}
    server.wait_log(r'refused a page of origin "http://127\.0\.0\.1:\d+"')


def test_chromium_binary_sizes(serve, browser):
    server = serve('app.websocket("echo", {origins = "*"}, function(ws) '
                   'ws:on_binary(function(ws, b) ws:send_binary(b) end) end)')
    sizes = [0, 1, 125, 126, 4096, 65535, 65536, 1000000]
    ended = browser.execute_async_script(BROWSER_ECHO, server.url("/echo"), sizes)
    assert ended == {"answers": len(sizes), "wrong": [], "code": 1005}
