# SPDX-License-Identifier: MIT
"""What scripts get as standard library: what is refused, what is changed, and that all the rest is plain Lua.

One script runs every check twice, while it loads (on the main state) and in a handler (on a coroutine of the server),
and sends its report over a WebSocket; each check is a test of its own here.
"""

import re

import pytest

from conftest import Server

PRELUDE = r"""
local checks = {}

local function check(name, f) checks[#checks + 1] = { name = name, run = f } end

local function show(...)
  local out = {}
  for i = 1, select("#", ...) do out[i] = tostring((select(i, ...))) end
  return "(" .. table.concat(out, ", ") .. ")"
end

-- The values of `got` (a table from table.pack) are those that follow, no more and no fewer.
local function same(got, ...)
  local fine = got.n == select("#", ...)
  for i = 1, got.n do fine = fine and rawequal(got[i], (select(i, ...))) end
  if not fine then
    error("got " .. show(table.unpack(got, 1, got.n)) .. ", not " .. show(...), 2)
  end
end

local function expect(condition, what) if not condition then error(what or "not so", 2) end end

-- The message of the error that f(...) must raise; it has to contain each of the plain texts.
local function raises(texts, f, ...)
  local ok, message = pcall(f, ...)
  if ok then error("raised nothing", 2) end
  for _, text in ipairs(texts) do
    if not tostring(message):find(text, 1, true) then
      error("the message lacks '" .. text .. "': " .. tostring(message), 2)
    end
  end
  return message
end

local function refused(name, instead)
  check(name .. " is refused", function()
    local at = _G
    for part in name:gmatch("[^.]+") do at = at[part] end
    raises({ name .. " is not available", instead, "main.lua:" }, function() at("x") end)
  end)
end
"""

CHECKS = r"""
refused("os.exit", "ws:close()")
refused("os.setlocale", "format explicitly")
refused("os.execute", "another process")
refused("io.popen", "another process")
refused("package.loadlib", "require")
refused("debug.sethook", "os.clock")
refused("debug.debug", "log.debug")
refused("debug.getregistry", "locals or globals")
refused("debug.getmetatable", "getmetatable")
refused("debug.setmetatable", "setmetatable")
refused("debug.setuservalue", "in a table")
refused("debug.getuservalue", "in a table")
refused("debug.setlocal", "in the function")
refused("debug.setupvalue", "in the function")
refused("debug.upvaluejoin", "in the function")
refused("debug.setcstacklimit", "the whole process")

-- setmetatable

check("setmetatable refuses __gc", function()
  raises({ "__gc is not available", "<close>", "main.lua:" }, function()
    setmetatable({}, { __gc = function() end })
  end)
end)

check("setmetatable finds __gc under any key", function()
  local meta = { __gc = false }
  raises({ "__gc is not available" }, setmetatable, {}, meta)
end)

check("a __gc put in afterwards never runs", function()
  local ran = false
  local meta = {}
  setmetatable({}, meta)
  meta.__gc = function() ran = true end
  collectgarbage()
  collectgarbage()
  expect(not ran)
end)

check("setmetatable otherwise is Lua's", function()
  local t, meta = {}, { __index = { x = 7 } }
  same(table.pack(setmetatable(t, meta)), t)
  expect(t.x == 7 and getmetatable(t) == meta)
  same(table.pack(setmetatable(t, nil)), t)
  expect(getmetatable(t) == nil)
  raises({ "protected metatable" }, setmetatable, setmetatable({}, { __metatable = 1 }), {})
end)

check("setmetatable's errors name it and the script's line", function()
  raises({ "main.lua:", "setmetatable", "table expected" }, function() setmetatable(1, {}) end)
end)

-- load, loadfile, dofile, string.dump

check("load loads text", function()
  same(table.pack(load("return 1, ...", "=x")(2)), 1, 2)
end)

check("load takes an environment", function()
  same(table.pack(load("return x", "=x", "t", { x = 5 })()), 5)
end)

check("load takes a reader function", function()
  local pieces = { "return ", "4", "2" }
  local i = 0
  same(table.pack(load(function() i = i + 1 return pieces[i] end)()), 42)
end)

check("load with both modes loads text", function()
  same(table.pack(load("return 3", "=x", "bt")()), 3)
end)

check("load in binary mode is refused", function()
  raises({ "load: binary chunks are not available", "source text" }, load, "return 1", "=x", "b")
end)

check("load refuses what string.dump made", function()
  local f, message = load(string.dump(function() return 1 end))
  expect(f == nil and message:find("binary chunk", 1, true), tostring(message))
end)

check("load refuses bytecode even where the mode allows it", function()
  local f, message = load(string.dump(function() return 1 end), "=x", "bt")
  expect(f == nil and message:find("binary chunk", 1, true), tostring(message))
end)

check("load refuses bytecode from a reader", function()
  local code = string.dump(function() return 1 end)
  local f, message = load(function() local piece = code code = nil return piece end)
  expect(f == nil and message:find("binary chunk", 1, true), tostring(message))
end)

check("load tells the line of a syntax error", function()
  local f, message = load("\n\nx =", "=piece")
  expect(f == nil and message:find("piece:3:", 1, true), tostring(message))
end)

check("loadfile loads text and takes an environment", function()
  same(table.pack(loadfile(FOLDER .. "/values.lua")("a")), "a", 2, nil)
  same(table.pack(loadfile(FOLDER .. "/environment.lua", "t", { wanted = "given" })()), "given")
end)

check("loadfile refuses bytecode", function()
  local f, message = loadfile(FOLDER .. "/bytecode.lua")
  expect(f == nil and message:find("binary chunk", 1, true), tostring(message))
end)

check("loadfile returns nil and why", function()
  local f, message = loadfile(FOLDER .. "/nowhere.lua")
  expect(f == nil and message:find("nowhere.lua", 1, true), tostring(message))
  f, message = loadfile(FOLDER .. "/syntax_error.lua")
  expect(f == nil and message:find("syntax_error.lua:2:", 1, true), tostring(message))
end)

check("dofile returns the chunk's values", function()
  same(table.pack(dofile(FOLDER .. "/values.lua")), nil, 2, nil)
end)

check("dofile raises what goes wrong", function()
  raises({ "nowhere.lua" }, dofile, FOLDER .. "/nowhere.lua")
  raises({ "syntax_error.lua:2:" }, dofile, FOLDER .. "/syntax_error.lua")
  raises({ "run_time_error.lua:3:", "on purpose" }, dofile, FOLDER .. "/run_time_error.lua")
  raises({ "binary chunk" }, dofile, FOLDER .. "/bytecode.lua")
end)

check("dofile may yield", function()
  local co = coroutine.create(function() return dofile(FOLDER .. "/yields.lua") end)
  same(table.pack(coroutine.resume(co)), true, "from the file")
  same(table.pack(coroutine.resume(co, "back")), true, "back")
end)

-- require

check("require finds modules beside the script", function()
  expect(require("beside").here == "beside")
end)

check("require finds a.b as a/b.lua", function()
  expect(require("folder.inner").here == "folder.inner")
end)

check("require finds init.lua of a folder", function()
  expect(require("folder").here == "folder")
end)

check("require loads a module once", function()
  expect(rawequal(require("beside"), require("beside")) and require("beside").loads == 1)
end)

check("require hands the name and the file to the module, as plain Lua does", function()
  package.loaded["folder.inner"] = nil
  local module, file = require("folder.inner")
  same(table.pack(table.unpack(module.arguments, 1, module.arguments.n)), "folder.inner", FOLDER .. "/folder/inner.lua")
  expect(file == FOLDER .. "/folder/inner.lua", "second result: " .. tostring(file))
end)

check("require of a module that returns nothing gives true", function()
  expect(require("silent") == true)
end)

check("require of a missing module lists the places", function()
  local message = raises({ "module 'no.such' not found", "no field package.preload['no.such']",
    "no file '" .. FOLDER .. "/no/such.lua'", "no file '" .. FOLDER .. "/no/such/init.lua'" }, require, "no.such")
  expect(not message:find("\n%s*\n"), "an empty line in: " .. message)
end)

check("require tells file and line of a syntax error", function()
  raises({ "error loading module 'syntax_error'", "syntax_error.lua:2:" }, require, "syntax_error")
end)

check("require tells file and line of an error while loading", function()
  raises({ "run_time_error.lua:3:", "on purpose" }, require, "run_time_error")
  raises({ "run_time_error.lua:3:", "on purpose" }, require, "run_time_error")
end)

check("require loads no C library", function()
  local message = raises({ "module 'library' not found" }, require, "library")
  expect(not message:find(".so", 1, true), message)
  expect(package.cpath == "" and #package.searchers == 2)
end)

check("require heeds package.preload and package.path", function()
  package.preload.made = function(name) return { name = name } end
  expect(require("made").name == "made")
  local path = package.path
  package.path = FOLDER .. "/elsewhere/?.lua"
  expect(require("afar").here == "afar")
  package.path = path
end)

-- coroutines are plain Lua's

check("resume and yield pass values both ways", function()
  local co = coroutine.create(function(...)
    local got = table.pack(coroutine.yield(...))
    return select("#", ...), table.unpack(got, 1, got.n)
  end)
  same(table.pack(coroutine.resume(co, 1, nil, 3, nil)), true, 1, nil, 3, nil)
  same(table.pack(coroutine.resume(co, nil, "x", nil)), true, 4, nil, "x", nil)
  same(table.pack(coroutine.resume(co)), false, "cannot resume dead coroutine")
end)

check("resume without values", function()
  local co = coroutine.create(function() coroutine.yield() end)
  same(table.pack(coroutine.resume(co)), true)
  same(table.pack(coroutine.resume(co)), true)
end)

check("resume passes hundreds of values", function()
  local many = {}
  for i = 1, 500 do many[i] = i end
  local co = coroutine.create(function(...) return coroutine.yield(...) end)
  expect(select("#", coroutine.resume(co, table.unpack(many))) == 501)
  expect(select(501, coroutine.resume(co, table.unpack(many))) == 500)
end)

check("resume tells an error, with its position", function()
  local co = coroutine.create(function() error("broken") end)
  local ok, message = coroutine.resume(co)
  expect(ok == false and message:find("^.*main%.lua:%d+: broken$"), tostring(message))
  expect(coroutine.status(co) == "dead")
end)

check("resume passes any error object", function()
  local thing = {}
  same(table.pack(coroutine.resume(coroutine.create(function() error(thing) end))), false, thing)
  same(table.pack(coroutine.resume(coroutine.create(function() error() end))), false, nil)
end)

check("a coroutine cannot resume itself", function()
  local co
  co = coroutine.create(function() return coroutine.resume(co) end)
  same(table.pack(coroutine.resume(co)), true, false, "cannot resume non-suspended coroutine")
end)

check("a coroutine cannot resume the one that resumed it", function()
  local outer
  outer = coroutine.create(function()
    return coroutine.wrap(function() return coroutine.resume(outer) end)()
  end)
  same(table.pack(coroutine.resume(outer)), true, false, "cannot resume non-suspended coroutine")
end)

check("resume wants a coroutine", function()
  raises({ "bad argument #1 to 'resume'", "main.lua:" }, function() coroutine.resume(1) end)
  raises({ "bad argument #1 to 'resume'", "main.lua:" }, function() coroutine.resume() end)
end)

check("create and wrap want a function", function()
  raises({ "bad argument #1 to 'create'", "main.lua:" }, function() coroutine.create("x") end)
  raises({ "bad argument #1 to 'wrap'", "main.lua:" }, function() coroutine.wrap() end)
end)

check("status", function()
  local inner, outer
  local seen = {}
  inner = coroutine.create(function() seen.inner, seen.outer = coroutine.status(inner), coroutine.status(outer) end)
  outer = coroutine.create(function()
    seen.before = coroutine.status(inner)
    coroutine.resume(inner)
    coroutine.yield()
  end)
  coroutine.resume(outer)
  expect(seen.before == "suspended" and seen.inner == "running" and seen.outer == "normal")
  expect(coroutine.status(inner) == "dead" and coroutine.status(outer) == "suspended")
end)

check("wrap passes values and ends", function()
  local f = coroutine.wrap(function(...) return "end", coroutine.yield(...) end)
  same(table.pack(f(1, nil)), 1, nil)
  same(table.pack(f("x")), "end", "x")
  raises({ "cannot resume dead coroutine", "main.lua:" }, function() f() end)
end)

check("wrap serves as an iterator", function()
  local sum = 0
  for i in coroutine.wrap(function() for i = 1, 4 do coroutine.yield(i) end end) do sum = sum + i end
  expect(sum == 10)
end)

check("wrap propagates an error with both positions", function()
  local f = coroutine.wrap(function() error("inner") end)
  local _, message = pcall(function() local x = f() return x end)
  expect(message:find("^[^:]*main%.lua:%d+: [^:]*main%.lua:%d+: inner$"), message)
end)

check("wrap propagates error objects as they are", function()
  local thing = {}
  same(table.pack(pcall(coroutine.wrap(function() error(thing) end))), false, thing)
end)

check("wrap closes what the failed coroutine had pending", function()
  local closed
  local f = coroutine.wrap(function()
    local _ <close> = setmetatable({}, { __close = function(_, e) closed = e end })
    error("broken", 0)
  end)
  same(table.pack(pcall(f)), false, "broken")
  expect(closed == "broken", tostring(closed))
end)

check("yield across pcall", function()
  local co = coroutine.create(function()
    local results = table.pack(pcall(function() return coroutine.yield(1) end))
    local failed = table.pack(pcall(function() coroutine.yield(2) error("late", 0) end))
    return results[1], results[2], failed[1], failed[2]
  end)
  same(table.pack(coroutine.resume(co)), true, 1)
  same(table.pack(coroutine.resume(co, "a")), true, 2)
  same(table.pack(coroutine.resume(co)), true, true, "a", false, "late")
end)

check("yield across xpcall", function()
  local co = coroutine.create(function()
    local fine = table.pack(xpcall(function(...) return coroutine.yield(...) end, print, 1, 2))
    local function late() coroutine.yield() error("late", 0) end
    local failed = table.pack(xpcall(late, function(e) return e .. "!" end))
    return fine.n, fine[1], fine[2], failed.n, failed[1], failed[2]
  end)
  same(table.pack(coroutine.resume(co)), true, 1, 2)
  same(table.pack(coroutine.resume(co, "a")), true)
  same(table.pack(coroutine.resume(co)), true, 2, true, "a", 2, false, "late!")
end)

check("yield in metamethods and iterators", function()
  local t = setmetatable({}, { __index = function(_, key) return coroutine.yield(key) end })
  local f = coroutine.wrap(function()
    local sum = t.one + t.two
    for i in function(_, i) return coroutine.yield(i) end do sum = sum + i end
    return sum
  end)
  same(table.pack(f()), "one")
  same(table.pack(f(1)), "two")
  same(table.pack(f(2)), nil)
  same(table.pack(f(10)), 10)
  same(table.pack(f(nil)), 13)
end)

check("yield outside a coroutine raises", function()
  raises({ "attempt to yield from outside a coroutine" }, coroutine.yield, 1)
end)

check("yield below a C function raises what plain Lua raises", function()
  local co = coroutine.create(function() table.sort({ 3, 2, 1 }, function() coroutine.yield() end) end)
  local ok, message = coroutine.resume(co)
  expect(not ok and message:find("attempt to yield across a C-call boundary", 1, true), tostring(message))
end)

check("isyieldable", function()
  expect(coroutine.isyieldable() == false)
  expect(coroutine.wrap(coroutine.isyieldable)() == true)
  expect(coroutine.isyieldable(coroutine.create(print)) == true)
end)

check("running", function()
  local co
  co = coroutine.create(function() return coroutine.running() end)
  same(table.pack(coroutine.resume(co)), true, co, false)
  expect(type(coroutine.running()) == "thread")
end)

check("close runs what is pending, in reverse order", function()
  local order = {}
  local function closer(name)
    return setmetatable({}, { __close = function(_, e) order[#order + 1] = name .. tostring(e) end })
  end
  local co = coroutine.create(function()
    local a <close> = closer("a")
    local b <close> = closer("b")
    coroutine.yield(a, b)
  end)
  coroutine.resume(co)
  same(table.pack(coroutine.close(co)), true)
  expect(table.concat(order, " ") == "bnil anil", table.concat(order, " "))
  expect(coroutine.status(co) == "dead")
  same(table.pack(coroutine.close(co)), true)
end)

check("close tells an error of a closing method", function()
  local co = coroutine.create(function()
    local _ <close> = setmetatable({}, { __close = function() error("while closing", 0) end })
    coroutine.yield()
  end)
  coroutine.resume(co)
  same(table.pack(coroutine.close(co)), false, "while closing")
end)

check("close tells the error that killed a coroutine", function()
  local co = coroutine.create(function() error("broken", 0) end)
  coroutine.resume(co)
  same(table.pack(coroutine.close(co)), false, "broken")
end)

check("close of a coroutine that has not begun", function()
  local co = coroutine.create(print)
  same(table.pack(coroutine.close(co)), true)
  same(table.pack(coroutine.resume(co)), false, "cannot resume dead coroutine")
end)

check("close refuses a running and a normal coroutine", function()
  local outer
  raises({ "cannot close a running coroutine" }, coroutine.wrap(function() coroutine.close(coroutine.running()) end))
  outer = coroutine.create(function()
    return coroutine.wrap(function() return pcall(coroutine.close, outer) end)()
  end)
  local _, ok, message = coroutine.resume(outer)
  expect(ok == false and message:find("cannot close a normal coroutine", 1, true), tostring(message))
end)

check("a pending variable of a for loop is closed", function()
  local closed = 0
  local guard = setmetatable({}, { __close = function() closed = closed + 1 end })
  for _ in function() return 1 end, nil, nil, guard do break end
  expect(closed == 1)
end)

check("coroutines nested too deep raise", function()
  local function nest() return coroutine.wrap(nest)() end
  raises({ "C stack overflow" }, nest)
end)

check("coroutines closing coroutines too deep raise", function()
  local function nest()
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, { __close = nest })
      coroutine.yield()
    end)
    coroutine.resume(co)
    local ok, message = coroutine.close(co)
    if not ok then error(message, 0) end
  end
  pcall(nest)
end)

check("debug.traceback shows another coroutine", function()
  local function deep() coroutine.yield() end
  local co = coroutine.create(function() deep() end)
  coroutine.resume(co)
  expect(debug.traceback(co, "title"):find("^title\nstack traceback:.*main%.lua:%d+: in .*deep"))
end)

-- the server's own coroutines

check("the running coroutine of the server cannot be resumed or closed from within", function()
  local mine = coroutine.running()
  local resumed = table.pack(coroutine.wrap(function() return pcall(coroutine.resume, mine) end)())
  expect(resumed[1] == false or resumed[2] == false, "resumed")
  local closed = table.pack(coroutine.wrap(function() return pcall(coroutine.close, mine) end)())
  expect(closed[1] == false, "closed")
  expect(coroutine.status(mine) == "running")
end)

check("the main state cannot be resumed or closed", function()
  local resumed = table.pack(pcall(coroutine.resume, MAIN))
  expect(resumed[1] == false or resumed[2] == false, "resumed")
  expect(pcall(coroutine.close, MAIN) == false, "closed")
end)

-- pcall and xpcall

check("xpcall returns all results", function()
  same(table.pack(xpcall(function(...) return select("#", ...), ... end, print, nil, 2, nil)), true, 3, nil, 2, nil)
  same(table.pack(xpcall(function() end, print)), true)
end)

check("xpcall returns the handler's first result", function()
  same(table.pack(xpcall(error, function(e) return e .. "!", "more" end, "x")), false, "x!")
  same(table.pack(xpcall(error, function() end, "x")), false, nil)
end)

check("xpcall hands over any error object", function()
  local thing = {}
  same(table.pack(xpcall(error, function(e) return e end, thing)), false, thing)
  same(table.pack(xpcall(error, function(e) return type(e) end)), false, "nil")
end)

check("xpcall's handler sees the stack of the error", function()
  local function culprit() error("here") end
  local ok, trace = xpcall(function() culprit() end, debug.traceback)
  expect(not ok and trace:find("main%.lua:%d+: here\nstack traceback:.*in .*culprit"), tostring(trace))
end)

check("xpcall with an error in the handler", function()
  local result = table.pack(xpcall(error, function(e) error(e) end, "x"))
  expect(result.n == 2 and result[1] == false, show(table.unpack(result, 1, result.n)))
end)

check("an error in xpcall's handler is handled again", function()
  local calls = 0
  same(table.pack(xpcall(error, function(e)
    calls = calls + 1
    if calls == 1 then error("second", 0) end
    return "at last " .. e
  end, "first")), false, "at last second")
end)

check("xpcall nests", function()
  same(table.pack(xpcall(function()
    local _, message = xpcall(error, function(e) return e .. " inner" end, "x")
    error(message, 0)
  end, function(e) return e .. " outer" end)), false, "x inner outer")
end)

check("xpcall of what cannot be called", function()
  local ok, message = xpcall(nil, function(e) return e end)
  expect(ok == false and message:find("attempt to call a nil value", 1, true), tostring(message))
end)

check("xpcall wants a function as handler", function()
  raises({ "bad argument #2 to 'xpcall'", "main.lua:" }, function() xpcall(print) end)
  raises({ "bad argument #2 to 'xpcall'", "main.lua:" }, function() xpcall(print, {}) end)
end)

check("pcall and error levels are Lua's", function()
  local function blame() error("it", 2) end
  local ok, message = pcall(function() blame() end)
  expect(not ok and message:find("main%.lua:%d+: it$"), tostring(message))
  same(table.pack(pcall(error, "plain", 0)), false, "plain")
end)

check("a stack overflow raises", function()
  local function forever() return 1 + forever() end
  raises({ "stack overflow" }, forever)
end)

check("the objects of the server keep their metatables", function()
  expect(getmetatable(io.stdout) == false and getmetatable(app) == false)
  raises({ "protected" }, setmetatable, app, {})
end)
"""

REPORT = r"""
local function report()
  local out = {}
  for i, c in ipairs(checks) do
    local ok, message = pcall(c.run)
    out[i] = c.name .. "\t" .. (ok and "ok" or tostring(message))
  end
  return table.concat(out, "\0")
end

MAIN = coroutine.running()
local while_loading = report()
app.websocket("/report", function(ws)
  ws:on_text(function(ws, which)
    if which == "loading" then ws:send(while_loading) else ws:send(report()) end
  end)
end)
"""

FILES = {
    "values.lua": "return ..., 2, nil\n",
    "environment.lua": "return wanted\n",
    "syntax_error.lua": "local x = 1\nlocal local\n",
    "run_time_error.lua": "local function f()\n  -- of no use\n  error('on purpose')\nend\nf()\n",
    "yields.lua": "return coroutine.yield('from the file')\n",
    "beside.lua": "BESIDE_LOADS = (BESIDE_LOADS or 0) + 1\nreturn { here = 'beside', loads = BESIDE_LOADS }\n",
    "folder/init.lua": "return { here = 'folder' }\n",
    "folder/inner.lua": "return { here = 'folder.inner', arguments = table.pack(...) }\n",
    "silent.lua": "local _ = 1\n",
    "library.so": "not a library\n",
    "elsewhere/afar.lua": "return { here = 'afar' }\n",
}

# A header of bytecode is enough: the mode is looked at before anything else.
BYTECODE = b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n"


def names():
    found = re.findall(r'^(check|refused)\("(.+?)"', CHECKS, re.M)
    return [name if kind == "check" else name + " is refused" for kind, name in found]


@pytest.fixture(scope="module", name="reports")
def run_checks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bytecode.lua").write_bytes(BYTECODE)
    script = folder / "main.lua"
    script.write_text(f'FOLDER = "{folder}"\n' + PRELUDE + CHECKS + REPORT, encoding="utf-8")
    server = Server(script, folder, handler_budget=60, load_budget=60)  # all checks are one handler's run
    try:
        reports = {}
        with server.raw("/report") as client:
            for when in ("loading", "handler"):
                client.send_frame(1, when)
                reports[when] = dict(line.split("\t", 1) for line in client.text().split("\0"))
        yield reports
        assert server.stop() == 0, server.log
    finally:
        server.kill()


@pytest.mark.parametrize("when", ["loading", "handler"])
@pytest.mark.parametrize("name", names())
def test_library(reports, name, when):
    assert reports[when][name] == "ok"


def test_every_check_is_reported(reports):
    assert sorted(reports["handler"]) == sorted(reports["loading"]) == sorted(names())


def test_main_state_kept_from_loading_does_no_harm(serve):
    server = serve("""
        local main = coroutine.running()
        app.websocket("/x", function(ws)
          ws:on_text(function(ws, text)
            local done = text == "close" and pcall(coroutine.close, main) or pcall(coroutine.resume, main, print)
            ws:send(tostring(done))
          end)
        end)""")
    with server.raw("/x") as client:
        for word in ("close", "resume", "close"):
            client.send_frame(1, word)
            assert client.text() in ("true", "false")


def test_a_coroutine_of_the_server_kept_by_the_script_cannot_be_used(serve):
    server = serve("""
        local kept
        app.websocket("/keep", function(ws)
          kept = coroutine.running()
          ws:send("kept")
        end)
        app.websocket("/use", function(ws)
          ws:on_text(function(ws)
            local mine = coroutine.wrap(function()
              local ok, message = pcall(coroutine.resume, kept)
              local closed, why = pcall(coroutine.close, kept)
              return tostring(ok) .. tostring(closed) .. message .. why
            end)
            ws:send(mine())
          end)
        end)""")
    with server.raw("/keep") as keeper, server.raw("/use") as user:
        assert keeper.text() == "kept"
        user.send_frame(1, "go")
        answer = user.text()
        assert answer.startswith("falsefalse") and answer.count("coroutine of the server") == 2, answer


# ---- require in a handler ----


def test_require_at_run_time(serve):
    server = serve("""
        app.websocket("/x", function(ws)
          ws:on_text(function(ws, name)
            local ok, result = pcall(require, name)
            ws:send(ok and result.here or result)
          end)
        end)""")
    (server.folder / "late.lua").write_text("return { here = 'late' }", encoding="utf-8")
    (server.folder / "bad.lua").write_text("return {\n  x = = 1\n}", encoding="utf-8")
    with server.raw("/x") as client:
        client.send_frame(1, "late")
        assert client.text() == "late"
        client.send_frame(1, "bad")
        assert "bad.lua:2:" in client.text()
        client.send_frame(1, "gone")
        assert f"no file '{server.folder}/gone.lua'" in client.text()
