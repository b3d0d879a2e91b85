# SPDX-License-Identifier: MIT
"""HTTP routes: which function answers, the middleware around it, what they are told and what becomes of what they
return."""
import json
import re

import pytest

from conftest import TEXT, frame, run

UPGRADE_LINES = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                 "Sec-WebSocket-Version: 13"]


def request(target, *lines, body=None, close=True):
    """The bytes of a request; `target` is "GET /path"."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"{target} HTTP/1.1", "Host: localhost", *lines]
    if close and not any(line.startswith(("Connection:", "Upgrade:")) for line in lines):
        lines.append("Connection: close")
    if data is not None:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + (data or b"")


def ask(server, target, *lines, body=None):
    """The answer to one request on a connection of its own, behind which nothing may come."""
    with server.raw() as client:
        client.send(request(target, *lines, body=body))
        answer = client.response(head_only=target.startswith("HEAD"))
        client.expect_end()
        return answer


def ask_fields(server, target, *lines, body=None):
    """The answer's header lines as they are, [(name in lower case, value)]."""
    with server.raw() as client:
        client.send(request(target, *lines, body=body))
        head = client.until(b"\r\n\r\n").decode("latin-1").split("\r\n")[1:-2]
        return [(line.split(": ", 1)[0].lower(), line.split(": ", 1)[1]) for line in head]


def refused(tmp_path, source):
    """The message of a script that may not load."""
    (tmp_path / "main.lua").write_text(source, encoding="utf-8")
    result = run("check", tmp_path / "main.lua")
    assert result.returncode == 1, result
    return result.stdout + result.stderr


def upgrade(server, path):
    """The answer to a handshake, which is to be refused."""
    with server.raw() as client:
        client.handshake(path)
        answer = client.response()
        assert answer.status != 101, "accepted"
        client.expect_end()
        return answer


# ---- routes ----

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def test_each_method_has_a_function_of_its_name(serve):
    server = serve("".join(f"app.{m.lower()}('x', function(req) return 200, req.method, {{X = '{m}'}} end)\n"
                           for m in METHODS))
    for method in METHODS:
        answer = ask(server, f"{method} /x")
        assert (answer.status, answer.headers["x"]) == (200, method)
        assert answer.headers["content-length"] == str(len(method))
        assert answer.body == ("" if method == "HEAD" else method)


def test_app_route_takes_the_method_as_a_string(serve):
    server = serve("for _, m in ipairs {'PUT', 'HEAD'} do app.route(m, '/x', {max_body = 9}, function(req) "
                   "return m end) end")
    assert ask(server, "PUT /x", body="").body == "PUT"
    assert ask(server, "HEAD /x").headers["content-length"] == "4"
    assert ask(server, "GET /x").status == 405


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "WEBSOCKET", "GETS", "", "GE", "G\\0"])
def test_app_route_refuses_a_method_that_no_route_can_have(tmp_path, method):
    message = refused(tmp_path, f"\napp.route('{method}', '/x', function() end)")
    assert "main.lua:2" in message and "GET, HEAD, POST" in message


def test_head_is_answered_by_the_handler_of_get_without_the_body_9110_9_3_2(serve):
    server = serve("app.get('x', function(req) return req.method .. ' ' .. ('y'):rep(2000) end)"
                   "app.get('t', function() return {1, 2} end)")
    answer = ask(server, "HEAD /x", "Accept-Encoding: gzip")
    assert (answer.status, answer.headers["content-length"]) == (200, "2005")
    assert ask(server, "HEAD /t").headers["content-type"].startswith("application/json")


SEVERAL = """
local function f() return 'f' end
app.get('a', f) app.post('a', f) app.delete('b', f) app.head('h', f) app.websocket('w', f)
app.websocket('both', function(ws) ws:send('hello') end) app.get('both', f)
app.options('o', function() return 'own' end)
app.get('p/:x', f) app.put('p/q', f)
"""


@pytest.mark.parametrize("middleware", ["", "app.use(function(req, next) return next(req) end)"], ids=["bare", "use"])
@pytest.mark.parametrize("path, allow", [
    ("/a", "GET, HEAD, POST, OPTIONS"), ("/b", "DELETE, OPTIONS"), ("/h", "HEAD, OPTIONS"), ("/w", "GET, OPTIONS"),
    ("/both", "GET, HEAD, OPTIONS"), ("/p/q", "GET, HEAD, PUT, OPTIONS"), ("/p/z", "GET, HEAD, OPTIONS")])
def test_405_and_options_tell_the_methods_of_the_path_9110_15_5_6(serve, path, allow, middleware):
    server = serve(middleware + SEVERAL)
    for method in ("PATCH", "OPTIONS"):
        answer = ask(server, f"{method} {path}")
        assert answer.status == (405 if method == "PATCH" else 204)
        assert set(answer.headers["allow"].split(", ")) == set(allow.split(", "))


def test_options_has_no_body_and_a_route_may_answer_it(serve):
    server = serve(SEVERAL)
    answer = ask(server, "OPTIONS /a")
    assert answer.body == "" and "content-length" not in answer.headers
    assert ask(server, "OPTIONS /o").body == "own"
    assert ask(server, "OPTIONS /nothing").status == 404
    assert "PATCH" in ask(server, "OPTIONS *").headers["allow"]


def test_a_websocket_and_a_get_route_share_a_path(serve):
    server = serve(SEVERAL)
    assert ask(server, "GET /both").body == "f"
    assert ask(server, "HEAD /both").status == 200
    with server.raw("/both") as client:
        assert client.text() == "hello"


PRECEDENCE = ["p/fixed", "p/fixed/only", "p/:name", "p/:name/other", "p/*/end", "p/**", "", "**"]


@pytest.mark.parametrize("path, pattern", [
    ("/p/fixed", "p/fixed"), ("/p/fixed/", "p/fixed"), ("//p//fixed", "p/fixed"), ("/%70/fix%65d", "p/fixed"),
    ("/p/x", "p/:name"), ("/p/fixed/other", "p/:name/other"), ("/p/fixed/end", "p/*/end"), ("/p/fixed/x/y", "p/**"),
    ("/p/a%2Fb", "p/:name"), ("/", ""), ("/?x", ""), ("/q", "**"), ("/p", "**"),
    ("http://localhost/p/fixed", "p/fixed")])
def test_the_most_specific_route_wins_whatever_the_order(serve, path, pattern):
    for patterns in (PRECEDENCE, PRECEDENCE[::-1]):
        server = serve("".join(f"app.get('{p}', function() return 200, '{p}|' end)" for p in patterns))
        assert ask(server, f"GET {path}").body == pattern + "|"


def test_a_more_specific_route_of_another_method_is_no_match(serve):
    server = serve("app.get('p/fixed', function() return 'get' end) "
                   "app.post('p/:name', function(req) return req.params.name end)")
    assert ask(server, "POST /p/fixed", body="").body == "fixed"


def test_params_are_decoded(serve):
    server = serve("app.get('u/:id/f/**', function(req) return req.params.id .. '|' .. req.params['**'] end)"
                   "app.post('u/:other/f/*', function(req) return req.params.other .. '|' .. req.params['*'] end)")
    assert ask(server, "GET /u/a%2Fb%20c/f/x/%C3%A9/+").body == "a/b c|x/é/+"
    assert ask(server, "POST /u/1/f/2", body="").body == "1|2"


@pytest.mark.parametrize("second", [
    "app.get('/a/:y/', f)", "app.route('GET', 'a/:x', f)", "app.group('a', function(g) g.get(':z', f) end)"])
def test_the_same_path_twice_is_an_error_that_names_both_places(tmp_path, second):
    message = refused(tmp_path, f"local function f() end\napp.get('a/:x', f)\n\n{second}")
    assert "main.lua:2" in message and "main.lua:4" in message
    (tmp_path / "main.lua").write_text("local function f() end app.get('a', f) app.post('a', f) app.get('a/b', f)")
    assert run("check", tmp_path / "main.lua").returncode == 0


@pytest.mark.parametrize("source, says", [
    ("app.get('x')", "function expected"), ("app.get(function() end)", "string expected"),
    ("app.get('x', {}, 1)", "function expected"), ("app:get('x', function() end)", "with a dot"),
    ("app.get('x', function() end, 1)", "got 3 arguments"),
    ("app.get('x', {max_bodi = 1}, function() end)", "unknown option max_bodi"),
    ("app.get('x', {max_body = 'much'}, function() end)", "max_body"), ("app.use()", "function expected"),
    ("app.use({})", "function expected"), ("app.use(1)", "function expected"), ("app.group('x')", "function expected"),
    ("app.group(function() end)", "string expected"),
    ("app.group('x', function(g) g:get('y', print) end)", "with a dot"),
    ("app.group('x', function(g) g.gte('y', print) end)", "no function 'gte'"),
    ("app.group('x', function(g) g.sleep(1) end)", "no function 'sleep'"),
    ("app.group('**', function(g) g.get('y', print) end)", "main.lua:2")])
def test_misuse_is_an_error_of_the_scripts_line(tmp_path, source, says):
    message = refused(tmp_path, "\n" + source)
    assert says in message and "main.lua:2" in message


def test_routes_are_registered_while_the_script_loads_only(serve):
    server = serve("""
      local kept
      app.group("g", function(g) kept = g end)
      for i, f in ipairs {function() app.get("y", print) end, function() kept.get("y", print) end,
                          function() app.use(print) end, function() app.group("y", print) end,
                          function() app.websocket("y", print) end} do
        app.get("x" .. i, f)
      end""")
    for i in range(1, 6):
        start = server.mark()
        assert ask(server, f"GET /x{i}").status == 500
        server.wait_log("while the script loads", start)
    assert ask(server, "GET /y").status == 404


def test_groups_nest_and_their_slashes_do_not_matter(serve):
    server = serve("""
      local function f(req) return req.path end
      app.group("/a/", function(a)
        a.get("", f) a.post("/x", f)
        a.group(":id", function(b) b.get("/", function(req) return req.params.id end) b.route("PUT", "//c/", f) end)
        a.group("", function(b) b.get("e", f) end)
      end)""")
    for target, body in {"GET /a": "/a", "POST /a/x": "/a/x", "GET /a/7": "7", "PUT /a/7/c": "/a/7/c",
                         "GET /a/e": "/a/e"}.items():
        assert ask(server, target).body == body


# ---- middleware ----

TAG = """
function tag(name)
  return function(req, next)
    req.context.way = (req.context.way or "") .. name
    local res = next(req)
    res.headers["X-Way"] = (res.headers["x-way"] or "") .. name
    return res
  end
end
"""


def test_middleware_runs_from_the_outside_in_and_back(serve):
    server = serve(TAG + """
      app.use(tag "a", tag "b")
      app.get("top", function(req) return req.context.way end)
      app.group("g", tag "d", tag "e", function(g)
        g.get("x", function(req) return req.context.way end)
        g.websocket("w", function(ws, req) ws:send(req.context.way .. ws.request.context.way) end)
        g.group("h", tag "g", function(h) h.get("x", function(req) return req.context.way end) end)
        g.use(tag "f")
      end)
      app.use(tag "c")""")
    for path, way in {"/top": "abc", "/g/x": "abcdef", "/g/h/x": "abcdefg"}.items():
        answer = ask(server, f"GET {path}")
        assert (answer.body, answer.headers["x-way"]) == (way, way[::-1])
    for path, status in {"GET /g/none": 404, "POST /g/x": 405, "OPTIONS /g/x": 204, "GET /g/w": 426}.items():
        answer = ask(server, path)
        assert (answer.status, answer.headers["x-way"]) == (status, "cba")
    with server.raw() as client:
        client.handshake("/g/w")
        answer = client.response()
        assert (answer.status, answer.headers["x-way"]) == (101, "fedcba")
        assert client.text() == "abcdef" * 2


INNER = "function() return 201, 'inner', {['X-Inner'] = '1', ['x-list'] = {'a', 'b'}} end"


def with_middleware(middleware, handler=INNER):
    return f"app.use({middleware})\napp.get('x', {handler})\napp.websocket('w', function(ws) ws:send('in') end)"


def test_middleware_changes_the_answer(serve):
    server = serve(with_middleware("""function(req, next)
      local res = next(req)
      assert(res.status == 201 and res.body == 'inner' and res.headers['x-INNER'] == '1')
      res.status, res.body = 202, res.body .. ' outer'
      res.headers['X-INNER'] = '2'
      res.headers['X-LIST'] = nil
      res.headers['content-type'] = 'text/html'
      return res
    end"""))
    fields = ask_fields(server, "GET /x")
    assert [value for name, value in fields if name == "x-inner"] == ["2"]
    assert [value for name, value in fields if name == "content-type"] == ["text/html"]
    assert "x-list" not in dict(fields)
    answer = ask(server, "GET /x")
    assert (answer.status, answer.body) == (202, "inner outer")


@pytest.mark.parametrize("answer, status, body", [
    ("'text'", 200, "text"), ("{why = 1}", 200, '{"why":1}'), ("403, 'no'", 403, "no"),
    ("302, '', {Location = '/login'}", 302, "302 Found"), ("401", 401, "401 Unauthorized"),
    ("204", 204, ""), ("200, function(write) write('by pieces') end", 200, "by pieces")])
def test_middleware_answers_instead_also_of_a_websocket(serve, answer, status, body):
    server = serve(with_middleware(f"function(req) return {answer} end"))
    for send in (lambda client: client.send(request("GET /x")), lambda client: client.handshake("/w")):
        with server.raw() as client:
            send(client)
            got = client.response()
            if "transfer-encoding" in got.headers:
                got.body = client.until(b"0\r\n\r\n").decode().split("\r\n")[1]
            assert got.status == status and got.body.split("\n")[0] == body
            assert got.headers["connection"] == "close"
            client.expect_end()
    server.wait_metric("tidewire_websockets", 0)
    assert server.metrics()["tidewire_upgrades_total"] == 0


def test_middleware_suspends_around_both_kinds_of_routes(serve):
    server = serve(TAG + with_middleware("""function(req, next)
      app.sleep(0) req.context.n = 1
      local res = next(req)
      app.sleep(0) res.headers.n = req.context.n
      return res
    end, tag 'a'""", "function(req) app.sleep(0) return 'n' .. req.context.n end"))
    answer = ask(server, "GET /x")
    assert (answer.body, answer.headers["n"], answer.headers["x-way"]) == ("n1", "1", "a")
    with server.raw() as client:
        client.handshake("/w")
        assert client.response().headers["n"] == "1"
        assert client.text() == "in"
    assert ask(server, "GET /none").status == 404


def test_a_status_that_middleware_gives_an_accepted_handshake_does_not_accept_it(serve):
    server = serve(with_middleware("function(req, next) local res = next(req) res.status = 403 return res end"))
    assert upgrade(server, "/w").status in (403, 500)


def test_the_answer_kept_from_a_websocket_is_no_answer_for_another_route(serve):
    server = serve(with_middleware("""(function()
      local kept
      return function(req, next) if req.path == '/x' then return kept end kept = next(req) return kept end
    end)()"""))
    with server.raw("/w") as client:
        assert client.text() == "in"
        assert ask(server, "GET /x").status == 500


BAD_MIDDLEWARE = {
    "an error": ("function() error('secret') end", "secret"),
    "an error after": ("function(req, next) next(req) error('secret') end", "secret"),
    "nothing": ("function(req, next) next(req) end", "returned nothing"),
    "next without req": ("function(req, next) return next() end", r"next\(req\)"),
    "next with something else": ("function(req, next) return next({}) end", r"next\(req\)"),
    "a bad status": ("function() return 200.5 end", "200.5"),
    "status 101": ("function(req, next) return 101 end", "101"),
    "no headers": ("function(req, next) local r = next(req) r.headers = nil return r end", "headers"),
    "a split header": ("function(req, next) local r = next(req) r.headers.x = 'a\\r\\nb: c' return r end", "control"),
    "the server's header": (
        "function(req, next) local r = next(req) r.headers.date = 'x' return r end", "server's own"),
    "the handshake's header": (
        "function(req, next) local r = next(req) r.headers['Sec-WebSocket-Accept'] = 'x' return r end", "server's own"),
}


@pytest.mark.parametrize("target", ["GET /x", "GET /none", "WEBSOCKET /w"])
@pytest.mark.parametrize("case", BAD_MIDDLEWARE)
def test_a_fault_of_middleware_is_500_and_logged(serve, case, target):
    middleware, says = BAD_MIDDLEWARE[case]
    server = serve(with_middleware(middleware))
    answer = upgrade(server, "/w") if target.startswith("WEBSOCKET") else ask(server, target)
    assert answer.status == 500 and "secret" not in answer.body and "main.lua" not in answer.body
    server.wait_log(says)
    assert server.metrics()['tidewire_handler_errors_total{reason="error"}'] == 1


def test_next_may_be_called_twice_and_long_after(serve):
    server = serve("local n = 0 " + with_middleware("""function(req, next)
      next(req) local res = next(req)
      app.spawn(function() app.sleep(0) next(req) log.info('late', req.path) end)
      return res
    end""", "function() n = n + 1 return 'n' .. n end"))
    assert ask(server, "GET /x").body == "n2"
    server.wait_log("late /x")
    with server.raw("/w") as client:
        assert client.text() == "in"
        server.wait_log("late /w")
    assert server.metrics()["tidewire_upgrades_total"] == 1


def test_should_upgrade_is_innermost_and_middleware_sees_what_it_says(serve):
    server = serve(TAG + """
      local says = {}
      app.use(function(req, next) local r = next(req) log.info('says', r.status, r.body) return r end, tag 'a')
      app.websocket('yes', {should_upgrade = function(req) return {Way = req.context.way} end}, function() end)
      app.websocket('no', {should_upgrade = function(req) return false, 402, 'pay' end}, function() end)""")
    with server.raw() as client:
        client.handshake("/yes")
        answer = client.response()
        assert (answer.status, answer.headers["way"], answer.headers["x-way"]) == (101, "a", "a")
        server.wait_log("says 101 nil")
    assert upgrade(server, "/no").body == "pay"
    server.wait_log("says 402 pay")


CHANGED = "function(req, next) local res = next(req) %s return res end"


def test_a_405_with_words_of_middleware_still_has_allow_9110_15_5_6(serve):
    server = serve(with_middleware(CHANGED % "res.body = {sorry = true}"))
    answer = ask(server, "POST /x", body="")
    assert (answer.status, answer.body, answer.headers["allow"]) == (405, '{"sorry":true}', "GET, HEAD, OPTIONS")


def test_a_changed_status_does_not_keep_the_sentence_of_the_old_one(serve):
    server = serve(with_middleware(CHANGED % "res.status = 403"))
    answer = ask(server, "GET /none")
    assert answer.status == 403 and "No route" not in answer.body


def test_a_handshake_that_fits_no_route_ends_the_connection_with_middleware_too(serve):
    server = serve(with_middleware(CHANGED % ""))
    with server.raw() as client:
        client.handshake("/none")
        client.send(frame(TEXT, "early"))
        assert client.response().status == 404
        client.expect_end()


# ---- answers ----

@pytest.mark.parametrize("answer, status, kind, body", [
    ("'text'", 200, "text/plain; charset=utf-8", "text"), ("''", 200, None, ""),
    ("'a\\0b'", 200, "text/plain; charset=utf-8", "a\0b"), ("{}", 200, "application/json", "{}"),
    ("json.array {}", 200, "application/json", "[]"), ("{1, 'x', false}", 200, "application/json", '[1,"x",false]'),
    ("{n = 9007199254740993}", 200, "application/json", '{"n":9007199254740993}'),
    ("201", 201, None, ""), ("201, 'made'", 201, "text/plain; charset=utf-8", "made"),
    ("200, 42", 200, "text/plain; charset=utf-8", "42"), ("200, 1.5", 200, "text/plain; charset=utf-8", "1.5"),
    ("200.0, 'x'", 200, "text/plain; charset=utf-8", "x"), ("'200'", 200, "text/plain; charset=utf-8", "200"),
    ("404, {error = 'x'}", 404, "application/json", '{"error":"x"}'),
    ("599, 'odd'", 599, "text/plain; charset=utf-8", "odd"),
    ("200, 'x', {['content-TYPE'] = 'text/html'}", 200, "text/html", "x"),
    ("200, {}, {['Content-Type'] = 'application/problem+json'}", 200, "application/problem+json", "{}")])
def test_what_a_handler_returns_is_the_answer(serve, answer, status, kind, body):
    server = serve(f"app.get('x', function() return {answer} end)")
    got = ask(server, "GET /x")
    assert (got.status, got.headers.get("content-type"), got.body) == (status, kind, body)
    assert got.headers["content-length"] == str(len(body))
    assert [name for name, _ in ask_fields(server, "GET /x")].count("content-type") == (1 if kind else 0)
    assert ask(server, "HEAD /x").headers.get("content-length") == str(len(body))


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_body_has_none_9112_6_3(serve, status):
    server = serve(f"app.get('x', function() return {status}, 'not sent' end) "
                   f"app.get('y', function() return {status}, function(write) write('not sent') end end)")
    for path in ("/x", "/y"):
        answer = ask(server, f"GET {path}")
        assert answer.status == status
        assert not {"content-length", "transfer-encoding"} & answer.headers.keys()


def test_header_values_may_be_numbers_and_lists(serve):
    server = serve("app.get('x', function() return 200, 'x', {['Set-Cookie'] = {'a=1', 'b=2'}, Age = 7, F = 1.5, "
                   "['X-Tab'] = 'a\\tb', ['X-Latin'] = 'gr\\xfc', E = '', None = {}} end)")
    fields = ask_fields(server, "GET /x")
    assert [value for name, value in fields if name == "set-cookie"] == ["a=1", "b=2"]
    rest = dict(fields)
    assert (rest["age"], rest["f"], rest["x-tab"], rest["x-latin"], rest["e"]) == ("7", "1.5", "a\tb", "gr\xfc", "")
    assert "none" not in rest


BAD_ANSWERS = {
    "nothing": ("", "returned nothing"), "nil": ("nil, 'x'", "returned nothing"), "a boolean": ("true", "boolean"),
    "a function": ("function() end", "function"), "status 600": ("600", "600"), "status 199": ("199, 'x'", "199"),
    "status 101": ("101", "101"), "status -1": ("-1", "-1"), "a broken status": ("200.5", "200.5"),
    "a boolean body": ("200, true", "the body is a boolean"),
    "headers as a string": ("200, 'x', 'A: b'", "headers are a string"),
    "CR LF in a value": ("200, 'x', {A = 'b\\r\\nC: d'}", "control character"),
    "LF in a value": ("200, 'x', {A = 'b\\n'}", "control character"),
    "NUL in a value": ("200, 'x', {A = 'b\\0'}", "control character"),
    "LF in a list": ("200, 'x', {A = {'b', 'c\\n'}}", "control character"),
    "a blank in a name": ("200, 'x', {['A B'] = 'c'}", "not a name"),
    "a colon in a name": ("200, 'x', {['A: b\\r\\nC'] = 'd'}", "not a name"),
    "NUL in a name": ("200, 'x', {['A\\0B'] = 'c'}", "not a name"),
    "an empty name": ("200, 'x', {[''] = 'c'}", "not a name"), "no name": ("200, 'x', {'c'}", "name is a string"),
    "a boolean value": ("200, 'x', {A = true}", "header A is a boolean"),
    "a list in a list": ("200, 'x', {A = {{'b'}}}", "header A is a table"),
    "too many headers": ("200, 'x', {A = ('b'):rep(17000)}", "16384"),
    **{name: (f"200, 'x', {{['{name}'] = '1'}}", "server's own") for name in (
        "content-length", "Transfer-Encoding", "CONNECTION", "Date", "Keep-Alive", "Upgrade", "Trailer",
        "Sec-WebSocket-Accept")},
    "what JSON has not": ("{f = print}", "function"), "a number JSON has not": ("{0 / 0}", "not a number"),
    "a table in itself": ("(function() local t = {} t.t = t return t end)()", "contains itself"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_an_answer_that_is_none_is_500_and_the_log_names_route_and_place(serve, case):
    answer, says = BAD_ANSWERS[case]
    server = serve(f"app.get('x', function() return 'fine' end)\n\napp.get('bad/:x', function() return {answer} end)")
    with server.raw() as client:
        for accept in ("text/html", "application/json"):
            client.send(request("GET /bad/1", f"Accept: {accept}", close=False))
            got = client.response()
            assert got.status == 500
            assert not re.search(r"main\.lua|returned|traceback|header", got.body), "something internal is shown"
        client.send(request("GET /x"))
        assert client.response().body == "fine"
    server.wait_log(re.escape(says))
    server.wait_log(r"/bad/:x")
    server.wait_log(r"main\.lua:3")


def test_an_error_and_a_loop_in_a_handler_are_500(serve):
    server = serve("app.get('e', function() error('secret') end)\napp.get('s', function() app.sleep(0) error({}) end)\n"
                   "app.get('l', function() while true do end end)", handler_budget=0.1)
    for path, says in {"/e": r"main\.lua:1: secret[^Z]*traceback", "/s": "table", "/l": "handler_budget"}.items():
        answer = ask(server, f"GET {path}")
        assert answer.status == 500 and answer.body.startswith("500 Internal Server Error\n")
        assert "secret" not in answer.body
        server.wait_log(says)


@pytest.mark.parametrize("accept, kind", [
    ("application/json", "application/json"), ("application/problem+json, */*;q=0.1", "application/json"),
    ("text/html, application/json;q=0.9", "text/plain; charset=utf-8"), ("*/*", "text/plain; charset=utf-8"),
    ("text/html;q=0.5, application/json", "application/json"), ("application/json;q=0", "text/plain; charset=utf-8")])
def test_error_pages_are_json_for_those_who_prefer_it(serve, accept, kind):
    server = serve("app.get('x', function() return 403 end)")
    for path, status in {"/x": 403, "/none": 404}.items():
        answer = ask(server, f"GET {path}", f"Accept: {accept}")
        assert (answer.status, answer.headers["content-type"]) == (status, kind)
        if kind == "application/json":
            assert json.loads(answer.body)["status"] == status
        else:
            assert answer.body.startswith(f"{status} ")


@pytest.mark.parametrize("answer", ["404, nil", "404, ''", "302, nil"])
def test_a_content_type_without_a_body_is_not_sent_beside_another(serve, answer):
    server = serve(f"app.get('x', function() return {answer}, {{['Content-Type'] = 'text/html', A = 'b'}} end)")
    fields = ask_fields(server, "GET /x")
    assert [name for name, _ in fields].count("content-type") == 1
    assert dict(fields)["a"] == "b"


# ---- requests ----

EVAL = """
app.post("eval/:p", function(req)
  local code = req.headers["X-Code"]
  local results = table.pack(assert(load("local req = ... return " .. code))(req))
  for i = 1, results.n do results[i] = tostring(results[i]) end
  return table.concat(results, "|")
end)
"""


def tell(server, code, *lines, body=None, path="/eval/a"):
    answer = ask(server, f"POST {path}", f"X-Code: {code}", *lines, body=body)
    assert answer.status == 200, (answer.status, server.log)
    return answer.body


def test_the_request_as_the_handler_sees_it(serve):
    server = serve(EVAL)
    assert tell(server, "req.method, req.path, req.params.p, req.remote_address") == "POST|/eval/a|a|127.0.0.1"
    query = "?q=1&q=2&e=a+b%26&f"
    assert tell(server, "req.query.q, req.query.e, req.query.f, req.query.g, req.query_string",
                path="/eval/a" + query) == "1|a b&||nil|" + query[1:]
    assert tell(server, "req.headers['x-A'], req.headers['X-b']", "X-a: 1", "x-A: 2") == "1, 2|nil"
    assert tell(server, "req.cookies.a, req.cookies.b, req.cookies.c, req.cookies.d", "Cookie: a=1; b=\"2 3\"; a=9",
                "Cookie: c=x=y; ; =z") == "1|2 3|x=y|nil"
    ids = {tell(server, "req.id, math.type(req.id), req.id == req.id") for _ in range(5)}
    assert len(ids) == 5 and all(i.endswith("|integer|true") for i in ids)
    assert tell(server, "(pcall(function() req.body = 1 end)), (pcall(function() return req.no end))") == "false|false"


@pytest.mark.parametrize("body", [b"", b"x", b"a\0b\r\n\r\n\xff", b"y" * 100_000],
                         ids=["none", "one", "binary", "long"])
def test_a_body_arrives_as_it_is(serve, body):
    server = serve("app.post('x', function(req) assert(req.body == req.body) return #req.body .. ':' .. "
                   "(req.body:byte(-1) or '') end)")
    told = f"{len(body)}:{body[-1] if body else ''}"
    assert ask(server, "POST /x", body=body).body == told
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[i:i + 7000]), body[i:i + 7000]) for i in range(0, len(body), 7000))
    with server.raw() as client:
        client.send(request("POST /x", "Transfer-Encoding: chunked") + chunks + b"0\r\nTrailer: x\r\n\r\n")
        assert client.response().body == told


@pytest.mark.parametrize("body, told", [
    ('{"a": [1, 2.5, null, "\\u00e9"]}', "table|nil"), ("[]", "table|nil"), ("7", "number|nil"), ('"x"', "string|nil"),
    ("", "nil|string"), ("{", "nil|string"), ("{} x", "nil|string"), ("nul", "nil|string"), ("[" * 300, "nil|string"),
    (b'"\xff"', "nil|string"), ("{'a': 1}", "nil|string")])
def test_json_bodies(serve, body, told):
    server = serve(EVAL)
    assert tell(server, "(function() local v, e = req:json() return type(v), type(e) end)()", body=body) == told


def test_json_integers_are_exact(serve):
    server = serve("app.post('x', function(req) return req:json() end)")
    text = '{"a":[],"n":9223372036854775807}'
    assert json.loads(ask(server, "POST /x", body=text).body) == json.loads(text)


FORM = "Content-Type: application/x-www-form-urlencoded"
FIELDS = "(function() local f, list = req:form() return f and f.a or 'nil', f and #list or list end)()"


@pytest.mark.parametrize("lines, body, told", [
    ([FORM], "a=1&b=2&a=3", "1|3"), ([FORM + "; charset=UTF-8"], "a=x+y%26z", "x y&z|1"), ([FORM], "", "nil|0"),
    ([FORM.upper().replace("CONTENT-TYPE", "content-type")], "a=%zz", "%zz|1"),
    ([], "a=1", "nil|the request's Content-Type is not that of a form"),
    (["Content-Type: text/plain"], "a=1", "nil|the request's Content-Type is not that of a form"),
    ([FORM + "x"], "a=1", "nil|the request's Content-Type is not that of a form")])
def test_urlencoded_forms(serve, lines, body, told):
    assert tell(serve(EVAL), FIELDS, *lines, body=body) == told


def part(name, value, *lines, more=""):
    return "\r\n".join(["--B", f'Content-Disposition: form-data; name="{name}"{more}', *lines, "", value]) + "\r\n"


def test_multipart_forms_with_files(serve):
    server = serve(EVAL)
    body = part("a", "1") + part("file", "\x00\r\n--b", "Content-Type: image/png", more='; filename="ö.png"') + \
        part("a", "2") + "--B--\r\n"
    code = "(function() local f, l = req:form() return f.a, #l, l[2].name, l[2].filename, l[2].type, #l[2].value, " \
           "l[1].filename, f.file == l[2].value end)()"
    assert tell(server, code, "Content-Type: multipart/form-data; boundary=B", body=body) == \
        "1|3|file|ö.png|image/png|6|nil|true"
    for bad in (body[:-5], "x" + body, part("a", "1"), "--B\r\n\r\nx\r\n--B--\r\n", ""):
        assert tell(server, FIELDS, "Content-Type: multipart/form-data; boundary=B", body=bad).startswith("nil|")
    assert tell(server, FIELDS, "Content-Type: multipart/form-data", body=body).startswith("nil|")
