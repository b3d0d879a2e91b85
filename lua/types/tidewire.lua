---@meta
-- SPDX-License-Identifier: MIT
-- What Tidewire gives to scripts, for lua-language-server; lua/README.md has the whole story.

---Routes, waiting, timers, and where this code runs. It belongs to the server: its fields cannot be set.
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
---    app.websocket("chat/:room", {max_message = "16k"}, function(ws, req)
---      ws:on_text(function(ws, text) ws:send(req.params.room .. ": " .. text) end)
---    end)
---@param path string
---@param options tidewire.options
---@param handler fun(ws: tidewire.ws, req: tidewire.req) runs once for each connection, before its messages are handled
---@overload fun(path: string, handler: fun(ws: tidewire.ws, req: tidewire.req))
function app.websocket(path, options, handler) end

---Names of headers with a value, or a list of values, each.
---@alias tidewire.headers table<string, string|number|(string|number)[]>

---Options of a route. Those that bound something begin as the configuration's keys of the same name; `false` is 0, which
---turns off what can be turned off.
---@class (exact) tidewire.options
---@field max_message? integer|string bytes of a message, or "64k", "1m"; beyond it 1009
---@field max_frame? integer|string|false bytes of a frame; beyond it 1009; false: only max_message counts
---@field messages_per_second? number|string|false beyond it reading pauses
---@field read_ahead? integer|string|false bytes of messages that wait while a handler is suspended
---@field send_limit? integer|string unsent bytes
---@field on_slow? "close"|"drop" what a message beyond send_limit does: end the connection with 1013, or get lost
---@field idle_timeout? number|string|false seconds, or "500ms", "2m", without any received frame
---@field ping_interval? number|string|false seconds between the server's pings
---@field close_timeout? number|string seconds for the peer's answer to a Close
---@field origins? string|string[] pages that may connect: "same", "https://*.example.com", "example.com:*", "null", "*"
---@field protocols? string|string[] subprotocols, the preferred first
---@field should_upgrade? fun(req: tidewire.req): (boolean|tidewire.headers), integer?, string?, tidewire.headers? true, or headers for the answer; false refuses: status (403), body, headers

---Suspends the handler that calls it; other connections are served meanwhile. Raises where nothing can wait.
---@param seconds number 0 lets all others have their turn
function app.sleep(seconds) end

---Calls `f(...)` on its own, at the end of the current round of events. It may wait, also after the connection has ended.
---@param f fun(...: any)
---@param ... any up to 199 arguments
function app.spawn(f, ...) end

---Calls `f()` once, so many seconds from now; when the script loads, from when it serves.
---@param seconds number
---@param f fun()
---@return tidewire.timer
function app.after(seconds, f) end

---Calls `f()` every so many seconds, until it is cancelled or the script is reloaded. Never while a call of it still waits.
---@param seconds number at least 0.001
---@param f fun()
---@return tidewire.timer
function app.every(seconds, f) end

---A new promise: a value that comes later.
---@return tidewire.promise
function app.promise() end

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

---A timer of app.after or app.every.
---@class tidewire.timer
local timer = {}

---Takes it back. A call of its function that has begun goes on.
---@return boolean was_set
function timer:cancel() end

---A value that comes later.
---@class tidewire.promise
local promise = {}

---Gives it the value.
---@param value any?
---@return boolean changed false when it had an outcome already
function promise:resolve(value) end

---Gives it an error.
---@param error any? default "rejected"
---@return boolean changed false when it had an outcome already
function promise:reject(error) end

---Waits for the outcome: the value, or nil and the error. Raises where nothing can wait.
---@return any value
---@return any error
function promise:await() end

---Calls `f(value)` or `f(nil, error)` on its own once the outcome is there.
---@param f fun(value: any, error: any)
---@return tidewire.promise self
function promise:when_complete(f) end

---Is told once what became of a message: a function gets true, or nil and why; a promise is resolved with true, or rejected.
---@alias tidewire.done fun(ok: true?, why: nil|"closed"|"queue full"|"not UTF-8")|tidewire.promise

---One WebSocket connection. It may be kept for longer than the connection lives.
---@class tidewire.ws
---@field id integer no other connection of this server process has or had it
---@field state table for what belongs to this connection; made when first used, readable after the close
---@field params table<string, string>? what the route captured, as in req.params; nil after the close
---@field protocol string? the subprotocol that was chosen; nil: none, or after the close
---@field remote_address string? as in req.remote_address; nil after the close
---@field buffered integer bytes in the send queue that the kernel has not taken yet
---@field ping_interval number? seconds between the server's pings, from 0.1, can be set; nil: no pings
---@field request tidewire.req? the request that opened it; nil after the close, unless read before or kept by should_upgrade
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
---@param done tidewire.done? is told when the kernel has taken all of it, or that it never will
---@return true? sent nil when it was not
---@return nil|"closed"|"queue full"|"not UTF-8" why on_slow says what follows "queue full"
function ws:send(data, done) end

---Sends a string as a binary message. Never raises because the connection is closed.
---@param bytes string|number
---@param done tidewire.done? is told when the kernel has taken all of it, or that it never will
---@return true? sent nil when it was not
---@return nil|"closed"|"queue full" why on_slow says what follows "queue full"
function ws:send_binary(bytes, done) end

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
---@param done tidewire.done? is told when the Close has gone, or that it never will
---@return true? closing nil when it was closed or closing already
---@return nil|"closed" why
---@overload fun(self: tidewire.ws, done: tidewire.done): true?, nil|"closed"
---@overload fun(self: tidewire.ws, code: integer, done: tidewire.done): true?, nil|"closed"
function ws:close(code, reason, done) end

---The request that opened a WebSocket; read-only.
---@class tidewire.req
---@field method string
---@field path string percent-decoded, without the query
---@field params table<string, string> what the route captured, decoded: `params.name`, `params["*"]`, `params["**"]`
---@field query table<string, string> decoded; the first of several fields of one name
---@field query_string string as sent; "" when there is none
---@field headers table<string, string> names in lower case, look-ups ignore case; repeated ones are joined with ", "
---@field remote_address string for example "127.0.0.1", "::1"; "unix:" for a unix socket
---@field context table empty at first: what should_upgrade leaves here, the handlers find

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
