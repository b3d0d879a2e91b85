# SPDX-License-Identifier: MIT
"""Turns what bench.py measured into Markdown: a table for each part, and the goals with what was reached.

`results` is what bench.py keeps as JSON: {"machine": ..., "parts": {name: {"date", "commit", "rounds", "seconds",
"servers", "notes", "records"}}}. A record is one run: {"work", "server", "round", "others"} and what the load generator
said; or "error" instead."""
import statistics
from typing import NamedTuple

DISTURBED = 0.05  # of the processors' time for processes that take no part; a run in which they got more


class Table(NamedTuple):
    title: str
    about: str  # what the columns mean
    columns: tuple  # (title, key, format)
    rate: str  # of two servers, `first : this`
    cost: tuple = ()  # what is added up as CPU time, compared likewise
    first: str = "Tidewire"


def of_messages(title, about, first="Tidewire"):
    return Table(title, about, (
        ("messages/s", "messages_per_second", ",.0f"), ("user µs", "server_user_us_per_message", ",.2f"),
        ("system µs", "server_system_us_per_message", ",.2f"), ("server busy", "server_cpu_percent", ".0f"),
        ("generator busy", "load_cpu_percent", ".0f")),
        "messages_per_second", ("server_user_us_per_message", "server_system_us_per_message"), first)


def of_deliveries(title, about):
    return Table(title, about, (
        ("deliveries/s", "deliveries_per_second", ",.0f"), ("user ns", "server_user_ns_per_delivery", ",.0f"),
        ("system ns", "server_system_ns_per_delivery", ",.0f"), ("deliveries/read", "deliveries_per_read", ",.1f"),
        ("server busy", "server_cpu_percent", ".0f"), ("generator busy", "load_cpu_percent", ".0f")),
        "deliveries_per_second", ("server_user_ns_per_delivery", "server_system_ns_per_delivery"))


ONE_BY_ONE = "1 to 1,000, 20 B"
FAN = (ONE_BY_ONE, "1 to 1,000, 20 B, 16 in flight", "100 to 100, 20 B", "500 to 500, 20 B", "100 to 100, 1 KiB",
       "500 to 500, 1 KiB")

MESSAGES = ("A closed loop: each connection sends its next message when one is back. µs are CPU time of the server "
            "for each message that came and went; busy is the share of its processor in percent.")

TABLES = {
    "echo": of_messages("Echo, 200 connections, one message in flight on each", MESSAGES),
    "in-flight": of_messages("Echo, 100 connections, 16 messages in flight on each",
                             MESSAGES + " Those that arrive together can be answered together."),
    "large": of_messages("Echo, large messages", MESSAGES + " Half of the bytes go each way."),
    "fan": of_deliveries(
        "Publishing", "A closed loop; each message goes to all clients, its sender too, and each client checks that "
        "none is lost, doubled or out of order. ns are CPU time of the server for each delivery, which is a message "
        "that a client has read; deliveries/read is how many the kernel had together for one read."),
    "linear": of_deliveries(
        "One to many: what a delivery costs as there are more", "As above, one publisher with one message in flight. "
        "When the cost of a message is linear in the number of its receivers, that of a delivery stays the same, but "
        "for the processor's caches, which hold the kernel's part of 100 connections and not of 10,000; so Bun stands "
        "beside it."),
    "connect": Table(
        "Connections", "64 attempts are under way at any time: TCP, the WebSocket handshake, and an end by the client. "
        "Times run from the connection's beginning until the whole 101 has been read; µs of user and system are CPU "
        "time of the server for each connection, its end included.", (
            ("connections/s", "connects_per_second", ",.0f"), ("p50 µs", "latency_p50_us", ",.0f"),
            ("p99 µs", "latency_p99_us", ",.0f"), ("user µs", "server_user_us_per_connect", ",.1f"),
            ("system µs", "server_system_us_per_connect", ",.1f"), ("server busy", "server_cpu_percent", ".0f"),
            ("generator busy", "load_cpu_percent", ".0f")),
        "connects_per_second", ("server_user_us_per_connect", "server_system_us_per_connect")),
    "latency": Table(
        "Latency at a fixed rate, 20 B, 200 connections", "An open loop: messages are due at fixed times whatever the "
        "server does, and wait from then until they are back, so that a stall counts for all that were due in it. The "
        "generator's own lateness is in the times: `sent late` counts the messages of a run that it sent over 1 ms "
        "late. A server that does not keep up with the rate shows in messages/s. The ratio is that of p99.", (
            ("p50 µs", "latency_p50_us", ",.0f"), ("p90 µs", "latency_p90_us", ",.0f"),
            ("p99 µs", "latency_p99_us", ",.0f"), ("p99.9 µs", "latency_p99.9_us", ",.0f"),
            ("p99.99 µs", "latency_p99.99_us", ",.0f"), ("max µs", "latency_max_us", ",.0f"),
            ("sent late", "messages_sent_late", ",.0f"), ("messages/s", "messages_per_second", ",.0f"),
            ("server busy", "server_cpu_percent", ".0f")),
        "latency_p99_us", ("server_user_us_per_message", "server_system_us_per_message")),
    "tls": of_messages(
        "Echo over TLS", MESSAGES + " TLS 1.3 with AES-128-GCM for all. Where nginx speaks it in front of a Tidewire "
        "without, both share the server's processor, so that the cost of the whole stands beside the others'; its CPU "
        "time is that of both.", first="Tidewire TLS"),
    "handshakes": Table(
        "TLS handshakes", "As Connections, over TLS: 64 attempts are under way, each one TCP, TLS 1.3 (X25519, a "
        "certificate with ECDSA on P-256, or a session that is resumed) and the WebSocket handshake. In a full one "
        "the client has more to compute than the server and is the limit; capacity is how many a second would fill the "
        "server's processor, by the CPU time of each, and the first ratio is that of it.", (
            ("connections/s", "connects_per_second", ",.0f"), ("p50 µs", "latency_p50_us", ",.0f"),
            ("p99 µs", "latency_p99_us", ",.0f"), ("user µs", "server_user_us_per_connect", ",.1f"),
            ("system µs", "server_system_us_per_connect", ",.1f"), ("capacity", "capacity", ",.0f"),
            ("server busy", "server_cpu_percent", ".0f"), ("generator busy", "load_cpu_percent", ".0f")),
        "capacity", ("server_user_us_per_connect", "server_system_us_per_connect"), "Tidewire TLS"),
    "http": Table(
        "Short HTTP answers, 100 connections", "wrk asks again when it has its answer (or its 16 answers); any error "
        "that it counts is a failure. µs are CPU time of the server for each request.", (
            ("requests/s", "requests_per_second", ",.0f"), ("user µs", "server_user_us_per_request", ",.2f"),
            ("system µs", "server_system_us_per_request", ",.2f"), ("server busy", "server_cpu_percent", ".0f"),
            ("generator busy", "load_cpu_percent", ".0f")),
        "requests_per_second", ("server_user_us_per_request", "server_system_us_per_request")),
    "workers": Table(
        "Two workers beside one", "One worker has a processor and the generator the other; two workers have one each "
        "and the generator shares both with them. So the rates of echo say nothing, as two processors are the limit "
        "for server and generator together; capacity does: the messages/s at which the CPU time of a message would "
        "fill the workers' processors. `compute` is a handler that works so long for each message that the generator "
        "takes next to nothing: there the rates themselves compare.", (
            ("messages/s", "messages_per_second", ",.0f"), ("user µs", "server_user_us_per_message", ",.2f"),
            ("system µs", "server_system_us_per_message", ",.2f"), ("CPU s", "server_cpu_seconds", ".2f"),
            ("capacity", "capacity", ",.0f"), ("server busy", "server_cpu_percent", ".0f"),
            ("generator busy", "load_cpu_percent", ".0f")),
        "capacity", ("server_user_us_per_message", "server_system_us_per_message"), "2 workers"),
}


# ---- values ----

def total(record, keys):
    return sum(record[key] for key in ((keys,) if isinstance(keys, str) else keys))


def values(part, work, server, keys):
    """{round: value} of the runs that succeeded."""
    return {record["round"]: total(record, keys) for record in part["records"]
            if record["work"] == work and record["server"] == server and "error" not in record}


def median(part, work, server, keys):
    found = values(part, work, server, keys)
    return statistics.median(found.values()) if found else None


def ratio(part, work, ours, theirs, keys):
    """The median of the rounds' own ratios."""
    mine, other = values(part, work, ours, keys), values(part, work, theirs, keys)
    both = [mine[i] / other[i] for i in mine if other.get(i)]
    return statistics.median(both) if both else None


def show(value, how):
    return "–" if value is None else format(value, how)


# ---- a part ----

def head(name):
    table = TABLES[name]
    titles = ["work", "server", *(title for title, _, _ in table.columns), f"{table.first} : this"]
    if table.cost:
        titles.append("CPU time")
    return f"| {' | '.join(titles)} |\n| --- | --- |{' ---: |' * (len(titles) - 2)}"


def rows(name, part, work, servers):
    """The lines of one work."""
    table = TABLES[name]
    for server in servers:
        cells = [work, server, *(show(median(part, work, server, key), how) for _, key, how in table.columns)]
        for keys in (table.rate, *((table.cost,) if table.cost else ())):
            cells.append("" if server == table.first else show(ratio(part, work, table.first, server, keys), ".2f"))
        yield f"| {' | '.join(cells)} |"


def remarks(part):
    """What was left out and why, and how far to trust the rest."""
    lines = list(part["notes"])
    for record in part["records"]:
        if "error" in record:
            lines.append(f"{record['server']} failed at {record['work']}: {record['error']}.")
    runs = [record for record in part["records"] if "error" not in record]
    disturbed = sum(record["others"] > DISTURBED for record in runs)
    if disturbed:
        lines.append(f"In {disturbed} of {len(runs)} runs other processes got over {100 * DISTURBED:.0f} % of the "
                     "time: do not trust them.")
    return lines


def order(part, key):
    """The different works or servers, as they first come."""
    return list(dict.fromkeys(record[key] for record in part["records"]))


def section(name, part):
    when = f"{part['date']}, commit {part['commit']}"
    if name == "idle":
        about = f"By `idle.py`; {when}. User memory only."
        return "\n\n".join(["## Idle connections", about, part["text"], *part["notes"]])
    table = TABLES[name]
    lines = [f"## {table.title}", "", table.about, "",
             f"Medians of {part['rounds']} rounds of {part['seconds']:g} s; {when}.", "", head(name)]
    for work in order(part, "work"):
        lines += rows(name, part, work, part["servers"])
    for remark in remarks(part):
        lines += ["", remark]
    return "\n".join(lines)


# ---- goals ----

class Goal(NamedTuple):
    work: str
    goal: str
    part: str
    reached: object  # function(part): a number, or None
    at_least: bool
    bound: float
    how: str = ".2f"


def beside(work, theirs, keys, ours="Tidewire"):
    return lambda part: ratio(part, work, ours, theirs, keys)


def growth(part, server):
    """How many times as much a delivery to 10,000 costs as one to 100."""
    few, many = (median(part, f"1 to {n}", server, TABLES["linear"].cost) for n in ("100", "10,000"))
    return many / few if few and many else None


def growth_beside(part):
    """Growth that the caches are to blame for is Bun's as well."""
    ours, theirs = growth(part, "Tidewire"), growth(part, "Bun")
    return ours / theirs if ours and theirs else None


def idle_bytes(part):
    return part["bytes"] and part["bytes"]["all"] - part["bytes"]["head"]


def goals():
    rate, user = "messages_per_second", "server_user_us_per_message"
    for work in "20 B", "1 KiB":
        yield Goal(f"echo, {work}", "at least 0.90 of the floor", "echo", beside(work, "floor", rate), True, 0.9)
        yield Goal(f"echo, {work}", "at most 1.0 µs of user time for each", "echo",
                   lambda part, work=work: median(part, work, "Tidewire", user), False, 1)
    yield Goal("echo, 20 B, 16 in flight", "ahead of Bun", "in-flight", beside("20 B", "Bun", rate), True, 1)
    for work in "64 KiB", "1 MiB":
        yield Goal(f"echo, {work}", "at least 0.70 of the floor", "large", beside(work, "floor", rate), True, 0.7)
    for work in FAN:
        alone = work == ONE_BY_ONE  # each delivery is a system call on both sides: the generator works as hard
        keys = TABLES["fan"].cost if alone else TABLES["fan"].rate
        yield Goal(f"publish, {work}", "less CPU time than Bun" if alone else "ahead of Bun", "fan",
                   beside(work, "Bun", keys), not alone, 1)
    yield Goal("publish, CPU time of a delivery", "linear: from 100 to 10,000 it grows at most 1.10 as much as Bun's",
               "linear", growth_beside, False, 1.1)
    yield Goal("connect and upgrade", "at least 0.70 of the floor", "connect",
               beside("upgrade", "floor", "connects_per_second"), True, 0.7)
    yield Goal("idle connection, one handler", "under 512 bytes, the request's head apart", "idle", idle_bytes, False,
               511, ".0f")
    yield Goal("HTTP, short text", "ahead of nginx + Lua", "http",
               beside("short text", "nginx + Lua", "requests_per_second"), True, 1)
    yield Goal("two workers, echo", "at least 1.70 of one: capacity", "workers",
               beside("echo, 16 in flight", "1 worker", "capacity", "2 workers"), True, 1.7)
    yield Goal("two workers, compute", "at least 1.70 of one: rate", "workers",
               beside("compute", "1 worker", rate, "2 workers"), True, 1.7)


def goal_rows(results):
    yield "| work | goal | reached | |"
    yield "| --- | --- | ---: | --- |"
    for goal in goals():
        part = results["parts"].get(goal.part)
        value = goal.reached(part) if part else None
        good = value is not None and (value >= goal.bound if goal.at_least else value <= goal.bound)
        verdict = "not measured" if value is None else "yes" if good else "no"
        yield f"| {goal.work} | {goal.goal} | {show(value, goal.how)} | {verdict} |"
    yield "| reload, 10,000 connections under traffic | no message lost, added delay under 10 ms | | see `reload.py` |"


# ---- all of it ----

INTRODUCTION = """# What it measured

Written by `make bench`; [README.md](README.md) says how to read it. The server has one processor and the load generator
another; the servers take turns within each round and the order changes from round to round. Figures are medians of the
rounds; a ratio is the median of the rounds' own ratios, `Tidewire : this`, so that more than 1 is in our favour for
rates, less than 1 for CPU time and for latency (in the tables of TLS: `Tidewire TLS : this`). No server compresses, logs messages or drops any. gorilla and
libwebsockets do not check that text is UTF-8. uWebSockets is in neither Debian nor npm: the floor and Bun, which is
built on it, stand for it."""


def document(results):
    lines = [INTRODUCTION, "", "## Goals", "", *goal_rows(results), "", "## The machine", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in results["machine"].items()]
    for name in [*TABLES, "idle"]:
        if name in results["parts"]:
            lines += ["", section(name, results["parts"][name])]
    return "\n".join(lines) + "\n"
