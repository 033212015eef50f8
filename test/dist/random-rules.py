"""Strategies drawn at random, over small models and meshes of up to 8 ranks.

Each is compiled, or refused with exit status 2, a help, and where a rule is to
blame its place; the first accepted ones of up to 4 ranks train as one rank
does. A seed is a strategy; one that fails is printed:

    random-rules.py FOLDER FIRST COUNT CHECKS
"""

import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

MODELS = ("gpt", "llama")
AXES = ("pp", "dp", "fsdp", "tp")
MESHES = [dict(zip(AXES, sizes))
          for sizes in itertools.product((1, 2), (1, 2, 4), (1, 2), (1, 2, 4))
          if 1 < sizes[1] * sizes[2] * sizes[3] and
          sizes[0] * sizes[1] * sizes[2] * sizes[3] <= 8]
PARAMETERS = ("*", "h.*", "wte.weight", "wpe.weight", "head.weight",
              "*.norm*.weight", "*.attn*.qkv.*", "*.attn*.out.weight",
              "*.mlp*.up.*", "*.mlp*.down.*")
ACTIVATIONS = ("*", "h.0.*", "h.*.attn*", "h.1.mlp*", "wte", "head")
OPERATIONS = ("lm.*", "lm.linear", "lm.attention", "lm.*_norm", "lm.*lu",
              "lm.embedding", "lm.rope", "lm.dropout", "arith.addf")
DIMS = "BTDVPGRSKF01234"
SAMPLES = 'rule { input: "*" split { dim: "B" axis: "dp" axis: "fsdp" } }'
# What a user need not know.
INTERNAL = re.compile(r"' op |\bdist\.\w+ op|no path|logsumexp|occurs twice")


def draw(seed):
    """Model, mesh, flags and the rules of a strategy."""
    r = random.Random(seed)
    mesh = r.choice(MESHES)
    rules = [SAMPLES]
    for _ in range(r.choice((1, 1, 2, 3))):
        axes = [a for a in AXES[1:] if mesh[a] > 1]
        if "tp" in axes and r.random() < 0.6:
            axes = ["tp"]
        r.shuffle(axes)
        splits = "".join(f' split {{ dim: "{dim}" axis: "{axis}" }}' for dim, axis
                         in zip(r.sample(DIMS, r.choice((1, 1, 2))), axes))
        if r.random() < 0.5:
            tensors = f'parameter: "{r.choice(PARAMETERS)}"'
        else:
            tensors = f'activation: "{r.choice(ACTIVATIONS)}"'
            if r.random() < 0.6:
                tensors += f' operation: "{r.choice(OPERATIONS)}"'
        rules.append(f"rule {{ {tensors}{splits} "
                     f"priority: {r.choice((0, 0, 1))} if_present: true }}")
    flags = ["--mesh=" + ",".join(f"{a}={n}" for a, n in mesh.items() if n > 1)]
    shared = r.random()
    if mesh["dp"] > 1 and shared < 0.3:
        flags.append(f"--zero={r.choice((1, 2, 3))}")
    elif shared > 0.6:
        rules += [draw_bucket(r) for _ in range(r.choice((1, 2)))]
    return r.choice(MODELS), mesh, flags, rules


def draw_bucket(r):
    axes = r.choice((["dp"], ["fsdp"], ["fsdp", "dp"], ["dp", "fsdp"]))
    lists = [axes[:r.randint(0, len(axes))] for _ in range(2)] + [axes]
    splits = "".join(f' split_{state}: "{axis}"' for state, list in
                     zip(("parameters", "gradients", "moments"), lists)
                     for axis in list)
    return f'bucket {{ parameter: "{r.choice(PARAMETERS)}"{splits} if_present: true }}'


def lmc(*arguments):
    ran = subprocess.run(["lmc", *map(str, arguments)], capture_output=True,
                         text=True, timeout=120)
    return ran.returncode, ran.stdout + ran.stderr


def main():
    folder = Path(sys.argv[1])
    first, count, checks = map(int, sys.argv[2:])
    accepted = refused = 0
    for seed in range(first, first + count):
        model, mesh, flags, rules = draw(seed)
        file = folder / f"{seed}.rules"
        file.write_text("\n".join(rules) + "\n")
        arguments = [folder / f"{model}.textproto", f"--sharding={file}", *flags,
                     "--micro-batch=2", "--seq=16"]
        code, text = lmc("compile", *arguments, "--compile-to=partition")
        wrong = code not in (0, 2)
        if code == 2:
            refused += 1
            wrong = (INTERNAL.search(text) or "  help: " not in text or
                     f"note: the rule at {file}:" not in text)
        else:
            accepted += 1
            ranks = mesh["pp"] * mesh["dp"] * mesh["fsdp"] * mesh["tp"]
            if not wrong and checks > 0 and ranks <= 4:
                checks -= 1
                code, text = lmc("check", *arguments)
                wrong = code != 0
        if wrong:
            print(f"seed {seed}: lmc {' '.join(map(str, arguments))}", *rules,
                  text[-3000:], sep="\n")
            sys.exit(1)
    print(f"{accepted} accepted, {refused} refused, {checks} checks left")


main()
