"""Faults before the first step: what a machine or a rank lacks ends all ranks
soon, with the reason."""

import subprocess
import time

import Trainings
from Trainings import Failed, Training

MESH, RANKS = "dp=2,tp=2", 4
# Seconds in which a job that cannot start has ended.
SOON = 5.0


def limited(name, limits, *flags, expect):
    """A run under the shell's `ulimit`; what it said."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    begin = time.monotonic()
    ran = subprocess.run(
        ["bash", "-c", f'ulimit {limits}; exec "$@"', "bash",
         *(str(c) for c in (Trainings.build / "bin/lmrun", "train", plan,
                            "--data", folder / "data.bin", "--steps", 3,
                            "--nproc", RANKS, "--threads", 1, *flags))],
        capture_output=True, text=True, timeout=120)
    took = time.monotonic() - begin
    if ran.returncode not in expect:
        raise Failed(f"{name}: ended with {ran.returncode}: "
                     f"{ran.stderr[-600:]}")
    if ran.returncode and took > SOON:
        raise Failed(f"{name}: took {took:.1f} s")
    return ran.returncode, ran.stderr


def no_memory():
    """Ever less memory for each process: threads, mappings and objects that
    cannot be made are told in words, with exit status 3."""
    lacking = set()
    for kib in range(18000, 70000, 2000):
        code, text = limited(f"{kib} KiB", f"-v {kib}", expect=(0, 3))
        if code:
            first = text.splitlines()[0]
            if not first.startswith("error: ") or "terminate" in text:
                raise Failed(f"{kib} KiB: {text[-400:]}")
            lacking.add(first.partition("cannot ")[2].partition(" (")[0])
    if "start a thread" not in lacking:
        raise Failed(f"no thread was lacking: {lacking}")


def cases():
    yield "starts/no-memory", no_memory
