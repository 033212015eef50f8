"""Faults of jobs whose ranks are processes: ranks that die, stop or hang,
strangers at the ports, ranks that do not agree, and what launchers say."""

import ctypes
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import Trainings
from Trainings import Failed, Training, same_end

MESH, RANKS = "dp=2,tp=2", 4
TIMEOUT = 1.0
# What a loaded machine may add to the second that survivors have.
SLACK = 1.0

ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p,
                   ctypes.c_void_p]
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
frozen = []


def ranks_of(process):
    """The processes of the ranks, in order, once all have started."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        names = {}
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            for pid in children.read_text().split():
                names[Path(f"/proc/{pid}/comm").read_text().strip()] = int(pid)
        except OSError:
            pass
        if all(f"lmrun-rank-{r}" in names for r in range(RANKS)):
            return [names[f"lmrun-rank-{r}"] for r in range(RANKS)]
        if process.poll() is not None:
            break
        time.sleep(0.002)
    raise Failed(f"{RANKS} ranks were not there")


def freeze(pid):
    """Stops the threads that execute, not those that talk: a hang."""
    talking = ("lmc-heartbeat", "lmc-control", "lmc-tcp")
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() in talking:
            continue
        if ptrace(PTRACE_SEIZE, int(task.name), None, None) or \
                ptrace(PTRACE_INTERRUPT, int(task.name), None, None):
            raise OSError(ctypes.get_errno(), "ptrace")
        frozen.append(int(task.name))


def reap():
    """Whoever traces a thread must take note of its end before others can."""
    for task in list(frozen):
        try:
            found, status = os.waitpid(task, os.WNOHANG | 0x40000000)
            if found == 0 or os.WIFSTOPPED(status):
                continue
        except ChildProcessError:
            pass
        frozen.remove(task)


def wait_for_end(process, pids, seconds):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        reap()
        time.sleep(0.005)
    if process.poll() is None:
        for pid in [process.pid, *pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        raise Failed(f"the job did not end in {seconds:.0f} s")
    return process.returncode


def hit(pid, how):
    if how == "hang":
        freeze(pid)
    else:
        os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)


def named(text):
    """The ranks that the error's first line blames."""
    first = re.search(r"^error: (.*)", text, re.M)
    if not first:
        raise Failed(f"no error: {text[-400:]}")
    blamed = re.search(
        r"ranks? ([-\d, and]+?) (?:is|are) (?:gone|stopped|hanging|behind)",
        first[1])
    if not blamed:
        raise Failed(f"names nobody: {first[1]}")
    return expand(blamed[1]), first[1]


def expand(words):
    ranks = set()
    for word in re.findall(r"\d+(?:-\d+)?", words):
        begin, _, end = word.partition("-")
        ranks.update(range(int(begin), int(end or begin) + 1))
    return ranks


def rank_fails(how, transport, trials):
    """Random ranks at random moments: always ended in time, always the right
    ones named, by all others."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    chance = random.Random(f"{Trainings.seed} {how} {transport}")
    slowest = 0
    for trial in range(trials):
        training = Training(folder, f"{how}-{transport}-{trial}", plan, 1000000,
                            "--nproc", RANKS, "--comm", transport,
                            "--timeout", TIMEOUT)
        process = training.begin()
        pids = ranks_of(process)
        wait_for_steps(training, 3)
        # Of ranks that have just begun no heartbeat has told yet.
        is_known = trial % 2 == 0
        time.sleep(chance.random() * 0.3 + 0.5 * is_known)
        # Rank 0 is the one that knows of the others: it is among them always.
        victims = [0] if trial == 0 else sorted(chance.sample(
            range(RANKS), chance.choice((1, 1, 1, 2)) if how == "kill" else 1))
        start = time.monotonic()
        for rank in list(victims):
            try:
                hit(pids[rank], how)
            except ProcessLookupError:
                # The first one's death had already ended it.
                if rank == victims[0]:
                    raise
                victims.remove(rank)
        allowed = (1 if how == "kill" else TIMEOUT + 1) + SLACK
        code = wait_for_end(process, pids, allowed + 20)
        took = time.monotonic() - start
        text = training.log.read_text()
        # A stopped process is killed by the starter after a while more.
        if how == "stop":
            took -= 1.5
        slowest = max(slowest, took)
        blamed, line = named(text)
        told = re.search(r"said by ranks? (.*)", text)
        tellers = expand(told[1]) if told else set()
        others = set(range(RANKS)) - set(victims)
        problems = []
        if code != 5:
            problems.append(f"exit status {code}")
        if took > allowed:
            problems.append(f"took {took:.2f} s, {allowed:.1f} s are allowed")
        # With rank 0 the one who would know of others is gone.
        if blamed != set(victims) and not (0 in victims and blamed == {0}):
            problems.append(f"blamed {sorted(blamed)}")
        # Where all ranks were, whoever is left to say it.
        silent = [rank for rank in range(RANKS) if not re.search(
            rf"note: rank {rank}( \(as it said last\))?: \d+ instructions done, "
            rf".*\(.*\n.*note: rank {rank}( \(.*?\))?: before it, ", text)]
        if is_known and silent and not (0 in victims and
                                        set(silent) < set(victims)):
            problems.append(f"no positions of {silent}")
        # A hung rank hears the verdict and says it too.
        if not others <= tellers <= set(range(RANKS)):
            problems.append(f"said by {sorted(tellers)}")
        if problems:
            raise Failed(f"trial {trial}, rank {victims} {how}: "
                         f"{'; '.join(problems)}: {line}")
    print(f"{trials} times, the slowest {slowest:.2f} s")


def wait_for_steps(training, steps):
    end = time.monotonic() + 20
    while len(training.losses()) < steps:
        if training.process.poll() is not None or time.monotonic() > end:
            training.process.kill()
            raise Failed(f"no {steps} steps: "
                         + training.log.read_text()[-400:])
        time.sleep(0.002)


def resumes(transport, kills):
    """Killed rank by rank and resumed, it ends with the bits of threads that
    nobody disturbed."""
    folder = Trainings.model("llama-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    steps = 120
    whole = Training(folder, f"whole-{transport}", plan, steps, "--nproc",
                     RANKS, "--comm", "local").through()
    training = Training(folder, f"resumes-{transport}", plan, steps,
                        "--nproc", RANKS, "--comm", transport, "--timeout", 2,
                        "--save-every", 3, "--keep", 3)
    chance = random.Random(f"{Trainings.seed} {transport}")
    for _ in range(kills):
        process = training.begin()
        pids = ranks_of(process)
        time.sleep(chance.random() * 0.15)
        try:
            os.kill(chance.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            pass
        code = process.wait(timeout=30)
        if code not in (0, 5):
            raise Failed(f"ended with {code}: "
                         + training.log.read_text()[-400:])
    training.through()
    same_end(training, whole)


def stopped():
    """SIGTERM to the starter: all ranks stop after the same step."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    training = Training(folder, "processes-stopped", plan, 100000,
                        "--nproc", RANKS)
    training.begin()
    wait_for_steps(training, 3)
    # As `timeout` does it: to the process and to its group.
    for pid in (training.process.pid, *ranks_of(training.process)):
        os.kill(pid, signal.SIGTERM)
    training.finish(expect=75)
    if training.saved() != [max(training.losses())]:
        raise Failed(f"checkpoints of {training.saved()} after step "
                     f"{max(training.losses())}")


def starter_killed():
    """No rank outlives the process that the user started."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    training = Training(folder, "starter-killed", plan, 100000, "--nproc",
                        RANKS)
    training.begin()
    wait_for_steps(training, 3)
    pids = ranks_of(training.process)
    training.process.kill()
    training.process.wait()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        left = []
        for pid in pids:
            try:
                state = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            if state.rpartition(")")[2].split()[0] != "Z":
                left.append(pid)
        if not left:
            return
        time.sleep(0.01)
    raise Failed(f"{len(left)} ranks are still there after 5 s")


class Launched:
    """Ranks that a launcher would start, each told who it is."""

    def __init__(self, name, environments, flags, plans):
        self.folder = Trainings.scratch / f"launched-{name}"
        self.folder.mkdir()
        self.processes = []
        clean = {k: v for k, v in os.environ.items()
                 if not k.startswith(("SLURM_", "OMPI_", "MASTER_"))}
        for rank, told in enumerate(environments):
            log = open(self.folder / f"log-{rank}", "w")
            self.processes.append(subprocess.Popen(
                [str(c) for c in (
                    Trainings.build / "bin/lmrun", "train", plans[rank],
                    *flags[rank])],
                env={**clean, **told}, stdout=log, stderr=log))

    def finish(self):
        for process in self.processes:
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                for one in self.processes:
                    one.kill()
                raise Failed("still running after 60 s") from None
        return ([p.returncode for p in self.processes],
                [(self.folder / f"log-{r}").read_text()
                 for r in range(len(self.processes))])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environments(launcher, ranks, port):
    for rank in range(ranks):
        if launcher == "torchrun":
            yield {"RANK": str(rank), "WORLD_SIZE": str(ranks),
                   "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}
        elif launcher == "mpirun":
            yield {"OMPI_COMM_WORLD_RANK": str(rank),
                   "OMPI_COMM_WORLD_SIZE": str(ranks),
                   "OMPI_COMM_WORLD_LOCAL_SIZE": str(ranks),
                   "PMIX_NAMESPACE": f"job{port}"}
        else:
            yield {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(ranks),
                   "SLURM_STEP_NUM_TASKS": str(ranks),
                   "SLURM_LOCALID": str(rank), "SLURM_JOB_ID": str(port),
                   "SLURM_STEP_ID": "0",
                   "SLURM_STEP_NODELIST": "localhost"}


def settings(folder, metrics, *more):
    return ["--data", folder / "data.bin", "--steps", 5, "--timeout", 3,
            "--metrics", metrics, *more]


def launched(launcher):
    """The same losses as threads; which environment it was is said."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    local = Training(folder, f"local-{launcher}", plan, 5, "--nproc", RANKS,
                     "--comm", "local")
    local.begin()
    local.finish()
    metrics = Trainings.scratch / f"{launcher}.jsonl"
    flags = settings(folder, metrics, "--shuffle")
    codes, logs = Launched(
        launcher, environments(launcher, RANKS, free_port()), [flags] * RANKS,
        [plan] * RANKS).finish()
    if codes != [0] * RANKS:
        raise Failed(f"ended with {codes}: {' / '.join(logs)[-600:]}")
    if {"torchrun": "torchrun (RANK=0, WORLD_SIZE=4)",
            "mpirun": "mpirun (OMPI_COMM_WORLD_RANK=0",
            "slurm": "srun (SLURM_PROCID=0"}[launcher] not in logs[0]:
        raise Failed(f"does not say how it was started: {logs[0][:300]}")
    local.metrics, expected = metrics, local.losses()
    if local.losses() != expected or len(expected) != 5:
        raise Failed(f"losses {local.losses()}, of threads {expected}")


def rank_0_goes_on():
    """Rank 0, stopped until the others have ended, says what they said."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    metrics = Trainings.scratch / "goes-on.jsonl"
    flags = ["--data", folder / "data.bin", "--steps", 100000, "--timeout", 1,
             "--metrics", metrics]
    job = Launched("goes-on", environments("torchrun", RANKS, free_port()),
                   [flags] * RANKS, [plan] * RANKS)
    first, *others = job.processes
    while not metrics.exists() or metrics.stat().st_size < 1000:
        if first.poll() is not None:
            raise Failed(f"rank 0 ended with {first.returncode}")
        time.sleep(0.02)
    first.send_signal(signal.SIGSTOP)
    for other in others:
        other.wait(timeout=60)
    first.send_signal(signal.SIGCONT)
    codes, logs = job.finish()
    said = r"^error: .*rank 0 is stopped or out of reach: no sign of life for 1"
    if codes != [5] * RANKS or \
            not all(re.search(said, log, re.M) for log in logs):
        raise Failed(f"{codes}: {logs[0]} {logs[1]}")


def wrong_environment():
    """Exit status 2, and the variable."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    told = {"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port())}
    flags = settings(folder, Trainings.scratch / "none.jsonl")
    for change, word in (({}, "RANK=4"), ({"RANK": "one"}, "RANK=one"),
                         ({"RANK": "1", "MASTER_PORT": "99999"},
                          "MASTER_PORT=99999")):
        codes, logs = Launched(f"wrong-{word}", [{**told, **change}], [flags],
                               [plan]).finish()
        if codes != [2] or word not in logs[0]:
            raise Failed(f"{word}: ended with {codes}: {logs[0]}")


def too_many():
    """More ranks than the plan has: each says so once, with what starts the
    right number."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, "dp=2", micro=1)
    flags = settings(folder, Trainings.scratch / "none.jsonl")
    for launcher, right in (("torchrun", "torchrun --nproc-per-node=2"),
                            ("mpirun", "mpirun -n 2"), ("slurm", "srun -n 2")):
        codes, logs = Launched(
            f"too-many-{launcher}", environments(launcher, 3, free_port()),
            [flags] * 3, [plan] * 3).finish()
        for log in logs:
            if codes != [2, 2, 2] or f"help: run with {right}," not in log \
                    or not re.search(r"^error: rank \d: the plan is made for 2 "
                                     r"ranks \(mesh dp=2\), not for 3$", log,
                                     re.M):
                raise Failed(f"{launcher}: ended with {codes}: {log}")


def taken_rank():
    """A second process of a rank while the job runs: it is refused at once,
    the job goes on."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, "dp=2", micro=1)
    metrics = Trainings.scratch / "taken.jsonl"
    flags = ["--data", folder / "data.bin", "--steps", 600, "--metrics",
             metrics]
    told = list(environments("torchrun", 2, free_port()))
    job = Launched("taken", told, [flags] * 2, [plan] * 2)
    end = time.monotonic() + 20
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        if time.monotonic() > end:
            for process in job.processes:
                process.kill()
            raise Failed("no steps in 20 s")
        time.sleep(0.01)
    flags = [f if f != metrics else Trainings.scratch / "none.jsonl"
             for f in flags]
    begin = time.monotonic()
    codes, logs = Launched("taken-late", told, [flags] * 2, [plan] * 2).finish()
    took = time.monotonic() - begin
    running = [p.poll() for p in job.processes] == [None, None]
    ended, said = job.finish()
    for rank, log in enumerate(logs):
        if codes != [2, 2] or f"rank {rank} is taken" not in log:
            raise Failed(f"ended with {codes}: {log}")
    if not running:
        raise Failed("the job had ended before the late ones were refused")
    if ended != [0, 0] or metrics.read_text().count("\n") != 600:
        raise Failed(f"the job ended with {ended}: {said}")
    if took > 2 + SLACK:
        raise Failed(f"refused after {took:.1f} s")


def disagreements():
    """Two ranks that would not do the same: both end with 2, and say what
    differs on which rank."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, "dp=2", micro=1)
    other_plan = Trainings.compiled(folder, "dp=2", micro=2)
    other_data = folder / "other.bin"
    content = bytearray((folder / "data.bin").read_bytes())
    content[1500] ^= 1
    other_data.write_bytes(bytes(content))
    none = Trainings.scratch / "none.jsonl"
    flags = settings(folder, none)
    cases = {
        "plan": ([plan, other_plan], [flags, flags], "plan checksum"),
        "data": ([plan, plan],
                 [flags, [other_data if f == folder / "data.bin" else f
                          for f in flags]], "data"),
        "steps": ([plan, plan], [flags, [6 if f == 5 else f for f in flags]],
                  "--steps: 6 on rank 1"),
        "rate": ([plan, plan], [flags, [*flags, "--set", "lr=0.5"]],
                 "--set lr: 0.5 on rank 1"),
        "seed": ([plan, plan], [[*flags, "--seed", 7], flags],
                 "--seed: 7 on rank 0"),
        "comm": ([plan, plan], [flags, [*flags, "--comm", "tcp"]],
                 "--comm: tcp on rank 1"),
    }
    for name, (plans, all_flags, word) in cases.items():
        codes, logs = Launched(
            f"differs-{name}", environments("torchrun", 2, free_port()),
            all_flags, plans).finish()
        if codes != [2, 2]:
            raise Failed(f"{name}: ended with {codes}: {logs}")
        for log in logs:
            if word not in log or "do not agree" not in log:
                raise Failed(f"{name}: {log}")


def listening_ports(pids):
    inodes = set()
    for pid in pids:
        try:
            for fd in os.scandir(f"/proc/{pid}/fd"):
                target = os.readlink(fd.path)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:
                yield int(words[1].rpartition(":")[2], 16)


def strangers():
    """Somebody else at every port, before and while ranks meet: silent,
    talkative, or gone again. The job does not notice."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    port = free_port()
    told = list(environments("torchrun", RANKS, port))
    chance = random.Random(Trainings.seed)
    flags = settings(folder, Trainings.scratch / "none.jsonl", "--comm", "tcp")
    done, calls, pids = threading.Event(), set(), []

    def flood():
        held = []
        while not done.is_set():
            for at in {port, *listening_ports(pids)}:
                try:
                    one = socket.create_connection(("127.0.0.1", at), 0.2)
                except OSError:
                    continue
                calls.add(at)
                try:
                    one.send(chance.randbytes(chance.choice((1, 40, 3000))))
                except OSError:
                    pass
                held.append(one)
                if chance.random() < 0.5:
                    held.pop(0).close()
    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        job = Launched("strangers", told[:1], [flags], [plan])
        pids.append(job.processes[0].pid)
        for rank in range(1, RANKS):
            time.sleep(0.3)
            more = Launched(f"strangers-{rank}", told[rank:rank + 1], [flags],
                            [plan])
            pids.append(more.processes[0].pid)
            job.processes += more.processes
        for process in job.processes:
            if process.wait(timeout=60) != 0:
                raise Failed(f"ended with {process.returncode}: " + " / ".join(
                    p.read_text() for p in sorted(
                        Trainings.scratch.glob("launched-strangers*/log*"))))
    except subprocess.TimeoutExpired:
        for process in job.processes:
            process.kill()
        raise Failed("still running after 60 s") from None
    finally:
        done.set()
        flooding.join()
    print(f"strangers came to {len(calls)} ports")
    if len(calls) < 2:
        raise Failed("the strangers found only the meeting place")


def cases():
    trials = 40 if Trainings.full else 6
    for transport in ("host", "tcp"):
        for how in ("kill", "stop", "hang"):
            yield (f"rank-{how}/{transport}", rank_fails, how, transport,
                   trials if transport == "host" else trials - 2)
        yield (f"rank-killed-resume/{transport}", resumes, transport,
               50 if Trainings.full else 5)
    yield "processes-stopped", stopped
    yield "starter-killed", starter_killed
    for launcher in ("torchrun", "mpirun", "slurm"):
        yield f"launched-by/{launcher}", launched, launcher
    yield "rank-0-goes-on", rank_0_goes_on
    yield "launched-by/wrong-environment", wrong_environment
    yield "launched-by/too-many", too_many
    yield "taken-rank", taken_rank
    yield "disagreements", disagreements
    yield "strangers", strangers
