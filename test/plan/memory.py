#!/usr/bin/env python3
"""The bytes of a plan on meshes: `lmc inspect --json` against the formulas, and
the independent replayer on the same plans.

    memory.py MODEL SCRATCH     with lmc and replay-plan in the PATH

Per rank, P parameters of its stage in float32, d ranks that ZeRO shares over:
parameters 4P, or 4P/d from level 3 on; gradients 4P, or 4P/d from 2 on; two
moments 8P, or 8P/d from 1 on. Padding apart: it is below 1 %. The tied table
lies at one place on the first and the last stage, so that those between leave
its bytes free. 1F1B's stage i of p holds the saved values of min(m, p - i)
micro-batches. The arena of each stage is at most 1.03 times what is alive at
once.
"""

import json
import subprocess
import sys
from pathlib import Path

sequence = "--sequence-parallel"
chunks = "--virtual-stages=2"
halves = "--pipeline-schedule=zb"
# ZeRO, mesh, micro-batches, further flags.
cases = [
    (0, "dp=2", 2), (1, "dp=2", 2), (2, "dp=2", 2), (3, "dp=2", 2),
    (1, "dp=4", 1), (3, "dp=4", 1), (0, "fsdp=2", 2), (1, "dp=2,fsdp=2", 1),
    (3, "dp=2,fsdp=2", 2), (0, "tp=2", 2), (2, "dp=2,tp=2", 2),
    (0, "pp=2", 4), (0, "pp=4", 4), (0, "pp=4", 2), (0, "pp=4", 6),
    (1, "pp=2,dp=2", 4), (2, "pp=2,dp=2,tp=2", 4), (3, "pp=2,dp=2", 4),
    (0, "pp=2,fsdp=2", 4), (0, "pp=2", 4, "--pipeline-schedule=gpipe"),
    (2, "dp=2,tp=2", 2, sequence), (0, "fsdp=2,tp=2", 2, sequence),
    (3, "pp=2,dp=2,tp=2", 4, sequence),
    (0, "pp=2", 4, chunks), (1, "pp=2,dp=2", 4, chunks),
    (3, "pp=2,dp=2", 4, chunks), (0, "pp=2,fsdp=2", 4, chunks),
    (0, "pp=2,tp=2", 4, chunks, sequence),
    (0, "pp=2", 4, chunks, "--pipeline-schedule=gpipe"),
    (0, "pp=2", 4, halves), (0, "pp=4", 8, halves),
    (2, "pp=2,dp=2", 4, halves), (3, "pp=2,dp=2", 4, halves),
    (0, "pp=2,fsdp=2", 4, halves), (0, "pp=2,tp=2", 4, halves, sequence),
]
width, layers, vocabulary, positions = 192, 4, 256, 256
largest_ratio = 1.03  # of an arena to what is alive


def run(*command):
    ran = subprocess.run([str(c) for c in command], capture_output=True,
                         text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {ran.stdout}{ran.stderr}")
    return ran.stdout


def near(what, got, wanted):
    if not wanted * 0.999 <= got <= wanted * 1.01:
        sys.exit(f"{what}: {got} bytes instead of {wanted}")


def parameters(stage, pp, t):
    """Of a rank: what tp shares and what it does not."""
    whole = width * (4 + 2)  # norms; the biases that are added after a sum
    shared = 12 * width * width + width * (3 + 4)
    count = layers // pp * (whole + shared / t)
    if stage == 0:
        count += positions * width
    count += vocabulary * width / t  # the tied table, or its place
    return count + (2 * width if stage == pp - 1 else 0)


def check(model, scratch, zero, mesh, micro_batches, *flags):
    sizes = {a: int(n) for a, n in (x.split("=") for x in mesh.split(","))}
    dp, fsdp = sizes.get("dp", 1), sizes.get("fsdp", 1)
    t, pp = sizes.get("tp", 1), sizes.get("pp", 1)
    name = " ".join([mesh, f"zero {zero}", f"m={micro_batches}", *flags])
    plan = scratch / "memory.plan"
    run("lmc", "compile", model, "-o", plan, f"--mesh={mesh}", f"--zero={zero}",
        f"--global-batch={4 * dp * fsdp * micro_batches}", "--micro-batch=4",
        "--target-cpu=x86-64-v3", *flags)
    description = json.loads(run("lmc", "inspect", "--json", plan))
    stages = description["step"]["stages"]
    for i, stage in enumerate(stages):
        all_bytes = 4 * parameters(i, pp, t)
        for kind, level, copies in (("parameters", 3, 1), ("gradients", 2, 1),
                                    ("moments", 1, 2)):
            parts = fsdp * (dp if zero >= level else 1)
            near(f"{name}: {kind} of stage {i}",
                 stage["bytes_by_allocation"][kind],
                 copies * all_bytes / parts)
        held = micro_batches
        if "--pipeline-schedule=gpipe" not in flags:
            held = min(micro_batches, pp - i)
        if not {chunks, halves} & {*flags} and stage["saved_slots"] != held:
            sys.exit(f"{name}: stage {i} holds {stage['saved_slots']} "
                     f"micro-batches instead of {held}")
        peaks = [chunk["peak_bytes"] for chunk in stage["chunks"]]
        if not max(peaks) <= stage["saved_peak_bytes"] <= sum(peaks):
            sys.exit(f"{name}: stage {i} saves {stage['saved_peak_bytes']} "
                     f"bytes, its chunks {peaks}")
        if len(peaks) != (2 if chunks in flags else 1):
            sys.exit(f"{name}: stage {i} has {len(peaks)} chunks")
        if stage["saved_peak_bytes"] > sum(
                stage["bytes_by_allocation"].get(a, 0)
                for a in ("saved", "activations")):
            sys.exit(f"{name}: stage {i} saves more than is allocated")
    if description["memory"]["peak_bytes"] != max(s["peak_bytes"]
                                                  for s in stages):
        sys.exit(f"{name}: the peak is not that of a stage")
    run("replay-plan", f"--max-ratio={largest_ratio}", plan)
    print(f"{name}: agrees")


def main():
    model, scratch = sys.argv[1], Path(sys.argv[2])
    scratch.mkdir(parents=True, exist_ok=True)
    for case in cases:
        check(model, scratch, *case)
    print(f"{len(cases)} plans agree")


if __name__ == "__main__":
    main()
