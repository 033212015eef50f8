"""The bytes that tensor and sequence parallelism move, counted in plans.

A layer of the model costs what a plan of three layers moves more than one of
two. b samples of s tokens of width h, t ranks, 4 bytes an element: each rank
receives 8 b s h (t-1)/t elements per layer and micro-batch, forward and
backward, by all-reduces (Shoeybi et al., "Megatron-LM") or, with sequence
parallelism and gathered inputs kept, by gathers and scatters (Korthikanti et
al., "Reducing Activation Recomputation in Large Transformer Models").

    collective_bytes.py MODEL FOLDER
"""

import re
import subprocess
import sys
from pathlib import Path

b, s = 2, 32


def collectives(model, folder, layers, t, flags):
    """Of forward and backward over tp: {kind: (count, bytes)}."""
    text = re.sub(r"count: \d+", f"count: {layers}", Path(model).read_text())
    text = re.sub(r"heads: 6", "heads: 8", text)
    text = re.sub(r"kv_heads: 2", "kv_heads: 4", text)
    spec, plan = folder / "model.textproto", folder / "model.plan"
    spec.write_text(text)
    subprocess.run(["lmc", "compile", spec, "-o", plan, f"--mesh=tp={t}",
                    f"--micro-batch={b}", f"--seq={s}", *flags], check=True)
    printed = subprocess.run(["plan-bytes", plan], check=True, text=True,
                             capture_output=True).stdout
    sums = {}
    for line in printed.splitlines():
        program, kind, axes, _, count, _, size = line.split()
        if program in ("forward", "backward") and axes == "tp":
            old = sums.get(kind, (0, 0))
            sums[kind] = (old[0] + int(count), old[1] + int(size))
    width = int(re.search(r"width: (\d+)", text).group(1))
    return sums, width


def main():
    model, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    for t in (2, 4):
        for flags, kinds in (([], {"ALL_REDUCE": 4}),
                             (["--sequence-parallel"],
                              {"ALL_GATHER": 4, "REDUCE_SCATTER": 4})):
            two, h = collectives(model, folder, 2, t, flags)
            three, _ = collectives(model, folder, 3, t, flags)
            added = {kind: tuple(x - y for x, y in zip(three[kind], two[kind]))
                     for kind in three}
            counts = {k: c for k, (c, _) in added.items() if c}
            moved = sum(size for _, size in added.values())
            wanted = 8 * b * s * h * (t - 1) // t * 4
            print(f"tp={t} {' '.join(flags)}: {counts}, {moved} bytes")
            if counts != kinds or moved != wanted:
                sys.exit(f"expected {kinds}, {wanted} bytes")


if __name__ == "__main__":
    main()
