-- SPDX-License-Identifier: MIT
-- One timer for many connections: everybody on ws://127.0.0.1:8080/clock is told the time once a second.

local watchers = {}

app.every(1, function()
  local now = os.date("!%H:%M:%S")
  for ws in pairs(watchers) do ws:send(now) end
end)

-- Whoever reads too slowly misses a second rather than the connection.
app.websocket("clock", {on_slow = "drop"}, function(ws)
  watchers[ws] = true
  ws:on_close(function() watchers[ws] = nil end)
end)
