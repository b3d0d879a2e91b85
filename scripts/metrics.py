#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the table of metrics in lua/metrics.md from the tables in src/base/metrics.h: scripts/metrics.py [--check]."""

import ast
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = os.path.join(ROOT, "src", "base", "metrics.h")
PAGE = os.path.join(ROOT, "lua", "metrics.md")
BEGIN, END = "<!-- made by scripts/metrics.py -->\n", "<!-- end -->\n"

STRING = r'"(?:[^"\\]|\\.)*"'
ROW = re.compile(rf"X\(\w+,\s*({STRING}),\s*({STRING}),\s*({STRING}),\s*({STRING}(?:\s*{STRING})*)\)")


def rows():
    """Yields (name, labels, type, help) for each line of the tables; labels as they are written there."""
    with open(SOURCE, encoding="utf-8") as file:
        text = file.read().replace("\\\n", "\n")
    for match in ROW.finditer(text):
        yield tuple(ast.literal_eval(f"({group})") for group in match.groups())


def table():
    """The table of the page: one line for each name, with what its labels can be."""
    names = {}
    for name, labels, kind, text in rows():
        known = names.setdefault(name, [kind, text, {}])
        for label in filter(None, labels.split(", ")):
            label, _, value = label.partition("=")
            known[2].setdefault(label, []).append(value.strip('"'))
    lines = ["| metric | type | labels | |", "| --- | --- | --- | --- |"]
    for name, (kind, text, labels) in names.items():
        shown = ", ".join(f"`{label}`" + (": " + ", ".join(f"`{v}`" for v in values) if any(values) else "")
                          for label, values in labels.items())
        lines.append(f"| `{name}` | {kind} | {shown} | {text} |")
    return "\n".join(lines) + "\n"


def page():
    """The page as it is, and as it should be."""
    with open(PAGE, encoding="utf-8") as file:
        now = file.read()
    before, _, rest = now.partition(BEGIN)
    _, end, after = rest.partition(END)
    return now, before + BEGIN + "\n" + table() + "\n" + END + after if end else None


def main():
    now, wanted = page()
    if wanted is None:
        sys.exit(f"{PAGE}: no lines {BEGIN.strip()} and {END.strip()}")
    if now == wanted:
        return
    if sys.argv[1:] == ["--check"]:
        sys.exit("lua/metrics.md: not what src/base/metrics.h says; run scripts/metrics.py")
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(wanted)


if __name__ == "__main__":
    main()
