#!/usr/bin/env python3
"""Every flag of every command with wrong values: what does it say?

    python scripts/try_wrong_values.py --parloop target/release/parloop [--list]

Flags and commands are taken from the help. A value that no flag takes must end the command with a status that is not 0 and 1 to 3 lines on
standard error, of which the first names the flag or the value; nothing may panic or hang. `--list` prints every message.
"""
import argparse, re, subprocess, sys, tempfile

#: Values that are wrong for numbers, words, files and addresses alike; a flag may accept some of them, rarely all.
WRONG = ["", "-1", "1e999", "nonsense\x7f", "99999999999999999999", "../no/such/file"]
#: Flags that take any text; for these the command goes on, and fails on something else or runs.
BENIGN = re.compile(r"--(prompt|system|stop|suffix|sample-prompt|set|help|version)$")


def run(words, stdin=b""):
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=20, cwd=WORK)
        return done.returncode, done.stderr.decode(errors="replace"), done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired:
        return None, "runs on after 20 s", ""


def commands(binary, before=()):
    text = run([binary, *before, "--help"])[2]
    if "\nCommands:\n" in text:
        names = re.findall(r"^  (\S+)", text.split("\nCommands:\n")[1].split("\n\n")[0], re.M)
        for name in names:
            if name != "help":
                yield from commands(binary, (*before, name))
    if before:
        yield before, text


def main():
    global WORK
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parloop", required=True)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    import os
    binary = os.path.abspath(args.parloop)
    tried = bad = accepted = 0
    with tempfile.TemporaryDirectory() as WORK:
        for words, text in commands(binary):
            flags = re.findall(r"^ +(?:-\w, )?(--[\w-]+) <", text, re.M)
            positional = re.findall(r"^  <(\w+)>", text, re.M)
            # What must stand there for the flag to be looked at, where there is something that can.
            fill = {"TEST": "decode", "MODEL": "no-such-model", "IN": "no-such-file", "OUT": "out", "SHELL": "bash"}
            fixed = [fill.get(p, "no-such-file") for p in positional]
            for flag in dict.fromkeys(flags):
                for value in WRONG:
                    tried += 1
                    code, message, _ = run([binary, *words, *fixed, f"{flag}={value}"])
                    lines = [line for line in message.strip().splitlines() if line.strip()]
                    fine = code not in (0, 101, None) and 1 <= len(lines) <= 6 and "panicked" not in message
                    named = flag in message or (value and value.strip("\x7f") in message)
                    if code == 0:
                        accepted += 1
                    elif not fine or code is not None and code < 0:
                        bad += 1
                    if args.list or not (fine or code == 0):
                        mark = "accepted" if code == 0 else "ok" if fine and named else "other" if fine else "BAD"
                        print(f"{mark:8} {' '.join(words)} {flag}={value!r}: {code}: {' | '.join(lines)[:300]}", flush=True)
    print(f"{tried} tried, {accepted} accepted, {bad} bad")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
