"""Faults before the first step: what a machine or a rank lacks ends all ranks
soon, with the reason."""

import os
import random
import re
import shutil
import signal
import subprocess
import time

import Hosts
import Trainings
from Processes import (MESH, RANKS, SLACK, Launched, environments, free_port,
                       ranks_of, wait_for_end)
from Trainings import Failed, Training

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


def at_start(how, transport, trials):
    """A rank killed or stopped at any moment before the first step, whether it
    had met the others or not: it is named, and nobody waits. Whom only the
    starter can see stopped is given a second longer."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    chance = random.Random(f"{Trainings.seed} start {how} {transport}")
    hit, most, words = {
        "kill": (signal.SIGKILL, 1, "is gone|was ended by signal 9"),
        "stop": (signal.SIGSTOP, 1 + 3.5,
                 r"is (gone|stopped or out of reach)|was stopped \(SIGSTOP\)")
    }[how]
    slowest = 0
    for trial in range(trials):
        training = Training(folder, f"{how}-at-start-{transport}-{trial}",
                            plan, 1000000, "--nproc", RANKS, "--comm",
                            transport, "--timeout", 1 if how == "stop" else 30)
        process = training.begin()
        pids = ranks_of(process)
        victim = trial % RANKS
        time.sleep(chance.random() * 0.02)
        os.kill(pids[victim], hit)
        start = time.monotonic()
        code = wait_for_end(process, pids, 20)
        took = time.monotonic() - start
        slowest = max(slowest, took)
        text = training.log.read_text()
        line = re.search(r"^error: (.*)", text, re.M)
        if code != 5 or took > most + SLACK or not line or not re.match(
                rf"rank {victim} ({words})", line[1]):
            raise Failed(f"trial {trial}, rank {victim}: {code} after "
                         f"{took:.2f} s: {text[-600:]}")
    print(f"{trials} times, the slowest {slowest:.2f} s")


def no_loopback():
    """Ranks that cannot meet are not waited for."""
    Hosts.needs("unshare")
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    ran = subprocess.run(
        ["unshare", "-n", Trainings.build / "bin/lmrun", "train", plan,
         "--data", folder / "data.bin", "--steps", "3", "--nproc", str(RANKS)],
        capture_output=True, text=True, timeout=SOON)
    if "unshare" in ran.stderr:
        raise Hosts.Skipped(ran.stderr.strip())
    if ran.returncode != 1 or not re.match(
            r"error: the ranks would meet on the loopback interface: cannot "
            r"reach .*: Network is unreachable\n", ran.stderr):
        raise Failed(f"ended with {ran.returncode}: {ran.stderr[-400:]}")


def no_files():
    """Too few open files: refused before any rank starts, and said how many
    are needed; with as many it runs, however low the soft limit is."""
    for transport in ("host", "tcp"):
        for count in (12, 15):
            _, text = limited(f"{count} files", f"-n {count}", "--comm",
                              transport, expect=(3,))
            said = re.search(r"^error: (\d+) open files and connections are "
                             rf"needed, {count} are allowed\n  help: ulimit "
                             r"-n \1$", text, re.M)
            if not said:
                raise Failed(f"{count} files, {transport}: {text[-400:]}")
        limited("as many", f"-n {said[1]}", "--comm", transport, "--checkpoint",
                Trainings.scratch / f"files-{transport}", "--metrics",
                Trainings.scratch / "files.jsonl", expect=(0,))
        limited("soft", "-S -n 12", "--comm", transport, expect=(0,))


def ignored_signals():
    """What the starter was told to ignore it ignores, and its ranks: a hang-up,
    as of nohup, and an interrupt. Only the end of its children it has to hear
    of."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)

    def ignore():
        for ignored in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
            signal.signal(ignored, signal.SIG_IGN)

    metrics = Trainings.scratch / "ignored.jsonl"
    process = subprocess.Popen(
        [Trainings.build / "bin/lmrun", "train", plan, "--data",
         folder / "data.bin", "--steps", "400", "--nproc", str(RANKS),
         "--threads", "1", "--metrics", metrics], preexec_fn=ignore,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sent = 0
    while process.poll() is None and sent < 20:
        time.sleep(0.05)
        process.send_signal(signal.SIGHUP if sent % 2 else signal.SIGINT)
        sent += 1
    try:
        text, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failed("it does not end")
    if process.returncode != 0 or len(metrics.read_text().splitlines()) != 400:
        raise Failed(f"ended with {process.returncode}: {text[-400:]}")


def wrong_call():
    """One rank of a launcher's job that fails before it meets the others: all
    end with what it says."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    right = ["--data", folder / "data.bin", "--steps", 3, "--threads", 1]
    wrong = {"plan": (folder / "nope.plan", right, "cannot read"),
             "flag": (plan, [*right, "--shufle"], "unknown flag --shufle"),
             "number": (plan, [*right, "--pace", "nan"], "a finite number"),
             "keep": (plan, [*right, "--keep", 3], "need --checkpoint DIR")}
    for launcher, victim in (("torchrun", 2), ("slurm", 0)):
        for name, (its_plan, its_flags, words) in wrong.items():
            plans, flags = [plan] * RANKS, [right] * RANKS
            plans[victim], flags[victim] = its_plan, its_flags
            begin = time.monotonic()
            codes, logs = Launched(
                f"wrong-{name}-{victim}",
                environments(launcher, RANKS, free_port()), flags,
                plans).finish()
            took = time.monotonic() - begin
            for log in logs:
                if codes != [2] * RANKS or took > SOON or not re.search(
                        rf"^error: rank {victim}: .*{words}", log, re.M):
                    raise Failed(f"{name} of rank {victim}: {codes} after "
                                 f"{took:.1f} s: {log}")


def other_weights():
    """A rank that reads other weights than the rest, or resumes from another
    checkpoint or one with a bit turned, as on a host's own disk: all end, and
    it is named."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    right = ["--data", folder / "data.bin", "--threads", 1, "--timeout", 3]
    place = Trainings.scratch / "other-weights"
    saved = []
    for seed in (1, 2):
        saved.append(place / f"seed-{seed}")
        Trainings.run(Trainings.build / "bin/lmrun", "train", plan,
                      "--data", folder / "data.bin", "--steps", 2, "--nproc",
                      RANKS, "--seed", seed, "--checkpoint", saved[-1])
    victim = 3
    shutil.copytree(saved[1], place / "moved")
    for name in ("model", "optimizer"):
        turned = place / f"turned-{name}"
        shutil.copytree(saved[0], turned)
        file = turned / "step_2" / f"{name}.safetensors"
        content = bytearray(file.read_bytes())
        content[len(content) * 2 // 3 + 5] ^= 1
        file.write_bytes(content)
        saved.append(turned)
    # Without a manifest its weights are what they are.
    (place / "turned-model" / "step_2" / "manifest.json").rename(
        place / "manifest.json")
    read = [["--weights", s, "--steps", 2] for s in saved]
    resumed = [["--checkpoint", s, "--resume", "--steps", 3] for s in saved]
    for name, its, other in (
            ("weights", read[0], read[1]), ("resumed", resumed[0], resumed[1]),
            ("a-bit-of-weights", read[0], read[2]),
            ("a-bit-of-moments", resumed[0], resumed[3])):
        flags = [[*right, *its]] * RANKS
        flags[victim] = [*right, *other]
        codes, logs = Launched(
            f"other-{name}", environments("torchrun", RANKS, free_port()),
            flags, [plan] * RANKS).finish()
        said = rf"rank {victim} reads other weights than rank 0, from "
        if codes[victim] != 2 or 0 in codes or \
                not all(re.search(said, log) for log in logs):
            raise Failed(f"{name}: {codes}: {logs[0]} {logs[victim]}")
    # The same weights at another place are the same.
    flags = [[*right, *read[1]]] * RANKS
    flags[victim] = [*right, "--weights", place / "moved", "--steps", 2]
    codes, logs = Launched(
        "other-place", environments("torchrun", RANKS, free_port()), flags,
        [plan] * RANKS).finish()
    if codes != [0] * RANKS:
        raise Failed(f"the same at another place: {codes}: {logs[victim]}")


def cases():
    yield "starts/wrong-call", wrong_call
    yield "starts/other-weights", other_weights
    yield "starts/no-files", no_files
    yield "starts/ignored-signals", ignored_signals
    trials = 80 if Trainings.full else 16
    for transport in ("host", "tcp"):
        yield f"starts/kill/{transport}", at_start, "kill", transport, trials
        yield (f"starts/stop/{transport}", at_start, "stop", transport,
               trials // 4)
    yield "starts/no-loopback", no_loopback
    yield "starts/no-memory", no_memory
