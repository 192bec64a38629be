#!/usr/bin/env python3
"""Two builds of parloop against each other: `parloop bench` of the one, then of the other, round after round.

    python scripts/compare_builds.py OLD NEW [--isa avx2,avx512] [--what decode,prefill,built-in,smollm2] [--rounds 3]

Prints, for each instruction set, test, weight type and number of loops, the median of the ratios new : old of tokens per second
within a round, their spread, and for both builds the time against one loop and the share of the read bandwidth.
"""
import argparse, json, os, statistics, subprocess

#: Name, arguments of `parloop bench`.
TESTS = {
    "decode": "decode --shape loopcoder-v2 --layers {layers} --loops 1,2,3 --weights bf16,q8,q4",
    "prefill": "prefill --shape loopcoder-v2 --layers 1 --loops 1,2 --weights bf16,q8,q4 --tokens 256 --no-truncate",
    "built-in": "decode --steps 32",
    "smollm2": "decode --shape smollm2-135m --weights bf16,q8,q4 --steps 4",
}


def bench(binary, isa, words, each):
    command = [binary, "bench", *words.split(), "--rounds", str(each), "--json"]
    done = subprocess.run(command, env={**os.environ, "PARLOOP_ISA": isa}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    report = json.loads(done.stdout.strip().splitlines()[-1])
    rows = next(v for v in report.values() if isinstance(v, list) and v and isinstance(v[0], dict))
    return {(r["weights"], r["loops"]): r for r in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--isa", default="avx2,avx512")
    parser.add_argument("--what", default=",".join(TESTS))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of old, new")
    parser.add_argument("--each", type=int, default=5, help="rounds within a run of bench")
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    for isa in args.isa.split(","):
        for what in args.what.split(","):
            words = TESTS[what].format(layers=args.layers)
            rounds = [[bench(b, isa, words, args.each) for b in (args.old, args.new)] for _ in range(args.rounds)]
            for key in rounds[0][0]:
                pairs = [(old[key], new[key]) for old, new in rounds if key in new]
                ratios = sorted(new["tokens_per_second"] / old["tokens_per_second"] for old, new in pairs)
                of = lambda side, name: statistics.median(pair[side].get(name) or 0 for pair in pairs)
                sides = [f"{of(i, 'tokens_per_second'):8.2f} t/s x{of(i, 'ratio_to_one_loop'):.2f} read {of(i, 'bandwidth_share'):.2f}" for i in (0, 1)]
                middle = statistics.median(ratios)
                print(f"{isa} {what} {key[0]} R={key[1]}: new/old {middle:.3f} ({ratios[0]:.3f}..{ratios[-1]:.3f}) | old {sides[0]} | new {sides[1]}", flush=True)


if __name__ == "__main__":
    main()
