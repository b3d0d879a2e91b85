-- SPDX-License-Identifier: MIT
-- Answers that HTTP handlers often give: `local http = require "tidewire.http"`.
-- Functions that answer are for `return http.html(...)`: they give status, body and headers.

local _, core = ... -- what is better done in C
local http = {}

-- What a file is, by the end of its name.
local types = {
  css = "text/css; charset=utf-8", gif = "image/gif", html = "text/html; charset=utf-8", ico = "image/x-icon",
  jpeg = "image/jpeg", jpg = "image/jpeg", js = "text/javascript; charset=utf-8", json = "application/json",
  mjs = "text/javascript; charset=utf-8", pdf = "application/pdf", png = "image/png", svg = "image/svg+xml",
  txt = "text/plain; charset=utf-8", wasm = "application/wasm", webp = "image/webp", woff2 = "font/woff2",
  xml = "application/xml",
}

local entities = {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;"}

--- Text as it can stand in HTML, also within an attribute's quotes.
function http.escape(text)
  return (tostring(text):gsub("[&<>\"']", entities))
end

--- A page. `status` is 200 when left out.
function http.html(page, status)
  return status or 200, page, {["Content-Type"] = "text/html; charset=utf-8"}
end

--- Sends the client elsewhere. `status` is 302 when left out.
function http.redirect(location, status)
  status = status or 302
  if type(location) ~= "string" or location == "" then
    error("http.redirect: the location is a " .. type(location) .. ", not a text with something in it", 2)
  end
  if status < 300 or status > 308 or status == 304 then
    error("http.redirect: " .. tostring(status) .. " is not a status that sends elsewhere", 2)
  end
  return status, "", {Location = location}
end

--- A file as it is now, or 404. `content_type` is told from the end of its name when left out.
function http.file(path, content_type)
  for part in path:gmatch("[^/]+") do
    if part == ".." then return 404 end -- it may come from a client
  end
  local file = not path:find("\0", 1, true) and io.open(path, "rb") -- a zero byte would hide what follows it
  local data = file and file:read("a") -- nil for a folder
  if file then file:close() end
  if not data then return 404 end
  local ending = path:match("%.(%w+)$")
  content_type = content_type or types[ending and ending:lower()] or "application/octet-stream"
  return 200, data, {["Content-Type"] = content_type}
end

--- The value of a Set-Cookie header: `headers["Set-Cookie"] = http.cookie("id", "42", {http_only = true})`.
-- Options: path, domain, max_age and expires (seconds; 0 deletes the cookie), secure, http_only,
-- same_site ("lax", "strict", "none").
http.cookie = core.cookie

return http
