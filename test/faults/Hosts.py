"""Jobs over several hosts, on one machine: two network namespaces with a link
that can be cut, and a Slurm of two nodes. What they need beyond the tree (root,
ip, Slurm) may be missing; then they say so and are skipped."""

import json
import os
import re
import shutil
import subprocess
import time

import Trainings
from Processes import MESH, RANKS, expand, free_port, settings
from Trainings import Failed, Training


class Skipped(Exception):
    pass


def needs(*programs):
    if os.geteuid() != 0:
        raise Skipped("only root may do it")
    for program in programs:
        if not shutil.which(program):
            raise Skipped(f"{program} is not installed")


def quietly(command):
    return subprocess.run(command.split(), capture_output=True, text=True)


class TwoHosts:
    """Namespaces with two ranks each, and a link between them."""

    def __enter__(self):
        needs("ip")
        self.name = f"lmc{os.getpid() % 100000}"
        for command in (
                "ip netns add {0}a", "ip netns add {0}b",
                "ip link add {0}a netns {0}a type veth peer name {0}b "
                "netns {0}b",
                "ip -n {0}a addr add 10.77.0.1/24 dev {0}a",
                "ip -n {0}b addr add 10.77.0.2/24 dev {0}b",
                "ip -n {0}a link set lo up", "ip -n {0}b link set lo up",
                "ip -n {0}a link set {0}a up", "ip -n {0}b link set {0}b up"):
            made = quietly(command.format(self.name))
            if made.returncode:
                self.__exit__()
                raise Skipped("no network namespaces: " + made.stderr.strip())
        return self

    def __exit__(self, *_):
        for side in "ab":
            quietly(f"ip netns del {self.name}{side}")

    def cut(self):
        quietly(f"ip -n {self.name}a link set {self.name}a down")

    def start(self, label, plan, flags):
        self.logs, self.processes = [], []
        for rank in range(RANKS):
            side = "ab"[rank * 2 // RANKS]
            self.logs.append(Trainings.scratch / f"{label}-{rank}.log")
            told = {"RANK": str(rank), "WORLD_SIZE": str(RANKS),
                    "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29777",
                    "LMC_HOST_NAME": side}
            self.processes.append(subprocess.Popen(
                ["ip", "netns", "exec", self.name + side,
                 *(str(c) for c in (Trainings.build / "bin/lmrun", "train",
                                    plan, *flags))],
                env={**os.environ, **told}, stdout=open(self.logs[-1], "w"),
                stderr=subprocess.STDOUT))

    def finish(self, seconds):
        end = time.monotonic() + seconds
        for process in self.processes:
            try:
                process.wait(timeout=max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                for one in self.processes:
                    one.kill()
                raise Failed(f"still running after {seconds:.0f} s") from None
        return [p.returncode for p in self.processes], [
            log.read_text() for log in self.logs]


def losses(metrics):
    return [json.loads(line)["loss"]
            for line in metrics.read_text().splitlines()]


def of_threads(label, plan, folder):
    local = Training(folder, f"threads-{label}", plan, 5, "--nproc", RANKS,
                     "--comm", "local").through()
    return losses(local.metrics)


def two_hosts():
    """Shared memory within, TCP between: the losses of threads. Then the link
    is cut: either side ends in time and names ranks of the other."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    metrics = Trainings.scratch / "two-hosts.jsonl"
    with TwoHosts() as hosts:
        hosts.start("whole", plan, settings(folder, metrics, "--shuffle"))
        codes, logs = hosts.finish(60)
        if codes != [0] * RANKS:
            raise Failed(f"ended with {codes}: {' / '.join(logs)[-600:]}")
        if losses(metrics) != of_threads("two-hosts", plan, folder):
            raise Failed("the losses are not those of threads")
        timeout = 1.5
        flags = ["--data", folder / "data.bin", "--steps", 1000000,
                 "--timeout", timeout, "--metrics", metrics]
        metrics.unlink()
        hosts.start("cut", plan, flags)
        end = time.monotonic() + 20
        while not metrics.exists() or len(losses(metrics)) < 3:
            if time.monotonic() > end:
                raise Failed("no step in 20 s")
            time.sleep(0.01)
        hosts.cut()
        start = time.monotonic()
        codes, logs = hosts.finish(timeout + 20)
        took = time.monotonic() - start
    if codes != [5] * RANKS or took > timeout + 2:
        raise Failed(f"ended with {codes} after {took:.1f} s: {logs}")
    for rank, log in enumerate(logs):
        blamed = re.search(r"ranks? ([-\d, and]+?) (?:is|are) stopped or out "
                           r"of reach", log)
        if not blamed or not expand(blamed[1]) <= (
                {2, 3} if rank < 2 else {0, 1}):
            raise Failed(f"rank {rank} says: {log[-300:]}")
    print(f"the cut link was noticed in {took:.2f} s")


class Slurm:
    """A controller and two nodes on this machine, with their own keys, ports
    and folders."""

    def __enter__(self):
        needs("slurmctld", "slurmd", "srun", "munged")
        # Sockets have short names.
        self.folder = Trainings.scratch / "slurm"
        self.folder.mkdir()
        self.daemons = []
        host = os.uname().nodename.split(".")[0]
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        conf = self.folder / "slurm.conf"
        nodes = "\n".join(
            f"NodeName=lmc{n} NodeHostname={host} NodeAddr=127.0.0.1 "
            f"Port={free_port()} CPUs=2" for n in (1, 2))
        conf.write_text(f"""ClusterName=lmc
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmctldPort={free_port()}
SlurmctldPidFile={self.folder}/ctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmdSpoolDir={self.folder}/spool-%n
StateSaveLocation={self.folder}/state
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
        self.environment = {**os.environ, "SLURM_CONF": str(conf)}
        os.chmod(self.folder, 0o755)
        self.start("munged", "--foreground", "--force",
                   f"--key-file={key}", f"--socket={self.folder}/munge.socket",
                   f"--pid-file={self.folder}/munged.pid",
                   f"--log-file={self.folder}/munged.log",
                   f"--seed-file={self.folder}/munged.seed")
        time.sleep(0.5)
        self.start("slurmctld", "-D", "-f", conf)
        for node in ("lmc1", "lmc2"):
            (self.folder / f"spool-{node}").mkdir()
            self.start("slurmd", "-D", "-f", conf, "-N", node)
        if self.becomes_idle(20):
            return self
        self.__exit__()
        raise Skipped("Slurm did not come up: " + "; ".join(
            (self.folder / f"{n}.log").read_text()[-150:]
            for n in ("munged", "slurmctld", "slurmd")))

    def becomes_idle(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            states = subprocess.run(["sinfo", "-h", "-o", "%T %D"],
                                    env=self.environment, capture_output=True,
                                    text=True).stdout
            if states.strip() == "idle 2":
                return True
            time.sleep(0.2)
        return False

    def start(self, *command):
        self.daemons.append(subprocess.Popen(
            [str(c) for c in command], env=getattr(self, "environment", None),
            stdout=open(self.folder / f"{command[0]}.log", "a"),
            stderr=subprocess.STDOUT))

    def __exit__(self, *_):
        # A step that is not done with would outlive its node.
        self.becomes_idle(10)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def slurm():
    """A real srun over two nodes. Their names are known to Slurm alone, so the
    meeting place is told."""
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    metrics = Trainings.scratch / "slurm.jsonl"
    with Slurm() as slurm:
        lmrun = " ".join(str(c) for c in (
            Trainings.build / "bin/lmrun", "train", plan,
            *settings(folder, metrics, "--shuffle")))
        ran = subprocess.run(
            ["srun", "--mpi=none", "-N", "2", "-n", str(RANKS), "--overcommit",
             "bash", "-c", f"LMC_RENDEZVOUS=127.0.0.1:{free_port()} "
             f"LMC_HOST_NAME=$SLURMD_NODENAME exec {lmrun}"],
            env=slurm.environment, capture_output=True, text=True, timeout=90)
    if ran.returncode:
        raise Failed(f"srun ended with {ran.returncode}: {ran.stderr[-500:]}")
    if "srun (SLURM_PROCID=0, SLURM_STEP_NUM_TASKS=4)" not in ran.stderr:
        raise Failed(f"does not say how it was started: {ran.stderr[:300]}")
    if losses(metrics) != of_threads("slurm", plan, folder):
        raise Failed("the losses are not those of threads")


def launcher_itself(name, command):
    """A launcher that is installed starts the ranks."""
    if not shutil.which(command[0]):
        raise Skipped(f"{command[0]} is not installed")
    folder = Trainings.model("gpt2-1")
    plan = Trainings.compiled(folder, MESH, micro=1)
    metrics = Trainings.scratch / f"{name}-itself.jsonl"
    ran = subprocess.run(
        [str(c) for c in (*command, Trainings.build / "bin/lmrun", "train",
                          plan, *settings(folder, metrics, "--shuffle"))],
        capture_output=True, text=True, timeout=90)
    if ran.returncode:
        raise Failed(f"{command[0]} ended with {ran.returncode}: "
                     + ran.stderr[-500:])
    if losses(metrics) != of_threads(f"{name}-itself", plan, folder):
        raise Failed("the losses are not those of threads")


def cases():
    yield "hosts-two-namespaces", two_hosts
    yield "hosts-slurm-two-nodes", slurm
    beside_python = os.path.join(os.path.dirname(Trainings.python), "torchrun")
    yield ("hosts-torchrun-itself", launcher_itself, "torchrun",
           [beside_python, "--standalone", f"--nproc-per-node={RANKS}",
            "--no-python"])
    yield ("hosts-mpirun-itself", launcher_itself, "mpirun",
           ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", RANKS])
