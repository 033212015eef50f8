"""Holds what the double of the CUDA driver recorded against what a run promises:

    cuda_calls.py LOG [profiled]

Every function is loaded before the first launch; no allocation after it; and
between the launches of a step neither a wait nor a copy from or to the host,
unless the run is profiled, which waits behind each.
"""

import sys

calls = [line.split() for line in open(sys.argv[1])]
profiled = "profiled" in sys.argv[2:]
launches = [i for i, call in enumerate(calls) if call[0] == "launch"]
if len(launches) < 50:
    sys.exit(f"{len(launches)} launches; a step of a transformer has more")
first, last = launches[0], launches[-1]
functions = [call[1] for call in calls if call[0] == "function"]
loaded = {call[1] for call in calls[:first] if call[0] == "function_load"}
if not functions or set(functions) != loaded:
    sys.exit("not every function is loaded before the first launch")
allowed = {"launch", "memset"} | ({"sync"} if profiled else set())
for number, call in enumerate(calls[first:last], first + 1):
    device_to_device = call[0] == "copy" and all(
        int(address, 16) >> 62 for address in call[1:3])
    if call[0] not in allowed and not device_to_device:
        sys.exit(f"call {number} between launches: {' '.join(call)}")
if calls[last + 1][0] != "sync":
    sys.exit("the step ends without waiting for the GPU")
print(f"{len(launches)} launches of {len(loaded)} functions")
