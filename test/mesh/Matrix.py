"""The matrix: every factorisation of 1, 2, 4 and 8 ranks over pp, dp, fsdp and
tp, with every ZeRO level, sequence parallelism and pipeline schedule that can
be said of it, and two sizes of micro-batch; and a covering array of it.

A case is a dict of its factors. Where a mesh lacks the axis that a factor is
about, the factor has its first value: there is one case of one rank, not forty.
"""

import itertools

SIZES = (1, 2, 4, 8)
AXES = ("pp", "dp", "fsdp", "tp")
ZERO = (0, 1, 2, 3)
SEQUENCE = (False, True)
SCHEDULES = ("1f1b", "gpipe", "interleaved", "zb")
MICRO_BATCHES = (1, 2)
GLOBAL_BATCH = 8
BLOCKS = 8  # of the models: as many as the longest pipeline has stages


def product():
    """All cases, in a fixed order."""
    for sizes in itertools.product(SIZES, repeat=len(AXES)):
        mesh = dict(zip(AXES, sizes))
        data = mesh["dp"] * mesh["fsdp"]
        if mesh["pp"] * data * mesh["tp"] > max(SIZES):
            continue
        for zero, sequence, schedule, micro in itertools.product(
                ZERO if mesh["dp"] > 1 else ZERO[:1],
                SEQUENCE if mesh["tp"] > 1 else SEQUENCE[:1],
                SCHEDULES if mesh["pp"] > 1 else SCHEDULES[:1],
                MICRO_BATCHES):
            if GLOBAL_BATCH % (data * micro) == 0:
                yield {**mesh, "zero": zero, "sequence": sequence,
                       "schedule": schedule, "micro": micro}


def refusal(case):
    """What the compiler must say of the case, or None if it must take it."""
    if case["schedule"] == "interleaved":
        if GLOBAL_BATCH // (case["dp"] * case["fsdp"] * case["micro"]) % \
                case["pp"]:
            return "takes micro-batches by"
        if 2 * case["pp"] > BLOCKS:
            return "chunks"
    return None


def covering_array(models, most):
    """At most `most` (model, case) pairs: every two values of any two factors
    that occur together in the product occur together here, and as many triples
    of values as fit. A case that the compiler refuses counts for what occurs
    in refused cases alone."""
    cases = [(model, case) for model in models for case in product()]
    chosen = []
    for strength in (2, 3):
        tuples = [set(itertools.combinations(
            [("model", model), *case.items()], strength))
            for model, case in cases]
        refused = [bool(refusal(case)) for _, case in cases]
        accepted = set().union(*(t for t, no in zip(tuples, refused) if not no))
        tuples = [t - accepted if no else t for t, no in zip(tuples, refused)]
        left = set().union(*tuples)
        for i in chosen:
            left -= tuples[i]
        while left and len(chosen) < most:
            best = max(range(len(cases)),
                       key=lambda i: (len(tuples[i] & left), -i))
            chosen.append(best)
            left -= tuples[best]
        if strength == 2 and left:
            raise ValueError(f"{most} cases leave {len(left)} pairs uncovered")
    return [cases[i] for i in chosen]


def mesh_of(case):
    return ",".join(f"{a}={case[a]}" for a in AXES if case[a] > 1)


def flags_of(case):
    flags = []
    if case["zero"]:
        flags.append(f"--zero={case['zero']}")
    if case["sequence"]:
        flags.append("--sequence-parallel")
    if case["pp"] > 1:
        flags.append(f"--pipeline-schedule={case['schedule']}")
    if case["schedule"] == "interleaved":
        flags.append("--virtual-stages=2")
    return flags
