# SPDX-License-Identifier: MIT
"""--watch: the server reloads by itself when a file changes that its code, or a refused attempt, was made from."""
import os
import re
import signal
from pathlib import Path

import pytest

from conftest import Server, run


def version(name, before=""):
    return before + f'\napp.websocket("/x", function(ws) ws:send("{name} " .. app.generation) end)\n'


# Greets with what its module returns.
MODULE = """local m = require("m")
app.websocket("/x", function(ws) ws:send(m .. " " .. app.generation) end)
"""


def module(text):
    return f'return "{text}"\n'


def put(path, text):
    """A save as most editors do it: a new file takes the name. It is whole from the first moment on."""
    new = Path(f"{path}.new")
    new.write_text(text, encoding="utf-8")
    new.rename(path)


def overwrite(path, text):
    """A save in place, of as many bytes as there were before."""
    assert len(text) == Path(path).stat().st_size
    with open(path, "r+b", buffering=0) as file:
        file.write(text.encode())


def greeting(server):
    with server.raw("/x") as client:
        return client.text()


def frozen(server, change):
    """While it stands still, so that it sees all of `change` at once."""
    server.send_signal(signal.SIGSTOP)
    try:
        change()
    finally:
        server.send_signal(signal.SIGCONT)


class Watching:
    """A server, and how far its log was read."""

    def __init__(self, server):
        self.server, self.at = server, 0

    def next(self, pattern):
        found = self.server.wait_log(pattern, self.at)
        self.at += found.string.count("\n", 0, found.end()) + 1
        return found

    def serves(self, number):
        """It has reloaded by itself. Returns the file of which it says so."""
        found = self.next(r"(?s)info +(\S+)(?: and \d+ more)? changed: loading \S+\n.*?"
                          r"(reload refused[^\n]*|generation (\d+) serves new)")
        assert found.group(2) == f"generation {number} serves new"
        return Path(found.group(1))

    def refuses(self, pattern):
        self.next(rf"(?s)changed: loading \S+\n[^\n]*reload refused, generation \d+ goes on: [^\n]*{pattern}")


@pytest.fixture(name="watch")
def watch_fixture(serve):
    return lambda text, *args, **options: Watching(serve(text, "--watch", *args, **options))


@pytest.mark.parametrize("save", [overwrite, put])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_save_reloads(watch, save, workers):
    watching = watch(version("v1"), workers=workers)
    server = watching.server
    for number in range(2, 6):  # each as long as the one before, and several within one second
        save(server.script, version(f"v{number}"))
        assert watching.serves(number) == server.script
        assert greeting(server) == f"v{number} {number}"


def test_a_file_that_is_removed_and_made_again(watch):
    watching = watch(version("one"))
    script = watching.server.script
    for number in (2, 3):
        script.unlink()
        watching.refuses(r"cannot read \S*main\.lua: No such file")
        put(script, version("again"))
        watching.serves(number)
    assert greeting(watching.server) == "again 3"


def test_a_link_that_leads_elsewhere(watch, tmp_path):
    """Kubernetes swaps the folder that a link of a link goes through."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        put(tmp_path / name / "main.lua", version(name))
    watching = watch(version("one"))
    script = watching.server.script
    (tmp_path / "now").symlink_to("a")
    (tmp_path / "link").symlink_to(tmp_path / "now" / "main.lua")
    (tmp_path / "link").rename(script)
    watching.serves(2)
    assert greeting(watching.server) == "a 2"
    (tmp_path / "next").symlink_to("b")
    (tmp_path / "next").rename(tmp_path / "now")
    watching.serves(3)
    assert greeting(watching.server) == "b 3"


def test_a_file_that_is_not_whole_yet_is_read_again(watch):
    watching = watch(version("one"))
    server, text = watching.server, version("whole")
    with open(server.script, "r+b", buffering=0) as file:

        def begin():
            file.truncate()
            file.write(text[:20].encode())
        frozen(server, begin)
        watching.refuses(r"main\.lua:2: unexpected symbol near <eof>")
        assert greeting(server) == "one 1"
        file.write(text[20:].encode())
        watching.serves(2)
    assert greeting(server) == "whole 2"


def test_a_fault_is_mended(watch):
    watching = watch(version("one"))
    for text, pattern in (("x = = 1", "main.lua:1: unexpected symbol"), ("\nerror('mine')", "main.lua:2: mine")):
        put(watching.server.script, text)
        watching.refuses(pattern)
    put(watching.server.script, version("two"))
    watching.serves(2)


# ---- modules ----


@pytest.mark.parametrize("save", [overwrite, put])
def test_modules_are_watched_once_they_are_read(watch, save):
    watching = watch(version("one"))
    server = watching.server
    put(server.folder / "m.lua", module("m2"))
    put(server.script, MODULE)
    assert watching.serves(2) == server.script
    for number in range(3, 6):
        save(server.folder / "m.lua", module(f"m{number}"))
        assert watching.serves(number) == server.folder / "m.lua"
        assert greeting(server) == f"m{number} {number}"
    put(server.script, version("alone"))
    watching.serves(6)
    save(server.folder / "m.lua", module("m9"))  # nothing was made from it any more
    put(server.script, version("last"))
    assert watching.serves(7) == server.script
    assert greeting(server) == "last 7"


def test_a_missing_module_reloads_when_it_comes(watch):
    watching = watch(version("one"))
    server = watching.server
    put(server.script, MODULE)
    watching.refuses(r"main\.lua:1: module 'm' not found")
    put(server.folder / "m.lua", "return nil .. 1")
    watching.refuses(r"m\.lua:1: attempt to concatenate")
    put(server.folder / "m.lua", module("here"))
    assert watching.serves(2) == server.folder / "m.lua"
    assert greeting(server) == "here 2"


def test_a_module_in_a_folder_that_is_not_there_yet(watch):
    watching = watch(version("one"))
    server = watching.server
    put(server.script, MODULE.replace('"m"', '"deep.down.m"'))
    watching.refuses("module 'deep.down.m' not found")
    (server.folder / "deep" / "down").mkdir(parents=True)
    put(server.folder / "deep" / "down" / "m.lua", module("deep"))
    watching.serves(2)
    assert greeting(server) == "deep 2"


def test_a_module_that_the_code_can_do_without(watch):
    watching = watch(version("one"))
    server = watching.server
    put(server.script, 'local there, m = pcall(require, "m")\n' +
        'app.websocket("/x", function(ws) ws:send(there and m or "none") end)')
    watching.serves(2)
    assert greeting(server) == "none"
    put(server.folder / "m.lua", module("here"))
    watching.serves(3)
    assert greeting(server) == "here"
    (server.folder / "m.lua").unlink()
    watching.serves(4)
    assert greeting(server) == "none"


def test_a_module_that_a_handler_requires(watch):
    watching = watch("""app.websocket("/x", function(ws) ws:send(require("m") .. " " .. app.generation) end)""")
    server = watching.server
    for number in (1, 2, 3):
        put(server.folder / "m.lua", module(f"m{number}"))
        if number > 1:
            assert watching.serves(number) == server.folder / "m.lua"
        assert greeting(server) == f"m{number} {number}"


def test_what_a_refused_attempt_did_not_get_to_stays_watched(watch):
    watching = watch(version("one"))
    server = watching.server
    put(server.folder / "m.lua", module("m"))
    put(server.script, MODULE)
    watching.serves(2)
    put(server.script, "error('before it requires anything')")
    watching.refuses("before it requires")
    put(server.folder / "m.lua", module("n"))
    watching.refuses("before it requires")
    put(server.script, MODULE)
    watching.serves(3)
    assert greeting(server) == "n 3"


# ---- one reload for many changes ----


def test_many_files_at_once_are_one_reload(watch):
    watching = watch(version("one"))
    server = watching.server
    names = [f"m{i}" for i in range(20)]

    def save(text):
        for name in names:
            put(server.folder / f"{name}.lua", module(text))
    save("a")
    put(server.script, "".join(f'require("{name}")\n' for name in names) + version("many", 'local m = require("m19")\n'))
    watching.serves(2)
    for number in (3, 4, 5):
        frozen(server, lambda: save("b"))
        watching.serves(number)
    assert re.search(r"m\d+\.lua and 19 more changed: loading", server.log)
    put(server.script, version("last"))
    watching.serves(6)  # no load came in between
    assert server.log.count("changed: loading") == 5


def test_a_change_during_a_load_is_loaded_after_it(watch):
    watching = watch(version("one"))
    server = watching.server
    put(server.script, version("two", f"""
        log.info("loads two")
        local file
        repeat file = io.open("{server.folder}/gate") until file
        file:close()
    """))
    watching.next("loads two")
    # it loads for longer than the wait for quiet, in which the older outcome must not count as news
    put(server.script, version("three", "local start = os.clock() while os.clock() - start < 0.3 do end"))
    watching.next("changed: loading")
    (server.folder / "gate").touch()
    watching.next("generation 2 serves")
    watching.next("generation 3 serves")
    assert greeting(server) == "three 3"
    put(server.script, version("four"))
    watching.serves(4)
    assert greeting(server) == "four 4"


def test_a_save_that_somebody_asked_to_load_is_not_loaded_again(watch):
    watching = watch(version("one"))
    server = watching.server

    def save_and_signal():
        put(server.script, version("two"))
        server.send_signal(signal.SIGHUP)
    frozen(server, save_and_signal)
    watching.next("SIGHUP: loading")
    watching.next("generation 2 serves")
    put(server.script, version("three"))
    done = run("reload", "--control", server.control_path)
    number = int(re.fullmatch(r"ok generation (\d) serves new connections; .*\n", done.stdout).group(1))
    assert number in (3, 4) and greeting(server).startswith("three ")  # 4: it was slow to ask
    put(server.script, version("last"))
    watching.next(f"generation {number + 1} serves")
    assert greeting(server) == f"last {number + 1}"


# ---- what else is watched, and when not ----


def test_the_configuration_file_is_watched(watch, tmp_path):
    config = tmp_path / "some.conf.lua"
    put(config, "return { workers = 1 }")
    watching = watch(version("one"), "-c", config)
    for number in (2, 3):
        put(config, f"return {{ workers = 1, max_message = {number}000 }}")
        assert watching.serves(number) == config


def test_a_folder_as_the_script_and_an_option_of_its_configuration_file(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    put(folder / "main.lua", version("one"))
    put(folder / "tidewire.conf.lua", "return { watch = true }")
    server = Server(folder, tmp_path)
    try:
        watching = Watching(server)
        put(folder / "main.lua", version("two"))
        assert watching.serves(2) == folder / "main.lua"
        put(folder / "m.lua", module("m"))
        put(folder / "main.lua", MODULE)
        watching.serves(3)
        put(folder / "m.lua", module("n"))
        assert watching.serves(4) == folder / "m.lua"
        assert greeting(server) == "n 4"
        put(folder / "tidewire.conf.lua", "return { watch = true, workers = 1 }")
        assert watching.serves(5) == folder / "tidewire.conf.lua"
        assert server.stop() == 0, server.log
    finally:
        server.kill()


def watches(server):
    """Whether the process has asked the kernel to be told of files."""
    return "anon_inode:inotify" in {os.readlink(fd) for fd in Path(f"/proc/{server.pid}/fd").iterdir()}


@pytest.mark.parametrize("flags, expected", [([], False), (["--watch=false"], False), (["--watch"], True)])
def test_nothing_is_watched_unless_asked_for(serve, flags, expected):
    server = serve(version("one"), *flags)
    assert server.ask("health").startswith("ok ")
    assert watches(server) is expected
    put(server.script, version("two"))
    assert run("reload", "--control", server.control_path).returncode == 0
    assert watches(server) is expected


def test_check_does_not_watch(tmp_path):
    put(tmp_path / "main.lua", version("one"))
    assert run("check", tmp_path, "--watch").returncode == 0


def test_a_bad_script_does_not_start_a_server_that_waits_for_a_better_one(tmp_path):
    put(tmp_path / "main.lua", "error('on purpose')")
    done = run(tmp_path, "--watch", "--listen", "127.0.0.1:0", "--control", tmp_path / "control.sock")
    assert done.returncode == 1 and "main.lua:1: on purpose" in done.stderr


def test_stopping_while_a_change_waits_for_quiet(watch):
    watching = watch(version("one"))

    def save_and_stop():
        put(watching.server.script, version("two"))
        watching.server.send_signal(signal.SIGTERM)
    frozen(watching.server, save_and_stop)
    assert watching.server.stop(None) == 0


def test_code_that_was_gone_back_from_is_not_loaded_again_until_it_changes(watch):
    watching = watch(version("one"))
    server = watching.server
    with server.raw("/x") as client:
        assert client.text() == "one 1"
        put(server.script, 'app.websocket("/x", function(ws) error("cannot go on") end)')
        watching.serves(2)
        watching.next("going back to the code before")
        watching.next("generation 3 serves")
        assert client.text() == "one 3"
        put(server.script, version("mended"))
        watching.serves(4)  # no load came in between
        assert client.text() == "mended 4"
    assert server.log.count("changed: loading") == 2
