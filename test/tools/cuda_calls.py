"""Holds what the double of the CUDA driver recorded against what a run promises:

    cuda_calls.py LOG

Every function is loaded and every product prepared before the first launch, and
nothing is allocated after it. A step ends with the one wait in it; until then
nothing is copied from or to the host once the first launch was made. A graph is
made once, and what it does is what a step before it did, call for call. Prints
how many steps there were, and how many of them were recorded and replayed.
"""

import sys


def die(text):
    sys.exit(f"cuda_calls: {text}")


work = {"launch", "matmul", "memset", "copy", "event"}  # what a step is made of
calls = [line.split() for line in open(sys.argv[1])]
first = next((i for i, call in enumerate(calls) if call[0] == "launch"), None)
if first is None:
    die("no launch")
functions = {call[1] for call in calls if call[0] == "function"}
loaded = {call[1] for call in calls[:first] if call[0] == "function_load"}
if not functions or functions != loaded:
    die("not every function is loaded before the first launch")

# A step: from a launch, or the graph that has it, to the next wait.
steps, recorded, replayed, seen = 0, 0, 0, []
step, graph, made = [], None, False
for number, call in enumerate(calls):
    place = f"call {number}, {' '.join(call[:3])},"
    name = call[0]
    if number > first and name.startswith(("alloc", "load", "function", "lt_")):
        die(f"{place} after the first launch")
    if name == "instantiate":
        recorded, made = recorded + 1, True
    if name == "graph":
        if any(c[0] == "launch" for c in step):
            die(f"{place} in a step")
        step, graph = [], int(call[1])
        replayed, made = replayed + (not made), False
    elif name == "sync":
        launches = [c for c in step if c[0] == "launch"]
        if not launches:
            step = []
            continue
        computing = [c for c in step if c[0] in ("launch", "matmul")]
        if len(computing) < 30:
            die(f"{place} after {len(computing)} launches and products; a step "
                "of a transformer has more")
        body = step if graph is not None else step[step.index(launches[0]):]
        if graph is not None:
            if len(body) != graph:
                die(f"{place} after {len(body)} calls of a graph of {graph}")
            # What precedes the first launch of a walked step is the graph's,
            # too; writes of the host are not.
            if not any(other[-graph:] == body for other in seen):
                die(f"{place} ends a graph that no step before it equals")
        else:
            seen.append(step)
        for c in body:
            if c[0] == "copy" and not all(
                    int(address, 16) >> 62 for address in c[1:3]):
                die(f"{place} ends a step with a copy of the host's: {c}")
        steps, step, graph = steps + 1, [], None
    elif name in work:
        step.append(call)
    elif any(c[0] == "launch" for c in step):
        die(f"{place} in a step")
if any(c[0] == "launch" for c in step):
    die("the last step ends without waiting for the GPU")
print(f"{steps} steps, {recorded} recorded, {replayed} replayed")
