-- SPDX-License-Identifier: MIT
-- What bench.py measures of Tidewire: echo, publishing, a handler that computes, short HTTP answers.

-- No limit drops what a slow reader makes wait, as in the scripts of the others.
local opts = {send_limit = "1g", max_message = "64m"}

app.websocket("echo", opts, function(ws)
  ws:on_text(function(_, text) ws:send(text) end)
  ws:on_binary(function(_, bytes) ws:send_binary(bytes) end)
end)

app.websocket("others", opts, function(ws)
  ws:subscribe("room")
  ws:on_text(function(self, text) self:publish("room", text) end)
end)

app.websocket("all", opts, function(ws)
  ws:subscribe("room")
  ws:on_text(function(_, text) app.publish("room", text) end)
end)

-- Costs so much that the load generator is not the limit, even when it shares the processors with the server.
app.websocket("compute", opts, function(ws)
  ws:on_text(function(_, text)
    local sum = 0
    for i = 1, 10000 do sum = sum + i % 7 end
    if sum > 0 then ws:send(text) end
  end)
end)

app.get("text", function() return "Hello, world!" end)
app.get("json", function() return {message = "Hello, world!", number = 1} end)
app.get("param/:name", function(req) return "Hello, " .. req.params.name .. req.query.mark end)
