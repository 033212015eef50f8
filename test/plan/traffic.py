#!/usr/bin/env python3
"""What a step exchanges: `lmc inspect --json` reads from the plan what the
communicators count when it runs, and both are what the formulas say.

    traffic.py MODEL SCRATCH     with lmc and lmrun in the PATH

Elements received per rank and step, r = (d-1)/d, m micro-batches, P the
parameters that a rank's stage has, with the padding of buckets: ZeRO-0 and 1
2rP, ZeRO-2 (m+1)rP, ZeRO-3 3mrP. Tensor parallelism: 8bsh(t-1)/t for a layer
and a micro-batch. With ZeRO-3 a program gathers what it reads: the backward
neither the positions' table nor the bias of the last norm; the tokens' table is
read by the embedding, forward, and by the head, whose forward is part of the
backward.
"""

import json
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

# ZeRO, flags, micro-batches.
cases = [
    (0, "dp=2", 1), (0, "dp=2", 2), (0, "dp=3", 2), (1, "dp=2", 2),
    (1, "dp=3", 1), (2, "dp=2", 3), (3, "dp=2", 2), (3, "dp=4", 1),
    (0, "fsdp=2", 2), (0, "tp=2", 2), (0, "tp=3", 1), (0, "pp=2", 3),
    (1, "pp=2,dp=2", 2), (3, "pp=2,dp=2", 2), (2, "pp=2,dp=2,tp=2", 2),
]
width, sequence, layers = 192, 32, 4


def run(*command):
    ran = subprocess.run([str(c) for c in command], capture_output=True,
                         text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {ran.stderr}")
    return ran


def write_tokens(path):
    count = 4096
    tokens = [(i * 7919 + i // 13) % 256 for i in range(count)]
    path.write_bytes(struct.pack("<256i", 20240520, 1, count, *[0] * 253) +
                     struct.pack(f"<{count}H", *tokens))


def counted(plan, data, ranks):
    """Per rank, what its communicator says of the last step."""
    text = run("lmrun", "train", plan, "--data", data, "--steps", 2, "--nproc",
               ranks, "--comm=local", "--profile", "--no-pin").stderr
    rows = [{} for _ in range(ranks)]
    lines = text[text.index("rank a step's"):].splitlines()[1:]
    for line in lines:
        rank, kind, *numbers = line.split()
        rows[int(rank)][kind] = dict(zip(("calls", "bytes", "received_bytes"),
                                         map(int, numbers)))
    return rows


def unread(stages):
    """What one of forward and backward alone reads: stage and elements."""
    table = 256 * width
    tokens = [(0, table), (stages - 1, table)] if stages > 1 else []
    return [(0, table), (stages - 1, width)] + tokens


def stretch(size, unit):
    return (size + unit - 1) // unit * unit


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got} instead of {wanted}")


def elements(stage, axes, layer=""):
    """Received over some axes; numbers, such as the loss, left out."""
    return Fraction(sum(e["received_bytes"] * e["calls"]
                        for e in stage["exchanges"]
                        if e["axes"] == axes and e["bytes"] > 512 and
                        e["layer"].startswith(layer)), 4)


def check(model, scratch, zero, mesh, micro_batches):
    sizes = {a: int(n) for a, n in (x.split("=") for x in mesh.split(","))}
    d = sizes.get("dp", 1) * sizes.get("fsdp", 1)
    t, pp = sizes.get("tp", 1), sizes.get("pp", 1)
    plan, data = scratch / "traffic.plan", scratch / "traffic.bin"
    write_tokens(data)
    run("lmc", "compile", model, "-o", plan, f"--mesh={mesh}", f"--zero={zero}",
        f"--global-batch={d * micro_batches}", "--micro-batch=1",
        f"--seq={sequence}", "--target-cpu=x86-64-v3")
    plan_text = json.loads(run("lmc", "inspect", "--json", plan).stdout)
    stages = plan_text["step"]["stages"]
    name = f"{mesh} zero {zero} m={micro_batches}"
    for rank, row in enumerate(counted(plan, data, d * t * pp)):
        stage = stages[rank // (d * t)]
        expect(f"{name}: rank {rank}", row, stage["traffic"])
    total = 0
    axis = "fsdp" if "fsdp" in sizes else "dp"
    shards = d if zero == 3 or axis == "fsdp" else 1
    for i, stage in enumerate(stages):
        padded = stage["bytes_by_allocation"]["parameters"] // 4 * shards
        total += padded
        factor = (3 * micro_batches if shards > 1 else
                  {0: 2, 1: 2, 2: micro_batches + 1}[zero])
        wanted = factor * padded
        if shards > 1:
            wanted -= micro_batches * sum(
                stretch(size, 64 * d) for at, size in unread(pp)
                if at == i)
        expect(f"{name}: stage {i} over {axis}", elements(stage, axis),
               Fraction(d - 1, d) * wanted)
    # Vectors and tables without a tensor-parallel dim are on every rank.
    parameters = plan_text["parameters"]["elements"]
    if t == 1 and pp == 1 and not parameters <= total <= 1.01 * parameters:
        sys.exit(f"{name}: {total} elements with padding, {parameters} without")
    expect(f"{name}: layers over tp",
           sum(elements(s, "tp", "h.") for s in stages),
           8 * layers * micro_batches * sequence * width * Fraction(t - 1, t))
    print(f"{name}: agrees")


def main():
    model, scratch = sys.argv[1], Path(sys.argv[2])
    scratch.mkdir(parents=True, exist_ok=True)
    for case in cases:
        check(model, scratch, *case)
    print(f"{len(cases)} meshes agree")


if __name__ == "__main__":
    main()
