# SPDX-License-Identifier: MIT
"""require "tidewire.http": pages, redirects, files, cookies."""
import pytest

SITE = """
local http = require "tidewire.http"
app.get("html", function(req) return http.html("<p>" .. http.escape(req.query.q) .. "</p>") end)
app.get("sorry", function() return http.html("<p>sorry</p>", 503) end)
app.get("old", function() return http.redirect("/new") end)
app.get("moved", function() return http.redirect("https://a.example/", 308) end)
app.get("file/**", function(req) return http.file(req.query.folder .. "/" .. req.params["**"], req.query.type) end)
app.get("cookie", function()
  return 204, nil, {["Set-Cookie"] = {http.cookie("a", "1"), http.cookie("id", "42", {path = "/", max_age = 60,
    domain = "a.example", secure = true, http_only = true, same_site = "strict"})}}
end)
app.get("misuse/:what", function(req)
  local calls = {
    status = function() http.redirect("/", 200) end, location = function() http.redirect() end,
    name = function() http.cookie("a b", "1") end, value = function() http.cookie("a", "1;2") end,
    option = function() http.cookie("a", "1", {httponly = true}) end, zero = function() http.cookie("a", "1\\0") end,
    none = function() http.cookie("a", "1", {same_site = "none"}) end, age = function() http.cookie("a", "1", {max_age = 1.5}) end,
  }
  local ok, why = pcall(calls[req.params.what])
  return tostring(ok) .. " " .. why
end)
"""


@pytest.fixture
def ask(serve):
    server = serve(SITE)

    def get(path):
        with server.raw() as client:
            return client.request(f"GET {path} HTTP/1.1\nHost: a\nConnection: close\n\n")
    return get


def test_a_page_is_html_and_text_in_it_is_escaped(ask):
    answer = ask("/html?q=%3Cb%3E%22Tom%22+%26+%27Ann%27")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.body == "<p>&lt;b&gt;&quot;Tom&quot; &amp; &#39;Ann&#39;</p>"
    assert ask("/sorry").status == 503


@pytest.mark.parametrize("path, status, location", [("/old", 302, "/new"), ("/moved", 308, "https://a.example/")])
def test_a_redirect_names_where_to(ask, path, status, location):
    answer = ask(path)
    assert (answer.status, answer.headers["location"]) == (status, location)


@pytest.mark.parametrize("name, content_type", [
    ("a.css", "text/css; charset=utf-8"), ("a.PNG", "image/png"), ("a.unknown", "application/octet-stream"),
    ("plain", "application/octet-stream")])
def test_a_file_is_sent_with_its_type(ask, tmp_path, name, content_type):
    (tmp_path / name).write_bytes(b"content")
    answer = ask(f"/file/{name}?folder={tmp_path}")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, content_type, "content")
    answer = ask(f"/file/{name}?folder={tmp_path}&type=text/x-own")
    assert answer.headers["content-type"] == "text/x-own"


def test_no_file_is_404(ask, tmp_path):
    assert ask(f"/file/none?folder={tmp_path}").status == 404
    assert ask(f"/file/{tmp_path.name}?folder={tmp_path.parent}").status == 404  # a folder
    (tmp_path / "secret").write_bytes(b"content")
    assert ask(f"/file/x?folder={tmp_path}/secret%00").status == 404
    assert ask(f"/file/..%2f{tmp_path.name}%2fsecret?folder={tmp_path}").status == 404


def test_cookies(serve):
    server = serve(SITE)
    with server.raw() as client:
        client.send(b"GET /cookie HTTP/1.1\r\nHost: a\r\n\r\n")
        head = client.until(b"\r\n\r\n").decode()
    assert "Set-Cookie: a=1\r\n" in head
    line = next(line for line in head.split("\r\n") if line.startswith("Set-Cookie: id=42; "))
    assert set(line.split("; ")[1:]) == {"Path=/", "Max-Age=60", "Domain=a.example", "Secure", "HttpOnly",
                                         "SameSite=Strict"}


@pytest.mark.parametrize("what, says", [
    ("status", "200 is not a status that sends elsewhere"), ("location", "the location is a nil"), ("name", "http.cookie"),
    ("value", "http.cookie"), ("option", "unknown option httponly; there are"), ("zero", "zero byte"),
    ("none", "http.cookie"), ("age", "max_age is not a whole number")])
def test_misuse_raises(ask, what, says):
    body = ask(f"/misuse/{what}").body
    assert body.startswith("false ") and says in body
