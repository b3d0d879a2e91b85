-- SPDX-License-Identifier: MIT
-- Connects each visitor of ws://127.0.0.1:8080/relay to another WebSocket server; passes on what either
-- says. A reload ends every pair: the other end stays with the code that opened it.

local upstream = "ws://127.0.0.1:9000/" -- never one that a visitor chooses

-- Who takes slowly slows the other down: messages wait for the handler, and then reading pauses.
local function pass(to, send, data)
  local sent = to.buffered > 100000 and app.promise() or nil
  send(to, data, sent)
  if sent then sent:await() end
end

local function pipe(from, to)
  from:on_text(function(_, text) pass(to, to.send, text) end)
  from:on_binary(function(_, bytes) pass(to, to.send_binary, bytes) end)
  from:on_close(function(_, code, reason)
    local sendable = pcall(to.close, to, code, reason) -- 1005 stands for no code, 1006 for no Close
    if not sendable then to:close(code == 1005 and 1000 or 1011) end
  end)
end

app.websocket("relay", function(visitor)
  if visitor.migrated then -- a reload: the old code, which has the other end, closes both
    if not (visitor.state.server and app.close(visitor.state.server, 1012)) then visitor:close(1012) end
    return
  end
  -- What the visitor says meanwhile waits; when it leaves, the attempt is given up.
  local server, why = app.connect(upstream, {timeout = 5}, function(server)
    visitor.state.server = server.id
    pipe(server, visitor)
    pipe(visitor, server)
  end)
  if not server then
    log.warn("upstream: " .. why)
    visitor:close(1013, "try again later")
  end
end)
