"""Whether two trainings had the same losses and norms, to a relative tolerance:

    same_losses.py METRICS METRICS TOLERANCE
"""

import json
import sys

steps = []
for path in sys.argv[1:3]:
    lines = [json.loads(line) for line in open(path)]
    steps.append([line for line in lines if "loss" in line])
tolerance = float(sys.argv[3])
if not steps[0] or len(steps[0]) != len(steps[1]):
    sys.exit(f"same_losses: {len(steps[0])} and {len(steps[1])} steps")
for a, b in zip(*steps):
    for key in ("loss", "grad_norm"):
        if not abs(a[key] - b[key]) <= tolerance * abs(a[key]):
            sys.exit(f"same_losses: {key} {a[key]} and {b[key]}")
