#!/usr/bin/env python3
"""WebSocket conformance (RFC 6455) of a running echo endpoint: the Autobahn cases and the handshake.

    python3 tests/conformance/run.py ws://127.0.0.1:8080/echo

The endpoint echoes every text and binary message. The first run makes a virtual environment (CONFORMANCE_VENV, by
default ~/.cache/roomcast-conformance) with what requirements.txt names. A case passes only if it is strictly right:
NON-STRICT counts as a failure. Exit: 0 all passed, 1 a case failed, 2 the endpoint could not be tested.
"""
import asyncio
import os
import pathlib
import subprocess
import sys
import venv

import handshake

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
VENV = pathlib.Path(os.environ.get("CONFORMANCE_VENV") or pathlib.Path.home() / ".cache" / "roomcast-conformance")
SECTIONS = {"1": "framing", "2": "pings and pongs", "3": "reserved bits", "4": "opcodes", "5": "fragmentation",
            "6": "UTF-8", "7": "close", "10": "mixed"}
WHOLE_RUN_S = 540
CASE_TIMER_MS = 1000  # the shortest timer that a case gives up by
RETRIES_MAX = 8  # more cases than this out of time is no busy machine but a slow server


def enter_venv():
    """Continues in the virtual environment's interpreter, made on the first run and when a pin has changed."""
    installed = VENV / "installed.txt"
    if not installed.exists() or installed.read_text() != REQUIREMENTS.read_text():
        venv.create(VENV, clear=True, with_pip=True)
        pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", REQUIREMENTS], check=True)
        installed.write_text(REQUIREMENTS.read_text())
    if pathlib.Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])


async def autobahn(url, cases, at_once):
    """Results by case id. The runner raises when a case failed, but hands over all results all the same."""
    import kosoku

    try:
        results = await kosoku.run_fuzzingclient(url, cases, concurrency=at_once)
    except kosoku.FailureError as failure:
        results = failure.results
    return {result.case_id: result for result in results}


async def autobahn_with_retry(url):
    results = await autobahn(url, [f"{section}.*" for section in SECTIONS], 2)
    late = [case for case, result in results.items() if ran_out_of_time(result)]
    if 0 < len(late) <= RETRIES_MAX:
        print(f"out of time, tried again alone: {' '.join(late)}")
        results |= await autobahn(url, late, 1)
    return results


def ran_out_of_time(result):
    """A wrong answer is known in milliseconds. Later failures come from the timer of the case, one second or more."""
    return complaint(result) is not None and result.duration >= CASE_TIMER_MS


def complaint(result):
    """What is wrong with a case, or None. INFORMATIONAL is right: the RFC leaves it open."""
    verdicts = (result.behavior.value, result.behavior_close.value)
    if result.passed and all(verdict in ("OK", "INFORMATIONAL") for verdict in verdicts):
        return None
    return f"{verdicts[0]}, close {verdicts[1]}: {result.result} {result.result_close}"


def report(rows):
    """Prints a table of (section, case, what is wrong or None) and gives the count of failures."""
    for section in dict.fromkeys(row[0] for row in rows):
        wrong = [row[2] for row in rows if row[0] == section]
        print(f"{section:28} {wrong.count(None):4} of {len(wrong)}")
    failed = [row for row in rows if row[2]]
    for _, case, wrong in failed:
        print(f"FAILED {case}: {wrong}")
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return len(failed)


def main():
    if len(sys.argv) != 2 or not sys.argv[1].startswith("ws://"):
        print(f"usage: {sys.argv[0]} ws://HOST:PORT/PATH", file=sys.stderr)
        return 2
    url = sys.argv[1]
    try:
        enter_venv()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"cannot make the virtual environment {VENV}: {error}; delete it and try again", file=sys.stderr)
        return 2
    shakes = handshake.run(url)
    if all(wrong for _, wrong in shakes):
        print(f"cannot test {url}: {shakes[0][1]}; is an echo endpoint listening there?", file=sys.stderr)
        return 2
    try:
        results = asyncio.run(asyncio.wait_for(autobahn_with_retry(url), WHOLE_RUN_S))
    except asyncio.TimeoutError:
        print(f"cannot test {url}: no end after {WHOLE_RUN_S} s", file=sys.stderr)
        return 2
    by_number = sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")])
    rows = [(f"{case.split('.')[0]:>2} {SECTIONS[case.split('.')[0]]}", case, complaint(result)) for case, result in by_number]
    if not rows or all(result.behavior.value == "ERROR" for result in results.values()):
        print(f"cannot test {url}: no case could be run", file=sys.stderr)
        return 2
    return 1 if report(rows + [("   handshake", name, wrong) for name, wrong in shakes]) else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Leaves without tearing the interpreter down: the runner's native threads can still call into it then, which
    # aborts the process now and then and would turn the verdict into a crash.
    os._exit(code)
