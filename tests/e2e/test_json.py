# SPDX-License-Identifier: MIT
"""The global json. Most rules are checked by scripts while they load, with `tidewire check`: an error is a failed test,
and names the line."""
import json
import random
import struct
import threading

import pytest

from conftest import TEXT, run

PRELUDE = r"""
local function show(v)
  if type(v) == "string" then return string.format("%q", v) end
  return (math.type(v) or "") .. " " .. tostring(v)
end

local function equal(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return rawequal(a, b) and math.type(a) == math.type(b)
  end
  for k, v in pairs(a) do if not equal(v, b[k]) then return false end end
  for k in pairs(b) do if a[k] == nil then return false end end
  return true
end

local function same(got, wanted)
  if not equal(got, wanted) then error("got " .. show(got) .. ", not " .. show(wanted), 2) end
end

-- The message of the error that f(...) must raise, which has to contain the text.
local function raises(text, f, ...)
  local ok, message = pcall(f, ...)
  if ok then error("raised nothing", 2) end
  if not tostring(message):find(text, 1, true) then
    error("the message lacks '" .. text .. "': " .. tostring(message), 2)
  end
  return message
end

"""

ECHO = """
app.websocket("echo", function(ws)
  ws:on_text(function(ws, text) ws:send(json.encode(json.decode(text))) end)
end)
"""


@pytest.fixture
def check(tmp_path):
    """check(lua, option=value...) loads a script that begins with PRELUDE; returns what the binary printed."""
    def load(lua, code=0, **options):
        script = tmp_path / "main.lua"
        script.write_text(PRELUDE + lua, encoding="utf-8")
        done = run("check", script, env=options)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr
    return load


def quoted(text):
    """A Lua literal."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogateescape")) + '"'


# ---- decoding ----


def test_each_kind_of_value_is_decoded(check):
    check(r"""
      same(json.decode('"text"'), "text")
      same(json.decode("true"), true)
      same(json.decode("false"), false)
      same(json.decode("null"), json.null)
      same(json.decode(' [1, "two", [3], {"four": null}]\r\n\t'), {1, "two", {3}, {four = json.null}})
      same(json.decode('{"a": {"b": [true, false]}, "": 0}'), {a = {b = {true, false}}, [""] = 0})
      same(select("#", json.decode("1")), 1)
    """)


def test_integers_stay_integers_and_the_rest_is_float(check):
    check(r"""
      same(json.decode("[0, 1, -1, 123456789012345678]"), {0, 1, -1, 123456789012345678})
      same(json.decode("9223372036854775807"), math.maxinteger)
      same(json.decode("-9223372036854775808"), math.mininteger)
      same(json.decode("[1.0, 1e2, 0.1, -2.5E-1]"), {1.0, 100.0, 0.1, -0.25})
      same(1 / json.decode("-0.0"), -math.huge)
      same(json.decode("5e-324"), 5e-324)
      same(json.decode("1e-999"), 0.0)
    """)


def test_strings_are_unescaped_and_may_hold_zero_bytes(check):
    check(r"""
      same(json.decode([["\"\\\/\b\f\n\r\t"]]), "\"\\/\b\f\n\r\t")
      same(json.decode([["a\u0000b"]]), "a\0b")
      same(json.decode([["\u00e9\u20AC\ud83d\ude00"]]), "é€😀")
      same(json.decode('{"é": "€😀"}'), {["é"] = "€😀"})
    """)


FAULTS = [
    ("", 1, 0, "unexpected token near end of file"),
    ("[1,\n 2 3]", 2, 4, "']' expected near '3'"),
    ("[1,]", 1, 4, "unexpected token near ']'"),
    ("[1", 1, 2, "']' expected near end of file"),
    ("[1] 2", 1, 5, "end of file expected near '2'"),
    ('{"é": tru}', 1, 9, "invalid token near 'tru'"),
    ("{a: 1}", 1, 2, "string or '}' expected near 'a'"),
    ("{\"a\" 1}", 1, 6, "':' expected near '1'"),
    ("{\"a\": 1,\n\n  \"a\": 2}", 3, 5, "duplicate object key near '\"a\"'"),
    ("[01]", 1, 2, "invalid token near '0'"),
    ("[+1]", 1, 2, "invalid token near '+'"),
    ("[.5]", 1, 2, "invalid token near '.'"),
    ("[NaN]", 1, 4, "invalid token near 'NaN'"),
    ("'a'", 1, 1, "invalid token near '''"),
    ('"a', 1, 2, "premature end of input near '\"a'"),
    ('"a\nb"', 1, 2, "unexpected newline near '\"a'"),
    ('"\x01"', 1, 1, "control character 0x1 near '\"'"),
    (r'"\x"', 1, 3, r"""invalid escape near '"\x'"""),
    (r'"\ud800"', 1, 8, r"""invalid Unicode '\uD800' near '"\ud800"'"""),
    (r'"\ude00\ud83d"', 1, 14, r"""invalid Unicode '\uDE00' near '"\ude00\ud83d"'"""),
    ('"\udcff"', 1, 1, "unable to decode byte 0xff near '\"'"),
    ('"\udcc0\udc80"', 1, 1, "unable to decode byte 0xc0 near '\"'"),
    ('"\udced\udca0\udc80"', 1, 1, "unable to decode byte 0xed near '\"'"),
    ("9223372036854775808", 1, 19, "too big integer near '9223372036854775808'"),
    ("-9223372036854775809", 1, 20, "too big negative integer near '-9223372036854775809'"),
    ("[1e999]", 1, 6, "real number overflow near '1e999'"),
    (r'{"\u0000": 1}', 1, 9, r"""NUL byte in object key not supported near '"\u0000"'"""),
    ("1\0", 1, 2, "zero byte"),
    ('["é",\n1\0]', 2, 2, "zero byte"),
    ("\ufeff1", 1, 1, "invalid token near '\ufeff'"),
]


@pytest.mark.parametrize("text, line, column, what", FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_nil_and_its_place(check, text, line, column, what):
    check(f"""
      local value, message = json.decode({quoted(text)})
      same(value, nil)
      same(message, {quoted(f"line {line}, column {column}: {what}")})
    """)


def test_a_fault_within_a_character_leaves_a_message_in_utf8(check):
    check(r"""
      local _, message = json.decode('"\\u12\xc3\xa9"')
      same(message, "line 1, column 6: invalid escape")
      same(utf8.len(message), #message)
    """)


def test_what_is_no_string_raises_with_the_line(check):
    check(r"""
      local message = raises("string expected, got number", function() local v = json.decode(1) return v end)
      assert(message:find("main.lua:%d+: bad argument #1 to 'decode'"), message)
      raises("string expected, got no value", json.decode)
      raises("string expected, got table", json.decode, {})
    """)


# ---- arrays, objects and null ----


def test_an_empty_array_and_an_empty_object_stay_what_they_are(check):
    check(r"""
      for _, text in ipairs {"[]", "{}", "[[],{}]", '{"a":[]}', '{"a":{}}', "[[[]]]"} do
        same(json.encode(json.decode(text)), text)
      end
      same(json.encode({}), "{}")
      same(json.encode(json.array({})), "[]")
      same(json.encode(json.array()), "[]")
      local list = json.decode("[1, 2]")
      table.remove(list)
      table.remove(list)
      same(json.encode(list), "[]")
      list[1] = "again"
      same(json.encode(list), '["again"]')
    """)


def test_arrays_carry_a_metatable_that_scripts_cannot_reach(check):
    check(r"""
      same(getmetatable(json.decode("[]")), "json.array")
      same(getmetatable(json.array {}), "json.array")
      same(getmetatable(json.decode("{}")), nil)
      raises("cannot change a protected metatable", setmetatable, json.decode("[]"), {})
      local list = {1}
      same(json.array(list), list)
      same(json.array(json.array(list)), list)
      raises("the table has a metatable already", json.array, setmetatable({}, {}))
      raises("table expected, got nil", json.array, nil)
      raises("table expected, got string", json.array, "[]")
    """)


def test_null_is_one_value_true_as_a_condition(check):
    check(r"""
      local value = json.decode('{"a": null, "b": [null]}')
      assert(value.a == json.null and value.b[1] == json.null and json.null)
      same(#json.decode("[null, null]"), 2)
      same(tostring(json.null), "null")
      same(getmetatable(json.null), false)
      same(json.encode({a = json.null}), '{"a":null}')
      same(json.encode(nil), "null")
      same(json.encode({json.null, 1}), "[null,1]")
    """)


def test_an_unknown_field_raises_and_says_what_there_is(check):
    check(r"""
      raises("json has no field 'parse'; there are array, decode, encode and null", function() return json.parse end)
    """)


# ---- encoding ----


def test_each_kind_of_value_is_encoded(check):
    check(r"""
      same(json.encode(true), "true")
      same(json.encode(false), "false")
      same(json.encode("text"), '"text"')
      same(json.encode({1, "two", {3}, {four = true}}), '[1,"two",[3],{"four":true}]')
      same(json.encode({[""] = {}}), '{"":{}}')
      same(json.encode({math.maxinteger, math.mininteger, 0, -7}), "[9223372036854775807,-9223372036854775808,0,-7]")
      same(select("#", json.encode({1})), 1)
    """)


def test_a_list_is_one_however_its_table_was_filled(check):
    check(r"""
      local list = {}
      for i = 300, 1, -1 do list[i] = i end
      same(json.decode(json.encode(list)), list)
      same(json.encode({[3] = "c", [1] = "a", [2] = "b"}), '["a","b","c"]')
      same(json.encode({n = nil, 1, 2, nil}), "[1,2]")
    """)


def test_strings_are_escaped_where_they_must_be(check):
    check(r"""
      same(json.encode('"\\/'), [["\"\\/"]])
      same(json.encode("\b\f\n\r\t"), [["\b\f\n\r\t"]])
      same(json.encode("\0\1\31\127"), '"\\u0000\\u0001\\u001f\127"')
      same(json.encode("é€😀\u{2028}"), '"é€😀\u{2028}"')
      same(json.encode({['a"\n'] = 1}), [[{"a\"\n":1}]])
      local all = {}
      for i = 0, 127 do all[i + 1] = string.char(i) end
      all = table.concat(all)
      same(json.decode(json.encode(all)), all)
      same(json.encode(("x"):rep(100000)), '"' .. ("x"):rep(100000) .. '"')
      same(json.encode(("\n"):rep(100000)), '"' .. ("\\n"):rep(100000) .. '"')
    """)


def test_floats_stay_floats(check):
    check(r"""
      for value, text in pairs {
        [1.5] = "1.5", [0.1] = "0.1", [-0.25] = "-0.25", [1e100] = "1e+100", [1/3] = "0.3333333333333333",
        [0.1 + 0.2] = "0.30000000000000004", [5e-324] = "4.94065645841247e-324", [52.520008] = "52.520008",
        [1.7976931348623157e308] = "1.7976931348623157e+308", [1e-7] = "1e-07", [0.000001] = "0.000001",
        [0.001] = "0.001", [999999999.999999] = "999999999.999999", [1.15] = "1.15",
        [1e15 + 0.5] = "1000000000000000.5",
      } do same(json.encode(value), text) end
      same(json.encode(1.0), "1.0")
      same(json.encode(-0.0), "-0.0")
      same(json.encode(0.0), "0.0")
      same(json.encode(2.0 ^ 53), "9007199254740992.0")
      same(json.encode(123456789012345.0), "123456789012345.0")
      same(json.encode(1e15), "1e+15")
    """)


def test_floats_have_the_fewest_digits_that_say_them(serve):
    rng = random.Random(4)
    values = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(2000)]
    values += [round(rng.uniform(-1e6, 1e6), rng.randint(0, 9)) for _ in range(2000)]
    values += [rng.randint(0, 2**62) * 10.0 ** rng.randint(-25, 5) for _ in range(2000)]
    values = [value for value in values if value - value == 0]
    with serve(ECHO).raw("/echo") as client:
        client.send_frame(TEXT, json.dumps(values))
        written = client.text()[1:-1].split(",")

    def digits(text):
        mantissa = text.lower().partition("e")[0].replace("-", "").replace(".", "").lstrip("0")
        return len(mantissa.rstrip("0")) or 1
    assert [float(text) for text in written] == values
    longer = [(text, value) for text, value in zip(written, values)
              if digits(text) > digits(repr(value)) and abs(value) > 1e-300]
    assert longer == []


def test_pretty_puts_each_member_on_a_line(check):
    check(r"""
      same(json.encode({a = {1, {b = json.array()}, {}}}, {pretty = true}), [[{
  "a": [
    1,
    {
      "b": []
    },
    {}
  ]
}]])
      same(json.encode({}, {pretty = true}), "{}")
      same(json.encode(json.array(), {pretty = true}), "[]")
      same(json.encode({1}, {pretty = false}), "[1]")
    """)


def test_sort_orders_keys_by_their_bytes(check):
    check(r"""
      same(json.encode({b = 1, a = 2, ab = 3, B = 4, ["é"] = 5, [""] = 6}, {sort = true}),
           '{"":6,"B":4,"a":2,"ab":3,"b":1,"é":5}')
      local value, keys = {}, {}
      for i = 1, 200 do value[("k%03d"):format(i)] = {z = i, y = {x = 1, w = 2}} end
      for key in json.encode(value, {sort = true}):gmatch('"(k%d+)":{"y":{"w":2,"x":1},"z":%d+}') do
        keys[#keys + 1] = key
      end
      same(#keys, 200)
      for i, key in ipairs(keys) do same(key, ("k%03d"):format(i)) end
      local long = ("x"):rep(100)
      same(json.encode({[long .. "b"] = 1, [long .. "a"] = 2}, {sort = true}),
           '{"' .. long .. 'a":2,"' .. long .. 'b":1}')
    """)


def test_metatables_do_not_matter(check):
    check(r"""
      local called = function() error("called") end
      local proxy = setmetatable({a = 1}, {__index = called, __pairs = called, __len = called, __tostring = called})
      same(json.encode(proxy), '{"a":1}')
    """)


REFUSED = [
    ("print", "$ is a function"),
    ("{users = {1, 2, {callback = print}}}", "$.users[3].callback is a function"),
    ("{coroutine.create(print)}", "$[1] is a thread"),
    ("{file = io.stdout}", "$.file is a FILE*"),
    ("{0/0}", "$[1] is not a number (nan)"),
    ("{x = {y = 1/0}}", "$.x.y is infinite"),
    ("-1/0", "$ is infinite"),
    ("{1, 2, a = 3}", "$ has both names and indices as keys"),
    ("{list = json.array {a = 1}}", "$.list has both names and indices as keys"),
    ("{1, nil, 3}", "$ is a list with holes: its last index is 3, its elements are 2"),
    ("{list = {[10] = 1}}", "$.list is a list with holes: its last index is 10, its elements are 1"),
    ("{[0] = 1}", "$ has the index 0, and a list begins at 1"),
    ("{[-1] = 1, [2] = 1}", "and a list begins at 1"),
    ("{[1.5] = 1}", "$ has the key 1.5"),
    ("{{[true] = 1}}", "$[1] has a boolean as a key"),
    ("{[{}] = 1}", "$ has a table as a key"),
    (r'{a = "\xff"}', "$.a is a string that is not UTF-8"),
    (r'{a = "\xed\xa0\x80"}', "$.a is a string that is not UTF-8"),
    (r'{a = {["\xff"] = 1}}', "$.a has a key that is not UTF-8"),
    ("{['a b'] = {['2'] = print}}", '$["a b"]["2"] is a function'),
    ("{[('k'):rep(99)] = print}", "$." + "k" * 32 + "... is a function"),
    ("{['k' .. ('é'):rep(99)] = print}", '$["k' + "é" * 15 + '..."] is a function'),
]


@pytest.mark.parametrize("style", ["{}", "{sort = true, pretty = true}"])
def test_what_json_has_not_raises_and_names_the_place(check, style):
    check("".join(f"""
      raises("main.lua:", function() local text = json.encode({value}, {style}) return text end)
      raises({quoted('json: ' + text if text.startswith('$') else text)}, json.encode, {value}, {style})
    """ for value, text in REFUSED))


def test_both_kinds_of_keys_are_refused_whichever_comes_first(check):
    check(r"""
      for _, key in ipairs {1, 2, 7, "a", "b", "c", ("too long for a short string"):rep(3)} do
        for _, other in ipairs {1, 3, 8, "x", "y"} do
          if type(key) ~= type(other) then
            raises("$ has both names and indices as keys", json.encode, {[key] = 1, [other] = 2})
            raises("$ has both names and indices as keys", json.encode, {[key] = 1, [other] = 2}, {sort = true})
          end
        end
      end
    """)


def test_a_table_in_itself_is_named(check):
    check(r"""
      local a = {}
      a.b = {c = {1, a}}
      raises("json: $.b.c[2] is a table that contains itself", json.encode, a)
      raises("json: $.b.c[2] is a table that contains itself", json.encode, a, {sort = true})
      local twice = {}
      same(json.encode({twice, twice}), "[{},{}]")
    """)


def test_options_of_encode_are_checked(check):
    check(r"""
      raises("json.encode: no option 'indent'; there are pretty and sort", json.encode, {}, {indent = 2})
      raises("json.encode: pretty is a boolean, not a number", json.encode, {}, {pretty = 2})
      raises("table expected, got boolean", json.encode, {}, true)
      raises("value expected", json.encode)
      same(json.encode({1}, nil), "[1]")
    """)


# ---- depth and memory ----


def test_200_levels_are_decoded_and_encoded_and_no_more(check):
    check(r"""
      local function nested(n, open, close) return open:rep(n) .. "1" .. close:rep(n) end
      for open, close in pairs {["["] = "]", ['{"a":'] = "}"} do
        same(json.encode(json.decode(nested(200, open, close))), nested(200, open, close))
        local value, message = json.decode(nested(201, open, close))
        same(value, nil)
        same(message, ("line 1, column %d: more than 200 levels deep"):format(200 * #open + 1))
      end
      -- Brackets in strings do not count, lines and characters do; and a million levels do no harm.
      local value, message = json.decode('{"[[\\"{": [\n"é", ' .. ("["):rep(300) .. ("]"):rep(300) .. "]}")
      same(value, nil)
      same(message, "line 2, column 204: more than 200 levels deep")
      value, message = json.decode(("[\n"):rep(1000000))
      same(value, nil)
      same(message, "line 201, column 1: more than 200 levels deep")
      local deep = 1
      for _ = 1, 200 do deep = {deep} end
      same(json.encode(deep), nested(200, "[", "]"))
      for _ = 1, 100000 do deep = {deep} end
      raises("json: $" .. ("[1]"):rep(16) .. "... is more than 200 levels deep", json.encode, deep)
    """)


def test_decoding_counts_as_memory_of_the_script(check):
    check(r"""
      local text = "[" .. ("[],"):rep(400000) .. "1]" -- 1.2 MB, and some 50 when decoded
      local ok, message = pcall(json.decode, text)
      same(ok, false)
      same(message, "not enough memory")
      text = '["' .. ("a"):rep(3000000) .. '"]' -- one long token
      same({pcall(json.decode, text)}, {false, "not enough memory"})
      -- All of it is free again at once.
      text = nil
      collectgarbage()
      same(#("x"):rep(6000000), 6000000) -- which takes it twice
      same(json.decode("[1, 2]"), {1, 2})
    """, vm_memory="16m")


def test_encoding_counts_as_memory_of_the_script(check):
    check(r"""
      local list, text = {}, ("\1"):rep(1000)
      for i = 1, 2000 do list[i] = text end -- 12 MB as JSON
      same({pcall(json.encode, list)}, {false, "not enough memory"})
      same({pcall(json.encode, list, {sort = true, pretty = true})}, {false, "not enough memory"})
      local wide = {}
      for i = 1, 50000 do wide[i .. ""] = 1 end
      same(select("#", json.encode(wide, {sort = true})), 1)
      wide, list = nil, nil
      collectgarbage()
      same(#("x"):rep(6000000), 6000000) -- which takes it twice
      same(json.encode({1}), "[1]")
    """, vm_memory="16m")


def test_sorting_holds_the_keys_of_the_objects_around_only(check):
    check(r"""
      local object, list = {}, {}
      for i = 1, 10000 do object[i .. ""] = 1 end
      for i = 1, 60 do list[i] = object end
      same(#json.encode(list, {sort = true}), 60 * 88895 + 61)
    """, vm_memory="18m")


def test_a_script_that_decodes_more_than_its_memory_does_not_load(check):
    said = check('json.decode("[" .. ("[],"):rep(400000) .. "1]")', code=1, vm_memory="16m")
    assert "needs more than vm_memory" in said


def test_a_handler_that_runs_out_of_memory_ends_its_connection_alone(serve):
    server = serve(ECHO, vm_memory="8m")
    with server.raw("/echo") as other, server.raw("/echo") as client:
        client.send_frame(TEXT, "[" + "[]," * 100000 + "1]")
        client.expect_close(1011)
        server.wait_log("needs more than vm_memory")
        other.send_frame(TEXT, "[[], {}]")
        assert other.text() == "[[],{}]"


# ---- in handlers ----


def some_text(rng):
    ranges = [(1, 127), (0xa0, 0xd7ff), (0x10000, 0x10ffff)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 20)))


def some_value(rng, depth=0):
    kind = rng.randint(0, 6 if depth < 5 else 4)
    if kind == 0:
        return rng.choice([None, True, False, "\0"])
    if kind == 1:
        return rng.randint(-2**63, 2**63 - 1) >> rng.randint(0, 63)
    if kind == 2:
        return rng.choice([0.0, -0.0, rng.random(), rng.uniform(-1e300, 1e300), rng.randint(-9, 9) / 4])
    if kind in (3, 4):
        return some_text(rng)
    if kind == 5:
        return [some_value(rng, depth + 1) for _ in range(rng.randint(0, 6))]
    return {some_text(rng): some_value(rng, depth + 1) for _ in range(rng.randint(0, 6))}


def exact(value):
    """Keys in order; and repr tells 1, 1.0 and True, and 0.0 and -0.0 apart."""
    return repr(sort_keys(value))


def sort_keys(value):
    if isinstance(value, dict):
        return {key: sort_keys(value[key]) for key in sorted(value)}
    return [sort_keys(element) for element in value] if isinstance(value, list) else value


def test_values_come_back_as_they_were_from_all_workers_at_once(serve):
    server = serve(ECHO, workers=3)
    faults = []

    def talk(seed):
        rng = random.Random(seed)
        try:
            with server.raw("/echo") as client:
                for _ in range(40):
                    value = [some_value(rng) for _ in range(10)]
                    client.send_frame(TEXT, json.dumps(value, ensure_ascii=rng.random() < 0.5))
                    back = json.loads(client.text())
                    assert exact(back) == exact(value)
        except BaseException as error:  # pylint: disable=broad-except
            faults.append(error)
    threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]


def test_an_error_of_encode_in_a_handler_is_logged_with_line_and_place(serve):
    server = serve("""app.websocket("x", function(ws)
      ws:send(json.encode({ok = true}))
      ws:on_text(function(ws) ws:send(json.encode({from = {ws}})) end)
    end)""")
    with server.raw("/x") as client:
        assert client.text() == '{"ok":true}'
        client.send_frame(TEXT, "go")
        client.expect_close(1011)
    server.wait_log(r"main\.lua:3: json: \$\.from\[1\] is a tidewire\.ws")
