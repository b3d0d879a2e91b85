# SPDX-License-Identifier: MIT
"""What the tests of live connections that move to new code share (test_migration*.py)."""
from conftest import TEXT

MOVED = 'tidewire_migrations_total{outcome="moved"}'
FAILED = 'tidewire_migrations_total{outcome="failed"}'
TAKEN = 'tidewire_reloads_total{outcome="ok"}'
REFUSED = 'tidewire_reloads_total{outcome="refused"}'
ROLLED_BACK = 'tidewire_reloads_total{outcome="rolled_back"}'

# A client sends Lua code, in which `ws` and `req` are its own, and is told the results, or "error: " and the error.
# What waits for a key of app.shared is woken by whichever code sets it.
TOOLS = """
function pass(key) while not app.shared.get(key) do app.sleep(0.001) end end
function open(key) app.shared.set(key, true) end
function spin(seconds) local till = os.clock() + seconds repeat until os.clock() > till end
function exists(path) local f = io.open(path) if f then f:close() end return f ~= nil end
function run(ws, req, text)
  local results = table.pack(pcall(assert(load("local ws, req = ... " .. text, "=code")), ws, req))
  for i = 1, results.n do results[i] = tostring(results[i]) end
  results[1] = results[1] == "false" and "error:" or nil
  return table.concat(results, " ", results[1] and 1 or 2, results.n)
end
"""


def code(name, arrive="", before="", path="/run", options=""):
    """A script called `name`. `arrive` runs for each connection that it accepts or takes over."""
    return TOOLS + f"""
NAME = "{name}"
{before}
app.websocket("{path}", {{{options}}}, function(ws, req)
  {arrive}
  ws:on_text(function(ws, text) ws:send(run(ws, req, text)) end)
  ws:on_close(function(ws, code) log.info("closed in " .. NAME, app.generation, code) end)
end)
"""


def tell(client, text):
    client.send_frame(TEXT, text)


def ask(client, text):
    tell(client, text)
    return client.text()


def served_by(client):
    """Which code handles the client's next message: "two 2" or the like."""
    return ask(client, "return NAME, ws.generation")


def move(server, text, expected):
    """Reloads and waits until so many connections have moved, since the start."""
    assert server.reload(text), server.log
    server.wait_metric(MOVED, expected)


def on_each_worker(server, workers, path="/run"):
    """A client on each worker, by its number."""
    found, rest = {}, []
    while len(found) < workers:
        client = server.raw(path)
        worker = int(ask(client, "return app.worker"))
        rest.append(client)  # those that are open make the others go elsewhere
        found.setdefault(worker, client)
        assert len(rest) < 1000, f"only the workers {sorted(found)} get connections"
    for client in rest:
        if client not in found.values():
            client.close()
    server.wait_metric("tidewire_websockets", workers)
    return [found[worker] for worker in sorted(found)]
