#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Style and structure checks: each prints what it finds as file:line: message; `make lint` runs them all."""

import bisect
import functools
import os
import re
import subprocess
import sys

import metrics

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAYERS = ["base", "net", "http", "ws", "bus", "client", "script", "lua", "ops"]
TOP_LEVEL = {"Makefile", "src", "lua", "scripts", "tests", "docker", "README.md", "LICENSE"}
LUA_DOORS = {"src/script/sched.c", "src/script/coro.c"}
MAX_LINES = 800
MAX_COLUMNS = 110

# ---- the tree ----


@functools.cache
def files():
    """What git tracks or would track, less what is gone from the disk."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"],
        check=True, stdout=subprocess.PIPE, text=True).stdout
    return sorted(path for path in set(listing.split("\0")) if os.path.isfile(path))


def select(*suffixes, under=""):
    return [path for path in files() if path.endswith(suffixes) and path.startswith(under)]


@functools.cache
def text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def lines(content):
    return enumerate(content.split("\n"), 1)


C_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)


def blank(content):
    return re.sub(r"[^\n]", " ", content)


@functools.cache
def without_comments(path):
    """C text with blanks for comments, so that lines and columns stay."""
    return C_TOKEN.sub(lambda m: blank(m[0]) if m["comment"] else m[0], text(path))


@functools.cache
def code(path):
    """C text with blanks for comments, strings and character constants."""
    return C_TOKEN.sub(lambda m: blank(m[0]), text(path))


def find(pattern, path, content):
    """Yields (path, line, match) for each match in the content."""
    starts = [m.end() for m in re.finditer("\n", content)]
    for match in re.finditer(pattern, content, re.MULTILINE):
        yield path, bisect.bisect_right(starts, match.start()) + 1, match


def c_files():
    return select(".c", ".h", under=("src/", "tests/"))


def shell_scripts():
    return [path for path in files()
            if path.endswith(".sh") or re.match(r"#! ?\S*/(env )?(da|ba)?sh\b", text(path))]


def sources():
    """Everything a person writes as code."""
    return sorted({*c_files(), *select(".py", ".lua"), *shell_scripts(),
                   *(path for path in files() if os.path.basename(path) == "Makefile")})


def tool(command, pattern):
    """Runs a tool; yields what it says as findings. pattern has the groups file, line and message."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except FileNotFoundError:
        yield command[0], 0, "not installed; scripts/deps test installs it"
        return
    found = list(re.finditer(pattern, done.stdout, re.MULTILINE))
    for match in found:
        yield match["file"], match["line"], match["message"]
    if done.returncode != 0 and not found:
        yield command[0], 0, done.stdout.strip() or f"exit status {done.returncode}"


# ---- tools ----


def clang_format():
    if c_files():
        yield from tool(["clang-format", "--dry-run", "-Werror", *c_files()],
                        r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: \w+: (?P<message>.*)")


def luacheck():
    scripts = select(".lua")
    if scripts:
        yield from tool(["luacheck", "--config", ".luacheckrc", "--formatter", "plain", "--codes", *scripts],
                        r"^(?P<file>[^:\n]+):(?P<line>\d+):\d+: (?P<message>.*)")


def shell_syntax():
    for path in shell_scripts():
        yield from tool(["sh", "-n", path], r"^(?P<file>[^:\n]+): (?P<line>\d+): (?P<message>.*)")


# ---- the shape of the tree ----


def top_level():
    for name in sorted({path.split("/")[0] for path in files()}):
        if name not in TOP_LEVEL and not name.startswith("."):
            yield name, 1, "not one of the things that belong at the top level"


def unique_basenames():
    seen = {}
    for path in select(".c", under="src/"):
        first = seen.setdefault(os.path.basename(path), path)
        if first != path:
            yield path, 1, f"the same name as {first}"


def headers():
    for path in select(".c", under="src/"):
        if path != "src/main.c" and path[:-2] + ".h" not in files():
            yield path, 1, "has no header of its name"


def include_direction():
    for path in select(".c", ".h", under="src/"):
        layer = path.split("/")[1]
        if path != "src/main.c" and layer not in LAYERS:
            yield path, 1, f"not in a layer ({', '.join(LAYERS)})"
            continue
        for _, line, include in find(r'^[ \t]*#[ \t]*include[ \t]*"([^"]*)"', path, without_comments(path)):
            used = re.fullmatch(r"(\w+)/\w+\.h", include[1])
            if not used or used[1] not in LAYERS:
                yield path, line, f'"{include[1]}" is not layer/file.h'
            elif path != "src/main.c" and LAYERS.index(used[1]) > LAYERS.index(layer):
                yield path, line, f'{layer} must not include "{include[1]}" from the layer above'


# ---- text ----


def spdx():
    for path in sources():
        if "SPDX-License-Identifier: MIT" not in "\n".join(text(path).split("\n")[:3]):
            yield path, 1, "no SPDX-License-Identifier: MIT in the first three lines"


def file_length():
    for path in sources():
        count = text(path).count("\n")
        if count > MAX_LINES:
            yield path, count, f"{count} lines, {MAX_LINES} are allowed"


def line_length():
    for path in c_files():
        for line, content in lines(text(path)):
            if len(content) > MAX_COLUMNS:
                yield path, line, f"{len(content)} columns, {MAX_COLUMNS} are allowed"


def tabs():
    for path in c_files():
        for _, line, _ in find(r"\t", path, text(path)):
            yield path, line, "tab"


def leftovers():
    for path in sorted({*sources(), *select(".md")}):
        for _, line, match in find(r"\b(T[O]DO|F[I]XME|X[X]X)\b", path, text(path)):
            yield path, line, f"{match[0]}: do it, or open an issue"


def local_paths():
    for path in files():
        for _, line, match in find(r"(?<![\w./})])/(?:work|root|home)/[\w.-]*", path, text(path)):
            yield path, line, f"{match[0]} is a path of one machine"


def metrics_page():
    now, wanted = metrics.page()
    if now != wanted:
        yield "lua/metrics.md", 1, "not what src/base/metrics.h says; run scripts/metrics.py"
    for name, labels, _, text in metrics.rows():
        if not re.fullmatch(r"(tidewire|process)(_[a-z]+)+", name) or "|" in labels + text:
            yield "src/base/metrics.h", 1, f"{name}: not what a name, or a cell of a table, is"


# ---- C ----


def calls(names, paths):
    """Yields the calls of the functions of these names; a member of that name is not meant."""
    for path in paths:
        for _, line, match in find(rf"(?<!\.)(?<!->)\b({names})\s*\(", path, code(path)):
            yield path, line, match[1]


def lua_entry():
    paths = [path for path in select(".c", ".h", under="src/") if path not in LUA_DOORS]
    for path, line, name in calls("lua_pcall|lua_pcallk|lua_resume", paths):
        yield path, line, f"{name}: Lua is entered through script/sched only"


def process_exit():
    paths = [path for path in select(".c", ".h", under="src/") if path != "src/main.c"]
    for path, line, name in calls("exit|_exit|_Exit|quick_exit|abort", paths):
        yield path, line, f"{name}: only main.c ends the process"


def banned_functions():
    for path, line, name in calls("v?sprintf|strcpy|strcat|gets|alloca", c_files()):
        yield path, line, f"{name}: has no bound"


def function_prefix():
    """Looks at definitions that start in column 0; names in capitals are macros."""
    definition = r"^(?!\s)(?P<type>[\w \t*]+?[ \t*])(?P<name>\w+)\([^;{}]*\)\s*\{"
    for path in select(".c", under="src/"):
        prefix = os.path.basename(path)[:-2] + "_"
        for _, line, match in find(definition, path, code(path)):
            name = match["name"]
            private = "static" in match["type"].split()
            if path != "src/main.c" and not private and not name.isupper() and not name.startswith(prefix):
                yield path, line, f"{name} is neither static nor called {prefix}..."


CHECKS = [
    clang_format, luacheck, shell_syntax,
    top_level, unique_basenames, headers, include_direction,
    spdx, file_length, line_length, tabs, leftovers, local_paths, metrics_page,
    lua_entry, process_exit, banned_functions, function_prefix,
]


def main():
    os.chdir(ROOT)
    failed = 0
    for check in CHECKS:
        findings = list(dict.fromkeys(check()))
        for path, line, message in findings:
            print(f"{path}:{line}: {message} [{check.__name__}]")
        failed += bool(findings)
    print(f"lint: {len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
