# SPDX-License-Identifier: MIT
"""app.connect where things go wrong together: no memory, metamethods in the options, old code whose time is over, many
attempts at once."""
import struct

import pytest

from conftest import CLOSE, TEXT
from upstream import CLIENTS, DIAL, Upstream

# Two visitors: one whose handler dials deep down in a recursion, one whose handler takes all the memory there is.
LOW_MEMORY = """
local keep = false
local function add(n) keep = {keep, ("x"):rep(n)} end
local function node() keep = {keep} end
local function nodes() while pcall(node) do end end
local function fill()
  collectgarbage()
  for _, size in ipairs{1000000, 300000, 100000, 30000, 10000, 3000, 1000, 500, 300, 200, 100, 60} do
    local n = 0
    while pcall(add, size + n % 97) do n = n + 1 end
  end
  nodes()
end
local nop = function() end
local function deep(n)
  if n > 0 then local r = deep(n - 1) return r end
  local r = app.connect("URL", {}, nop)
  return r
end
app.websocket("/dial", function(ws) ws:on_text(function(_, text) deep(tonumber(text)) end) end)
app.websocket("/fill", function(ws)
  ws:on_text(function(_, text)
    if text == "all" then fill() else for _ = 1, 3 do nodes() end end
    ws:send(text)
  end)
end)
"""


@pytest.fixture
def upstream():
    u = Upstream()
    yield u
    u.close()


@pytest.mark.parametrize("depth", [9, 26, 59, 127, 261])
def test_an_attempt_is_given_up_also_when_there_is_no_memory_to_close_anything(serve, upstream, depth):
    server = serve(LOW_MEMORY.replace("URL", upstream.url), vm_memory="6m", handler_budget="60s")
    visitor = server.raw("/dial")
    visitor.send_frame(TEXT, str(depth))
    attempt = upstream.accept().ask()
    with server.raw("/fill") as other:
        for text in ["all"] + ["again"] * 5:
            other.send_frame(TEXT, text)
            if other.frame()[0] == CLOSE:  # 1011: there was no memory left for this handler itself
                break
        visitor.close()
        server.wait_metric("tidewire_tasks", 0)
        server.wait_metric(CLIENTS, 0)
        attempt.expect_end()


def test_options_are_taken_as_they_stand_in_their_tables(serve, upstream):
    server = serve(DIAL + """
local options = {headers = {["X-Long"] = ("v"):rep(5000)}}
options.protocols = setmetatable({"chat"}, {
  __len = function() error("asked for the length") end,
  __index = function() options.headers = nil collectgarbage() error("asked for an element") end,
})
app.spawn(function() log.info("dials", dial("%s", options)) end)
""" % upstream.url)
    peer = upstream.accept().ask()
    assert peer.field("sec-websocket-protocol") == "chat"
    assert peer.field("x-long") == "v" * 5000
    peer.switch("Sec-WebSocket-Protocol: chat")
    server.wait_log("dials open")


def test_metamethods_of_a_routes_options_cannot_register_routes(serve):
    server = serve("""
for i = 1, 63 do app.get("/r" .. i, function() return "" end) end
local n = 0
app.websocket("/x", {protocols = setmetatable({"chat"}, {
  __len = function() return 2 end,
  __index = function()
    for _ = 1, 200 do n = n + 1 app.get("/q" .. n, function() return "" end) end
    return "more"
  end,
})}, function(ws) ws:send(ws.protocol .. " " .. n) end)
""")
    with server.raw("/x", sec_websocket_protocol="more, chat") as client:
        assert client.text() == "chat 0"


RECONNECTS = DIAL + """
app.on_start(function()
  if app.generation > 1 then return end
  local function again(name, url)
    local ws, why = app.connect(url, function(ws)
      ws:on_close(function(_, code) log.info(name, "lost", code) again(name, url) end)
    end)
    log.info(name, ws and "open" or why)
  end
  app.spawn(again, "A", "URL_A")
  app.spawn(again, "B", "URL_B")
end)
"""


def test_code_whose_time_is_over_opens_nothing_more(serve):
    a, b = Upstream(), Upstream()
    script = RECONNECTS.replace("URL_A", a.url).replace("URL_B", b.url)
    server = serve(script, reload_drain="100ms", close_timeout="60s")
    first, second = a.open(), b.open()
    server.wait_log("A open")
    server.wait_log("B open")
    assert server.reload(script)
    for peer in first, second:
        assert peer.frame()[:2] == (CLOSE, struct.pack(">H", 1012) + b"reloaded")
    first.send_frame(CLOSE, struct.pack(">H", 1012))  # its on_close connects again, while the second one still closes
    first.close()
    server.wait_log("A lost 1012")
    server.wait_log("A reloaded")
    second.send_frame(CLOSE, struct.pack(">H", 1012))
    second.close()
    server.wait_metric(CLIENTS, 0)
    server.wait_metric("tidewire_tasks", 0)
    a.close()
    b.close()


def test_attempts_under_way_count_towards_compression_limit(serve, upstream):
    limit, attempts = 1 << 20, 60
    server = serve(DIAL + f"""
for _ = 1, {attempts} do
  app.spawn(function() app.connect("{upstream.url}", {{compression = true}}, function() end) end)
end
""", compression_limit="1m", compression_window=15, workers=1)
    peers = [upstream.accept().ask() for _ in range(attempts)]
    offers = [peer.field("sec-websocket-extensions") for peer in peers]
    assert 0 < server.metrics()["tidewire_compression_bytes"] <= limit
    assert 0 < sum("no_context_takeover" not in offer for offer in offers) <= 3
    for peer, offer in zip(peers, offers):
        parts = [p for p in offer.split("; ") if "window" not in p]
        peer.switch("Sec-WebSocket-Extensions: " + "; ".join(parts))
    server.wait_metric('tidewire_client_connects_total{outcome="ok"}', attempts)
    assert server.metrics()["tidewire_compression_bytes"] <= limit
    for peer in peers:
        peer.close()
    server.wait_metric(CLIENTS, 0)
    server.wait_metric("tidewire_compression_bytes", 0)
