---@meta
-- SPDX-License-Identifier: MIT
-- What Tidewire gives to scripts, for lua-language-server; lua/README.md and the pages beside it have the whole story.

---Names of headers with a value, or a list of values, each.
---@alias tidewire.headers table<string, string|number|(string|number)[]>

---Sends a piece of a streamed answer: true, or nil and "closed". Waits while the client has much to take.
---@alias tidewire.write fun(piece: string): true?, nil|"closed"

---A string, a table (JSON), or what makes a body piece by piece: a function that is given `write`, or an iterator. nil: none.
---@alias tidewire.body string|number|table|(fun(write: tidewire.write))|(fun(): string?)|nil

---What `next(req)` gives to middleware; all of it can be set.
---@class tidewire.response
---@field status integer 101: a WebSocket is let in
---@field headers tidewire.headers looking up and setting ignore case
---@field body tidewire.body as the handler returned it: tables are not JSON yet

---Returns a string, a table (JSON), or a status from 200 to 599 and what goes with it; anything else is a 500.
---@alias tidewire.handler fun(req: tidewire.req): (string|table|integer), tidewire.body?, tidewire.headers?

---Returns what `next(req)` gave, or any answer that a handler can give. For a WebSocket any other answer refuses.
---@alias tidewire.middleware fun(req: tidewire.req, next: (fun(req: tidewire.req): tidewire.response)): (tidewire.response|string|table|integer), tidewire.body?, tidewire.headers?

---Options of an HTTP route; each begins as the configuration's key of the same name.
---@class (exact) tidewire.http_options
---@field max_body? integer|string|false bytes of a request's body, or "64k", "1m"; beyond it 413; false: no body
---@field request_timeout? number|string|false seconds, or "500ms", "2m", for a handler that waits; then 503; false: no limit

---Options of a WebSocket route. Those that bound something begin as the configuration's keys of the same name; `false` is 0, which
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
---@field compression? boolean whether permessage-deflate is spoken with clients that offer it
---@field compression_min? integer|string|false bytes; shorter messages are not compressed
---@field compression_takeover? boolean whether a message may refer to those before it
---@field origins? string|string[] pages that may connect: "same", "https://*.example.com", "example.com:*", "null", "*"
---@field protocols? string|string[] subprotocols, the preferred first
---@field should_upgrade? fun(req: tidewire.req): (boolean|tidewire.headers), integer?, string?, tidewire.headers? true, or headers for the answer; false refuses: status (403), body, headers

---Options of app.connect. Those that bound something begin as the configuration's keys of the same name; `false` is 0, which turns
---off what can be turned off.
---@class (exact) tidewire.connect_options
---@field timeout? number|string seconds, or "500ms", "2m", until the WebSocket is open; connect_timeout of the configuration
---@field headers? table<string, string> of the request; those of the handshake itself cannot be given
---@field protocols? string|string[] subprotocols to offer, the preferred first
---@field tls? {ca?: string, cert?: string, key?: string, verify?: boolean} for wss://: PEM files; whom to trust, the client's own certificate
---@field max_message? integer|string bytes of a message, or "64k", "1m"; beyond it 1009
---@field max_frame? integer|string|false bytes of a frame; beyond it 1009; false: only max_message counts
---@field messages_per_second? number|string|false beyond it reading pauses
---@field read_ahead? integer|string|false bytes of messages that wait while a handler is suspended
---@field send_limit? integer|string unsent bytes
---@field on_slow? "close"|"drop" what a message beyond send_limit does: end the connection with 1013, or get lost
---@field idle_timeout? number|string|false seconds, or "500ms", "2m", without any received frame
---@field ping_interval? number|string|false seconds between the client's pings
---@field close_timeout? number|string seconds for the server's answer to a Close
---@field compression? boolean whether permessage-deflate is offered
---@field compression_min? integer|string|false bytes; shorter messages are not compressed
---@field compression_takeover? boolean whether a message may refer to those before it

---What registers routes: `app`, or a group, whose paths begin with its own.
---@class tidewire.group
local group = {}

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
function group.websocket(path, options, handler) end

---Registers a route for GET, and for HEAD where it has no route of its own. Only while the script loads.
---
---    app.get("notes/:id", function(req) return notes[req.params.id] or 404 end)
---@param path string as for app.websocket
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.get(path, options, handler) end

---Registers a route for POST. Only while the script loads.
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.post(path, options, handler) end

---Registers a route for PUT. Only while the script loads.
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.put(path, options, handler) end

---Registers a route for PATCH. Only while the script loads.
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.patch(path, options, handler) end

---Registers a route for DELETE. Only while the script loads.
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.delete(path, options, handler) end

---Registers a route for HEAD. Only while the script loads.
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.head(path, options, handler) end

---Registers a route for OPTIONS, in place of the answer that the server gives. Only while the script loads.
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(path: string, handler: tidewire.handler)
function group.options(path, options, handler) end

---Registers a route for a method, in capitals. Only while the script loads.
---@param method "GET"|"HEAD"|"POST"|"PUT"|"PATCH"|"DELETE"|"OPTIONS"
---@param path string
---@param options tidewire.http_options
---@param handler tidewire.handler
---@overload fun(method: string, path: string, handler: tidewire.handler)
function group.route(method, path, options, handler) end

---Puts middleware around all routes of the script or group, also those registered before. Only while the script loads.
---
---Middleware of `app` is also around the server's own 404, 405, 426 and answer to OPTIONS.
---@param middleware tidewire.middleware
---@param ... tidewire.middleware
function group.use(middleware, ...) end

---Calls `f(group)` at once, for routes whose paths begin with `path`, in the middleware given. Only while the script loads.
---
---    app.group("api", only_users, function(api)
---      api.get("me", function(req) return {name = req.context.user} end)
---    end)
---@param path string
---@param ... tidewire.middleware|fun(group: tidewire.group) middleware, and `f` at the end
function group.group(path, ...) end

---Routes, waiting, timers, and where this code runs. It belongs to the server: its fields cannot be set.
---@class tidewire.app: tidewire.group
---@field worker integer the number of the worker this code runs in, from 1
---@field workers integer how many workers there are; each has its own Lua state
---@field generation integer the version of the code, from 1; a reload that is taken adds one
---@field shared tidewire.shared one dictionary for all workers
app = {}

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

---Opens a WebSocket to another server; waits until that has accepted. Raises where nothing can wait.
---
---    local ws, why = app.connect("ws://127.0.0.1:9000/", {timeout = 5}, function(ws)
---      ws:on_text(function(_, text) log.info(text) end)
---    end)
---@param url string `ws://host[:port][/path][?query]`; never one that a stranger may choose
---@param options tidewire.connect_options
---@param f fun(ws: tidewire.ws) runs once, before anything that the server sends is handled
---@return tidewire.ws? ws nil when there is no connection
---@return string? why for example `connect to 127.0.0.1:9000: Connection refused`
---@overload fun(url: string, f: fun(ws: tidewire.ws)): tidewire.ws?, string?
function app.connect(url, options, f) end

---A new promise: a value that comes later.
---@return tidewire.promise
function app.promise() end

---Sends to the WebSocket with that `ws.id`, whichever worker holds it; not while the script loads.
---
---For a connection of another worker `true` means that the message has been handed over.
---@param id integer
---@param data string|number|integer[] text must be UTF-8; a list of byte values, 0 to 255, is sent as binary
---@param options { binary: boolean? }? `{binary = true}` sends a string as binary; other options raise
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

---Sends to every subscriber of a topic, in every worker; not while the script loads.
---
---"queue full" is for subscribers of another worker; a slow subscriber is its own on_slow's business, and nobody is told.
---@param topic string 1 to 255 bytes
---@param data string|number|integer[] text must be UTF-8; a list of byte values, 0 to 255, is sent as binary
---@param options { binary: boolean? }? `{binary = true}` sends a string as binary; other options raise
---@return true? published nil when some or all do not get it
---@return nil|"queue full"|"not UTF-8" why
function app.publish(topic, data, options) end

---How many connections are subscribed, in all workers; not while the script loads.
---@param topic string 1 to 255 bytes
---@return integer
function app.subscribers(topic) end

---What app.shared can keep: a copy is made; json.array and json.null are kept, other metatables and values raise.
---@alias tidewire.plain string|number|boolean|table|lightuserdata

---Has `f` called once in each worker when this version of the code begins to serve. While the script loads.
---@param f fun()
function app.on_start(f) end

---Has `f` called once in each worker when this version of the code retires, or the server stops. While the script loads.
---@param f fun()
function app.on_stop(f) end

---One dictionary for all workers, which reloads leave alone. Each call is one step for all others; not while the script loads.
---
---    local here = app.shared.incr("requests:" .. req.remote_address, 1, 0, 60) -- so many in this minute
---@class tidewire.shared
local shared = {}
app.shared = shared

---A copy of the value; nil when there is none, or its time is over.
---@param key string|number up to 255 bytes; numbers count as their text
---@return tidewire.plain? value
function shared.get(key) end

---Keeps a copy of the value, in place of the one there was. nil deletes the key.
---@param key string|number up to 255 bytes
---@param value tidewire.plain?
---@param ttl number? seconds after which it is gone, at least 0.001; default: never
---@return true? kept nil when it was not
---@return nil|"too large"|"out of memory" why
function shared.set(key, value, ttl) end

---Keeps a copy of the value unless the key has one.
---@param key string|number up to 255 bytes
---@param value tidewire.plain
---@param ttl number? seconds after which it is gone, at least 0.001; default: never
---@return boolean? kept false when the key has a value; nil when this one cannot be kept
---@return nil|"too large"|"out of memory" why
function shared.add(key, value, ttl) end

---Adds to a number. Integers wrap around as usual; with a float the sum is a float.
---@param key string|number up to 255 bytes
---@param delta number? default 1
---@param initial number? what it begins with when the key has no value; default 0
---@param ttl number? seconds after which it is gone, counted from when it begins; default: never
---@return number? sum nil when the value is no number
---@return nil|"not a number"|"out of memory" why
function shared.incr(key, delta, initial, ttl) end

---Deletes a key.
---@param key string|number up to 255 bytes
---@return boolean was_there
function shared.delete(key) end

---Lists keys, in no particular order. It looks at every key there is.
---@param prefix string? only those that begin so
---@param limit integer? up to so many; default 1000
---@return string[] keys
---@return boolean more whether there are others
function shared.keys(prefix, limit) end

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
---@field params table<string, string>? what the route captured, as in req.params; nil after the close, and with app.connect
---@field protocol string? the subprotocol that was chosen; nil: none, or after the close
---@field remote_address string? as in req.remote_address; nil after the close
---@field buffered integer bytes in the send queue that the kernel has not taken yet
---@field ping_interval number? seconds between the server's pings, from 0.1, can be set; nil: no pings
---@field request tidewire.req? the request that opened it; nil after the close, unless read before or kept by should_upgrade or middleware; nil with app.connect
---@field is_closed boolean whether nothing can be sent any more
---@field close_code integer? the code that on_close gets; nil before
---@field generation integer the version of the code that this ws belongs to
---@field migrated boolean whether it has come from older code by a reload
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

---Subscribes to a topic: from now on the client gets what is published to it. Once more changes nothing.
---@param topic string 1 to 255 bytes
---@return true? subscribed nil when it is not
---@return nil|"closed"|"too many subscriptions"|"out of memory" why
function ws:subscribe(topic) end

---Ends a subscription. Subscriptions end with the connection, too.
---@param topic string 1 to 255 bytes
---@return boolean was_subscribed
function ws:unsubscribe(topic) end

---Sends to every subscriber of a topic, in every worker, but not to this connection, which need not be one.
---@param topic string 1 to 255 bytes
---@param data string|number|integer[] text must be UTF-8; a list of byte values, 0 to 255, is sent as binary
---@param options { binary: boolean? }? `{binary = true}` sends a string as binary; other options raise
---@return true? published nil when some or all do not get it
---@return nil|"closed"|"queue full"|"not UTF-8" why
function ws:publish(topic, data, options) end

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

---The client's certificate, which has been checked.
---@class tidewire.tls_client
---@field subject string "CN=alice,O=Example"
---@field issuer string
---@field serial string hexadecimal
---@field fingerprint string SHA-256 of the certificate, hexadecimal

---What TLS has agreed on.
---@class tidewire.tls
---@field version "TLSv1.2"|"TLSv1.3"
---@field cipher string OpenSSL's name of it
---@field server_name string? the name that the client asked for
---@field resumed boolean whether an earlier session goes on
---@field client tidewire.tls_client? nil when it has shown no certificate

---A request; read-only.
---@class tidewire.req
---@field method string
---@field path string percent-decoded, without the query
---@field params table<string, string> what the route captured, decoded: `params.name`, `params["*"]`, `params["**"]`
---@field query table<string, string> decoded; the first of several fields of one name
---@field query_string string as sent; "" when there is none
---@field headers table<string, string> names in lower case, look-ups ignore case; repeated ones are joined with ", "
---@field cookies table<string, string> by name; the first of several
---@field body string "" when there is none
---@field remote_address string for example "127.0.0.1", "::1"; "unix:" for a unix socket; the client's behind trusted_proxies
---@field tls tidewire.tls? what TLS has agreed on; nil for a plain connection
---@field id integer no other request of this server process has or had it
---@field context table empty at first: what middleware and should_upgrade leave here, the handlers find
local req = {}

---The value of a JSON body, as json.decode gives it; the Content-Type is not looked at.
---@return any value nil when it is not JSON
---@return string? why
function req:json() end

---One field of a form.
---@class tidewire.form_field
---@field name string
---@field value string the bytes of a file
---@field filename? string the client's choice: not safe as a path
---@field type? string the Content-Type of a file, as sent

---The fields of a form: urlencoded or multipart/form-data.
---@return table<string, string>? values by name, the first of several; nil when the body is no form
---@return tidewire.form_field[]|string fields all of them in their order; or why it is none
function req:form() end

---JSON. Functions are called with a dot.
---@class tidewire.json
---@field null lightuserdata stands for `null`; compare with it, for as a condition it is true
json = {}

---The value of a JSON text. Arrays are marked as by json.array, `null` is json.null, integers stay integers.
---@param text string UTF-8, any one value, up to 200 levels deep
---@return any value nil when the text is not JSON
---@return string? why for example `line 2, column 4: ']' expected near '3'`
function json.decode(text) end

---The JSON text of a value. An empty table is `{}` unless it is marked by json.array.
---
---What JSON has not raises and names its place, as in `$.users[3].callback is a function`: functions, userdata, NaN and infinity, lists
---with holes, tables with both names and indices, strings that are not UTF-8, tables that contain themselves, more than 200 levels.
---@param value any
---@param options { pretty: boolean?, sort: boolean? }? `pretty`: a line for each member; `sort`: members by the bytes of their keys
---@return string text
function json.encode(value, options) end

---Marks a table, or a new one, as an array: it is encoded as `[]` even when it is empty. It must not have a metatable.
---@generic T: table
---@param list T?
---@return T list
function json.array(list) end

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
