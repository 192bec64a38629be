#!/usr/bin/env python3
"""Kills training runs at random moments and compares what they come to with a run that was never stopped.

    cargo build --release && scripts/kill_training.py --kills 100

A tiny model is trained once without interruption. Then the same run is started again and again with SIGKILL after a
random time (every other time: as soon as it is seen to write a checkpoint), gone on with `--resume`, each time with another
number of threads. Weights, optimiser and configuration of every run that reaches its end must equal the first one's, byte
for byte. Afterwards the disk fills up while a run saves (a small tmpfs where it may be mounted, a limit on the size of
files elsewhere): the run must end with a sentence, and go on from its last checkpoint to the same bytes.
"""

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--tokenizer bytes --hidden-size 64 --intermediate-size 96 --layers 2 --heads 4 --kv-heads 2 --head-dim 16 "
    "--context 64 --batch 4 --steps 120 --warmup 10 --eval-every 20 --eval-batches 2 --log-every 5 --save-every 2 "
    "--loops-schedule 1:0,2:40 --scales cold"
).split()
FILES = ["model.safetensors", "optimizer.safetensors", "config.json"]


class Runs:
    """Runs of one training job in folders of their own."""

    def __init__(self, program, place):
        self.program, self.place = program, place
        self.data = place / "text.txt"
        words = ["loop", "token", "gate", "window", "carried", "row", "pass", "ring"]
        self.data.write_text("".join(f"{words[i * i % 8]} {words[(i * 5 + 3) % 8]}\n" for i in range(20_000)))

    def start(self, out, threads, extra=(), **more):
        resume = ["--resume"] if any(Path(out).glob("checkpoint-*")) else []
        # A run that goes on has its options in its checkpoint.
        options = [*resume] if resume else OPTIONS
        command = [self.program, "train", "--data", self.data, "--out", out, "--quiet", *options, *extra]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)

    def finish(self, out, threads, extra=()):
        process = self.start(out, threads, extra)
        _, errors = process.communicate()
        if process.returncode != 0:
            sys.exit(f"a run that nobody killed ended with {process.returncode}: {errors}")


def bits(out):
    newest = sorted(Path(out).glob("checkpoint-*"))[-1]
    return newest.name, [hashlib.sha256((newest / name).read_bytes()).hexdigest() for name in FILES]


def saving(out):
    return next(Path(out).glob(".checkpoint-*.tmp"), None)


def kills(runs, expected, wanted, seconds, rng):
    """Kills `wanted` times; figures of what was hit."""
    figures = {"kills": 0, "while a checkpoint was written": 0, "before the first checkpoint": 0, "whole runs": 0}
    number = 0
    while figures["kills"] < wanted:
        out = runs.place / f"killed-{number}"
        number += 1
        while True:
            process = runs.start(out, rng.randint(1, 3))
            began, aim = time.time(), rng.random() < 0.5
            delay = rng.uniform(0.0, 0.6 * seconds)
            while process.poll() is None and time.time() - began < delay:
                time.sleep(0.0005)
            while aim and process.poll() is None and not saving(out):
                pass
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                figures["kills"] += 1
                figures["while a checkpoint was written"] += saving(out) is not None
                figures["before the first checkpoint"] += not any(out.glob("checkpoint-*"))
            elif process.returncode != 0:
                sys.exit(f"a resumed run ended with {process.returncode}: {process.communicate()[1]}")
            else:
                break
        if bits(out) != expected:
            sys.exit(f"{out}: other weights than the run that was never stopped: {bits(out)} instead of {expected}")
        if saving(out):
            sys.exit(f"{out}: a checkpoint that was never finished was left: {saving(out)}")
        figures["whole runs"] += 1
        shutil.rmtree(out)
    return figures


def mounted(place, size):
    """A tmpfs of so many bytes, if one may be mounted."""
    place.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
        return done.returncode == 0
    except FileNotFoundError:
        return False


def full_disk(runs, expected):
    """The disk fills up while a checkpoint is written."""
    size = sum(f.stat().st_size for f in sorted((runs.place / "whole").glob("checkpoint-*"))[-1].iterdir())
    place = runs.place / "small"
    if mounted(place, int(6.5 * size)):
        try:
            out = place / "run"
            process = runs.start(out, 2, ["--keep", "99"])
            _, errors = process.communicate()
            left = sorted(path.name for path in out.glob("checkpoint-*"))
            if process.returncode == 0 or "cannot save the checkpoint" not in errors or saving(out) or not left:
                sys.exit(f"a full disk: exit code {process.returncode}, {left}, {errors}")
            subprocess.run(["mount", "-o", f"remount,size={99 * size}", place], check=True)
            runs.finish(out, 1, ["--keep", "2"])
            if bits(out) != expected:
                sys.exit("a full disk: the run that went on has other weights")
            return f"full disk (tmpfs of {6.5 * size / 1e6:.1f} MB): {errors.strip()}; {len(left)} checkpoints left, went on to the same bytes"
        finally:
            subprocess.run(["umount", place], check=False)
    # No mount: files may not grow beyond a limit that the weights keep and the optimiser's state does not.
    out = runs.place / "limited"
    first = runs.start(out, 2)
    while first.poll() is None and not any(out.glob("checkpoint-*")):
        time.sleep(0.001)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = bits(out)
    newest = sorted(out.glob("checkpoint-*"))[-1]
    limit = (newest / "model.safetensors").stat().st_size + 4096

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = runs.start(out, 2, preexec_fn=limited, restore_signals=False)
    _, errors = process.communicate()
    if process.returncode == 0 or "cannot save the checkpoint" not in errors or bits(out) != before:
        sys.exit(f"a limit on files: exit code {process.returncode}, {errors}")
    runs.finish(out, 1)
    if bits(out) != expected:
        sys.exit("a limit on files: the run that went on has other weights")
    return f"files limited to {limit / 1e6:.2f} MB: {errors.strip()}; went on to the same bytes"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parloop", default=ROOT / "target/release/parloop", help="the program")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        runs = Runs(arguments.parloop, Path(place))
        began = time.time()
        runs.finish(runs.place / "whole", 2)
        seconds = time.time() - began
        expected = bits(runs.place / "whole")
        print(f"uninterrupted: {seconds:.2f} s, {expected[0]}", flush=True)
        figures = kills(runs, expected, arguments.kills, seconds, rng)
        print(", ".join(f"{name}: {n}" for name, n in figures.items()) + "; all equal to the last bit", flush=True)
        print(full_disk(runs, expected))


if __name__ == "__main__":
    main()
