-- SPDX-License-Identifier: MIT
-- Only for those who have a token: ws://127.0.0.1:8080/chat?token=tea is let in, without a token it is 401.

local users = {tea = "Ann", milk = "Bob"} -- in earnest they come from elsewhere

local function should_upgrade(req)
  local user = users[req.query.token]
  if not user then
    app.sleep(1) -- makes guessing slow; no other connection waits for it
    return false, 401, "Say who you are: /chat?token=...\n", {["WWW-Authenticate"] = "Bearer"}
  end
  req.context.user = user -- for the function below
  return true
end

app.websocket("chat", {should_upgrade = should_upgrade, max_message = "4k"}, function(ws, req)
  local user = req.context.user
  ws:send("welcome, " .. user)
  ws:on_text(function(_, text) ws:send(user .. ": " .. text) end)
end)
