-- SPDX-License-Identifier: MIT
-- The smallest server that talks back: `make run`, then say hello on ws://127.0.0.1:8080/talk-back.

app.websocket("talk-back", function(ws)
  ws:on_text(function(ws, text)
    if text:lower() == "hello" then
      ws:send("Is it me you're looking for...?")
    end
  end)
end)
