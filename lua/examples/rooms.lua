-- SPDX-License-Identifier: MIT
-- A chat with rooms, in any number of workers: ws://127.0.0.1:8080/rooms/tea?name=Ann
-- From outside: curl -d "Closing in ten minutes." http://127.0.0.1:8080/rooms/tea

app.websocket("rooms/:room", {max_message = "4k"}, function(ws, req)
  local topic = "room:" .. req.params.room:sub(1, 50)
  local name = req.query.name or "somebody"
  if not ws.migrated then -- after a reload it is subscribed, and has been greeted
    ws:subscribe(topic)
    ws:send(app.subscribers(topic) .. " in here")
    ws:publish(topic, name .. " has come") -- to all others
  end
  ws:on_text(function(_, text) app.publish(topic, name .. ": " .. text) end) -- to all
  ws:on_close(function() app.publish(topic, name .. " has gone") end)
end)

app.post("rooms/:room", {max_body = "4k"}, function(req)
  local published, why = app.publish("room:" .. req.params.room:sub(1, 50), req.body)
  if not published then return 400, why .. "\n" end
  return 204
end)
