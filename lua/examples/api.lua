-- SPDX-License-Identifier: MIT
-- Notes as JSON, and a WebSocket that tells of new ones, for those who have a token:
--   curl -H "Authorization: Bearer tea" http://127.0.0.1:8080/api/notes -d '{"text": "buy milk"}'
--   curl -H "Authorization: Bearer tea" http://127.0.0.1:8080/api/notes
--   ws://127.0.0.1:8080/api/live?token=milk

local users = {tea = "Ann", milk = "Bob"} -- in earnest they come from elsewhere
local notes, last = {}, 0 -- by number; each worker has its own
local watchers = {}

-- Around all that is in the group. A browser sets no headers for a WebSocket: there the query has the token.
local function only_users(req, next)
  local token = (req.headers.authorization or ""):match("^Bearer (.+)$") or req.query.token
  local user = users[token]
  if not user then
    return 401, {error = "a token is needed"}, {["WWW-Authenticate"] = "Bearer"}
  end
  req.context.user = user
  return next(req)
end

app.group("api", only_users, function(api)
  api.get("notes", function()
    local list = json.array()
    for id = 1, last do list[#list + 1] = notes[id] end
    return list
  end)

  api.post("notes", {max_body = "4k"}, function(req)
    local note, why = req:json()
    if type(note) ~= "table" or type(note.text) ~= "string" then
      return 400, {error = why or "a note is an object with a text"}
    end
    last = last + 1
    notes[last] = {id = last, text = note.text, by = req.context.user}
    for ws in pairs(watchers) do ws:send(json.encode(notes[last])) end
    return 201, notes[last], {Location = "/api/notes/" .. last}
  end)

  api.get("notes/:id", function(req)
    return notes[tonumber(req.params.id)] or 404
  end)

  api.delete("notes/:id", function(req)
    local id = tonumber(req.params.id)
    if not notes[id] then return 404 end
    notes[id] = nil
    return 204
  end)

  api.websocket("live", function(ws)
    watchers[ws] = true
    ws:on_close(function() watchers[ws] = nil end)
  end)
end)
