---@meta
-- SPDX-License-Identifier: MIT
-- What Tidewire gives to scripts, for lua-language-server; lua/README.md has the whole story.

---Routes, and where this code runs. It belongs to the server: its fields cannot be set.
---@class tidewire.app
---@field worker integer the number of the worker this code runs in, from 1
---@field workers integer how many workers there are; each has its own Lua state
---@field generation integer the version of the code, from 1; a reload that is taken adds one
app = {}

---Registers a WebSocket route; only while the script loads.
---
---Components of the path: a constant, `:name` (one component, in `req.params.name`), `*` (one component) and, at the end,
---`**` (all the rest, at least one). The most specific match wins. The same path twice is an error.
---
---    app.websocket("chat/:room", function(ws, req)
---      ws:on_text(function(ws, text) ws:send(req.params.room .. ": " .. text) end)
---    end)
---@param path string
---@param handler fun(ws: tidewire.ws, req: tidewire.req) runs once for each connection, before its messages are read
function app.websocket(path, handler) end

---Sends to the WebSocket with that `ws.id`, whichever worker holds it; not while the script loads.
---
---For a connection of another worker `true` means that the message has been handed over.
---@param id integer
---@param data string|number text must be UTF-8
---@param options { binary: boolean? }? `{binary = true}` sends it as a binary message
---@return true? sent nil when it was not
---@return nil|"closed"|"queue full"|"not UTF-8" why
function app.send(id, data, options) end

---Starts the close handshake of the WebSocket with that `ws.id`, whichever worker holds it; not while the script loads.
---
---For a connection of another worker `true` means that this has been handed over.
---@param id integer
---@param code integer? default 1000; 1000 to 1003, 1007 to 1009, 1011 to 1013 or 3000 to 4999, others raise
---@param reason string? UTF-8, up to 123 bytes
---@return true? closing nil when it is not
---@return nil|"closed"|"queue full" why
function app.close(id, code, reason) end

---One WebSocket connection. It may be kept for longer than the connection lives.
---@class tidewire.ws
---@field id integer no other connection of this server process has or had it
---@field state table for what belongs to this connection; made when first used, readable after the close
---@field params table<string, string>? what the route captured, as in req.params; nil after the close
---@field remote_address string? as in req.remote_address; nil after the close
---@field buffered integer bytes in the send queue that the kernel has not taken yet
---@field ping_interval number? seconds between the server's pings, from 0.1, can be set; nil: no pings
---@field request tidewire.req? the request that opened it; nil after the close, unless it was read before
---@field is_closed boolean whether nothing can be sent any more
---@field close_code integer? the code that on_close gets; nil before
local ws = {}

---Sets what is called for each whole text message; it is valid UTF-8. nil removes it.
---@param handler fun(ws: tidewire.ws, text: string)?
function ws:on_text(handler) end

---Sets what is called for each whole binary message. nil removes it.
---@param handler fun(ws: tidewire.ws, bytes: string)?
function ws:on_binary(handler) end

---Sets what is called when the connection has ended, exactly once. nil removes it.
---
---The code is the peer's; 1005 when its Close has none; 1006 when there was no Close; or the code of the fault for which the
---server ended the connection.
---@param handler fun(ws: tidewire.ws, code: integer, reason: string)?
function ws:on_close(handler) end

---Sets what is called for each ping, after the server has answered it. nil removes it.
---@param handler fun(ws: tidewire.ws, payload: string)?
function ws:on_ping(handler) end

---Sets what is called for each pong. Those that answer the server's own pings are empty. nil removes it.
---@param handler fun(ws: tidewire.ws, payload: string)?
function ws:on_pong(handler) end

---Sets what is called when the send queue has emptied after it was over half of send_limit. nil removes it.
---@param handler fun(ws: tidewire.ws)?
function ws:on_drain(handler) end

---Sends a string as text, or a list of byte values as binary. Never raises because the connection is closed.
---@param data string|number|integer[] text must be UTF-8; byte values are 0 to 255
---@return true? sent nil when it was not
---@return nil|"closed"|"queue full"|"not UTF-8" why after "queue full" the connection is being closed with 1013
function ws:send(data) end

---Sends a string as a binary message. Never raises because the connection is closed.
---@param bytes string|number
---@return true? sent nil when it was not
---@return nil|"closed"|"queue full" why after "queue full" the connection is being closed with 1013
function ws:send_binary(bytes) end

---Sends a ping; its answer comes to on_pong. send_limit does not hold for it.
---@param payload string|number? up to 125 bytes, default ""; a longer one raises
---@return true? sent nil when it was not
---@return nil|"closed" why
function ws:ping(payload) end

---Sends a pong that answers no ping: pings are answered by the server. send_limit does not hold for it.
---@param payload string|number? up to 125 bytes, default ""; a longer one raises
---@return true? sent nil when it was not
---@return nil|"closed" why
function ws:pong(payload) end

---Starts the close handshake, after what is queued; on_close follows.
---@param code integer? default 1000; 1000 to 1003, 1007 to 1009, 1011 to 1013 or 3000 to 4999, others raise
---@param reason string? UTF-8, up to 123 bytes
---@return true? closing nil when it was closed or closing already
---@return nil|"closed" why
function ws:close(code, reason) end

---The request that opened a WebSocket; read-only.
---@class tidewire.req
---@field method string
---@field path string percent-decoded, without the query
---@field params table<string, string> what the route captured, decoded: `params.name`, `params["*"]`, `params["**"]`
---@field query table<string, string> decoded; the first of several fields of one name
---@field query_string string as sent; "" when there is none
---@field headers table<string, string> names in lower case, look-ups ignore case; repeated ones are joined with ", "
---@field remote_address string for example "127.0.0.1", "::1"; "unix:" for a unix socket

---The server's log, on standard error. Values are written as tostring shows them, with a blank between.
---@class tidewire.log
log = {}

---@param ... any
function log.debug(...) end

---@param ... any
function log.info(...) end

---@param ... any
function log.warn(...) end

---@param ... any
function log.error(...) end
