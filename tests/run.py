#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the tests: stage by stage, one line for each, the output of those that fail, and a last line that counts."""

import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CPUS = len(os.sched_getaffinity(0))
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1:report_thread_leaks=0",
}

# ---- processes ----

running = set()  # the process groups that this run has started


def kill_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def abandon(number, _frame):
    for pid in list(running):
        kill_group(pid)
    os._exit(128 + number)


def environment(**extra):
    """Ours without what a calling make or the developer's own server settings would slip in."""
    inherited = {key: value for key, value in os.environ.items()
                 if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "V") and not key.startswith("TIDEWIRE_")}
    return {**inherited, **SANITIZERS, **extra}


def run(command, seconds, env):
    """Runs a command in a process group of its own, which ends with it. Returns its status and its output."""
    late = threading.Event()

    def expire():
        late.set()
        kill_group(process.pid)

    with tempfile.TemporaryFile() as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        try:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            return 127, f"{command[0]}: {error.strerror}\n"
        running.add(process.pid)
        timer = threading.Timer(max(seconds, 0), expire)
        timer.start()
        # The leader stays a zombie until its group is gone, so that the number cannot be another's by then.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        timer.cancel()
        timer.join()
        kill_group(process.pid)
        running.discard(process.pid)
        status = process.wait()
        log.seek(0)
        output = log.read().decode(errors="replace")
    if late.is_set():
        output += f"\nstopped after {max(seconds, 0):.0f} s\n"
    elif status < 0:
        output += f"\nkilled by {signal.Signals(-status).name}\n"
    elif status > 0:
        output += f"\nexit status {status}\n"
    return status, output


# ---- stages ----


class Stage:
    """What one stage has counted and printed so far, and the time it may still take."""

    def __init__(self, limit_s):
        self.passed = self.failed = self.skipped = 0
        self.output = ""
        self.deadline = time.monotonic() + limit_s

    def run(self, command, **env):
        status, output = run(command, self.deadline - time.monotonic(), environment(**env))
        self.output += output
        return status, output

    def run_all(self, commands):
        """Runs the commands side by side; yields the status and output of each, in order."""
        with concurrent.futures.ThreadPoolExecutor(CPUS) as pool:
            for status, output in pool.map(
                    lambda command: run(command, self.deadline - time.monotonic(), environment()), commands):
                self.output += output
                yield status, output

    def make(self, variant, target):
        """Builds; a failure counts as one. Returns whether it went well."""
        compiler = ["CC=gcc"] if variant == "cover" else []
        status, _ = self.run(["make", f"-j{CPUS}", "--no-print-directory", f"V={variant}", *compiler, target])
        self.failed += status != 0
        return status == 0

    def add(self, status, passed, failed, skipped=0):
        """Counts a program's results; one that failed without naming a test, or ran none, is a failure."""
        if failed == 0 and (status != 0 or passed + skipped == 0):
            failed = 1
        self.passed += passed
        self.failed += failed
        self.skipped += skipped


def total(pattern, output):
    return sum(int(number) for number in re.findall(pattern, output, re.MULTILINE))


def names(pattern):
    return sorted(os.path.basename(path)[:-2] for path in glob.glob(pattern, root_dir=ROOT))


def stage_build(stage, options):
    stage.make(options.server, "binary")


def stage_lint(stage, options):
    status, output = stage.run([sys.executable, "scripts/lint.py"])
    stage.add(status, total(r"^lint: (\d+) passed", output), total(r"^lint: \d+ passed, (\d+) failed", output))


def stage_unit(stage, options):
    if not stage.make(options.checks, "checks-unit"):
        return
    programs = [[f"build/{options.checks}/unit/{name}"] for name in names("tests/unit/test_*.c")]
    for status, output in stage.run_all(programs):
        stage.add(status, *(total(rf"^\[  {word} +\] (\d+) test\(s\)", output)
                            for word in ("PASSED", "FAILED", "SKIPPED")))


def stage_fuzz(stage, options):
    if not stage.make(options.checks, "checks-fuzz"):
        return
    targets = names("tests/fuzz/fuzz_*.c")
    commands = [[f"build/{options.checks}/fuzz/{name}", f"tests/fuzz/corpus/{name.removeprefix('fuzz_')}"]
                for name in targets]
    for status, _ in stage.run_all(commands):
        stage.add(status, int(status == 0), int(status != 0))


def stage_lua(stage, options):
    lua = shutil.which("lua5.4") or "lua5.4"
    status, output = stage.run(["busted", f"--lua={lua}", "--lpath=lua/?.lua", "-o", "plainTerminal", "tests/lua"])
    stage.add(status, total(r"^(\d+) success", output), total(r" / (\d+) (?:failure|error)", output),
              total(r" / (\d+) pending", output))


def run_pytest(stage, options, folder, processes):
    binary = os.path.join(ROOT, "build", "" if options.server == "release" else options.server, "tidewire")
    # A test that hangs shows its stack before the stage's time is up.
    status, output = stage.run(["/usr/bin/python3", "-m", "pytest", "-q", "-n", processes, "-p", "no:cacheprovider",
                                "-o", "faulthandler_timeout=120", folder], TIDEWIRE_BIN=binary)
    summary = (re.findall(r"^=* ?(\d+ \w+.*) in \d[\d.]*s", output, re.MULTILINE) or [""])[-1]
    stage.add(status, total(r"(\d+) passed", summary), total(r"(\d+) (?:failed|errors?|xpassed)\b", summary),
              total(r"(\d+) (?:skipped|xfailed)\b", summary))


def stage_e2e(stage, options):
    run_pytest(stage, options, "tests/e2e", "4")


def stage_conformance(stage, options):
    run_pytest(stage, options, "tests/conformance", "2")


STAGES = {  # what runs, and the seconds it may take
    "build": (stage_build, 900),
    "lint": (stage_lint, 120),
    "unit": (stage_unit, 900),
    "fuzz": (stage_fuzz, 900),
    "lua": (stage_lua, 120),
    "e2e": (stage_e2e, 1200),
    "conformance": (stage_conformance, 600),
}
NEED_SERVER = {"e2e", "conformance"}


def counts(of):
    skipped = f", {of.skipped} skipped" if of.skipped else ""
    return f"{of.passed} passed, {of.failed} failed{skipped}"


def perform(name, options):
    """Runs one stage and prints its line, after its output if it failed."""
    function, limit_s = STAGES[name]
    stage = Stage(limit_s)
    start = time.monotonic()
    function(stage, options)
    if name != "build" and stage.passed + stage.failed == 0:
        stage.output += "no test ran\n"
        stage.failed = 1
    if stage.failed:
        print(stage.output)
    result = counts(stage) if name != "build" else "failed" if stage.failed else "ok"
    print(f"{name:<11} {result}, {time.monotonic() - start:.1f} s", flush=True)
    return stage


# ---- coverage ----


def forget_coverage():
    for path in glob.glob(f"{ROOT}/build/cover/**/*.gcda", recursive=True):
        os.unlink(path)


def print_coverage():
    """A table of the lines run in each file of src, headers included, over all objects that contain them."""
    notes = sorted(glob.glob("build/cover/obj/**/*.gcno", root_dir=ROOT, recursive=True))
    done = subprocess.run(["gcov", "--json-format", "--stdout", *notes], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    table = {}
    for document in filter(None, done.stdout.split("\n")):
        for file in json.loads(document)["files"]:
            if file["file"].startswith("src/"):
                seen = table.setdefault(file["file"], {})
                for line in file["lines"]:
                    seen[line["line_number"]] = seen.get(line["line_number"], False) or line["count"] > 0
    every = {(path, line): hit for path, seen in table.items() for line, hit in seen.items()}
    print(f"\n{'file':<36}{'lines':>7}{'run':>7}{'%':>7}")
    for path, seen in [*sorted(table.items()), ("all", every)]:
        share = 100 * sum(seen.values()) / max(len(seen), 1)
        print(f"{path:<36}{len(seen):>7}{sum(seen.values()):>7}{share:>7.1f}")
    print()


# ---- the run ----


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"{', '.join(STAGES)}; default: all of them")
    parser.add_argument("--server", choices=["release", "asan", "tsan"], default="release",
                        help="the build of the server that the end-to-end tests talk to")
    parser.add_argument("--cover", action="store_true", help="unit and e2e with a table of the lines they run")
    options = parser.parse_args()
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    options.checks = "check"
    if options.cover:
        options.server = options.checks = "cover"
        options.stages = options.stages or ["unit", "e2e"]
    wanted = set(options.stages or STAGES)
    if wanted & NEED_SERVER:
        wanted.add("build")
    if not options.stages and not glob.glob("tests/lua/*_spec.lua", root_dir=ROOT):
        wanted.discard("lua")
    options.stages = [name for name in STAGES if name in wanted]
    return options


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, abandon)
    options = arguments()
    if options.cover:
        forget_coverage()
    result = Stage(0)
    built = True
    for name in options.stages:
        if name in NEED_SERVER and not built:
            print(f"{name:<11} not run: there is no server")
            result.failed += 1
            continue
        stage = perform(name, options)
        built = built and not (name == "build" and stage.failed)
        result.passed += stage.passed
        result.failed += stage.failed
        result.skipped += stage.skipped
    if options.cover:
        print_coverage()
    print(counts(result))
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
