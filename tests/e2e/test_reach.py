# SPDX-License-Identifier: MIT
"""What scripts find with the debug library: the server's own functions and tables. They do no harm."""

import pytest

REACH = {
    "called": """
        for level = 1, 50 do
          local info = debug.getinfo(level, "fS")
          if not info then break end
          if info.what == "C" and info.func then pcall(info.func) end
        end
        ws:send("still here")""",
    "called after its time": """
        if KEPT then
          for _, call in ipairs(KEPT) do pcall(table.unpack(call)) end
          ws:send("still here")
          return
        end
        KEPT = {}
        for level = 1, 50 do
          local info = debug.getinfo(level, "fS")
          if not info then break end
          if info.what == "C" and info.func then
            KEPT[#KEPT + 1] = { info.func, select(2, debug.getlocal(level, 1)) }
          end
        end
        ws:send("kept")""",
}


@pytest.mark.parametrize("body", REACH.values(), ids=REACH)
def test_the_servers_functions_found_on_the_stack_do_no_harm(serve, body):
    server = serve('app.websocket("/x", function(ws) ws:on_text(function(ws) ' + body + " end) end)")
    for _ in range(2):
        with server.raw("/x") as client:
            client.send_frame(1, "go")
            client.text()


KEEP = """
local found = {}
local function keep()
  for level = 1, 50 do
    local info = debug.getinfo(level, "fS")
    if not info then break end
    if info.what == "C" and info.func then found[#found + 1] = info.func end
  end
end
app.get("/", function() keep() return "kept" end)
app.websocket("/x", function(ws)
  keep()
  ws:on_close(keep)
  ws:on_text(function(ws)
    for _, f in ipairs(found) do
      pcall(f, ws)
      pcall(f)
    end
    ws:send("still here")
  end)
end)
"""


def test_the_servers_functions_of_other_entries_do_no_harm(serve):
    server = serve(KEEP)
    with server.raw() as client:
        assert client.request("GET / HTTP/1.1\nHost: x\n\n").body == "kept"
    with server.raw("/x") as client:
        client.send_frame(8, b"")
        client.expect_close(None)
    for _ in range(2):
        with server.raw("/x") as client:
            client.send_frame(1, "go")
            assert client.text() == "still here"


@pytest.mark.parametrize("object_, field", [("ws", "id"), ("req", "method")])
def test_the_servers_tables_found_with_debug_do_no_harm(serve, object_, field):
    server = serve(f"""
        local object, fields
        local function find()
          for level = 1, 8 do
            local info = debug.getinfo(level, "fS")
            local _, value = nil, nil
            if info and info.what == "C" then _, value = debug.getupvalue(info.func, 1) end
            if type(value) == "table" and rawget(value, "{field}") then fields = value end
          end
        end
        app.websocket("/x", function(ws, req)
          object = {object_}
          xpcall(function() return object.nonesuch end, find)
          for _, number in ipairs {{12345678, -1, 2^53, "x", false}} do
            rawset(fields, "forged", number)
            pcall(function() return object.forged end)
          end
          ws:on_text(function(ws) ws:send("still here") end)
        end)""")
    with server.raw("/x") as client:
        client.send_frame(1, "go")
        assert client.text() == "still here"
