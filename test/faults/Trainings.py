"""Runs of `lmrun train` for the fault tests: small models, compiled once, and
what a run leaves behind: metrics, checkpoints, its exit status."""

import json
import os
import subprocess
from pathlib import Path

here = Path(__file__).resolve().parent
goldens = here.parent / "goldens"
build = Path(os.environ["LMC_BUILD"]).resolve()
scratch = Path(os.environ["LMC_SCRATCH"]).resolve()
full = os.environ.get("LMC_FULL") == "1"
seed = int(os.environ.get("LMC_SEED", "1"))
python = os.environ.get("LMC_PYTHON", "python3")


class Failed(Exception):
    pass


def run(*command, expect=0):
    ran = subprocess.run([str(c) for c in command], capture_output=True,
                         text=True)
    if ran.returncode != expect:
        raise Failed(f"{Path(command[0]).name} {command[1]} ended with "
                     f"{ran.returncode}: {(ran.stdout + ran.stderr)[-600:]}")
    return ran.stdout + ran.stderr


def model(name):
    """The folder of a golden model, unpacked once."""
    folder = scratch / name
    if not folder.exists():
        subprocess.run(["tar", "--zstd", "-xf", goldens / f"{name}.tar.zst",
                        "-C", scratch], check=True)
    return folder


def ranks(mesh):
    """Of a mesh with flags behind it, such as "dp=2 --zero=3"."""
    count = 1
    for axis in filter(None, mesh.partition(" ")[0].split(",")):
        count *= int(axis.split("=")[1])
    return count


def compiled(folder, mesh="", micro=2, batch=4):
    plan = folder / f"train-{mesh.replace(' ', '') or 'one'}-{micro}.plan"
    if not plan.exists():
        run(build / "bin/lmc", "compile", folder, "-o", plan, "--seq=32",
            f"--global-batch={batch}", f"--micro-batch={micro}",
            *(f"--mesh={mesh}".split() if mesh else []))
    return plan


class Training:
    """One training run, possibly in several lives: `begin` starts the
    process, further calls resume."""

    def __init__(self, folder, name, plan, steps, *flags):
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.metrics = self.folder / "metrics.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.log = self.folder / "log"
        self.data = folder / "data.bin"
        self.plan, self.steps, self.flags = plan, steps, flags

    def begin(self, **environment):
        command = [
            build / "bin/lmrun", "train", self.plan, "--data", self.data,
            "--steps", self.steps, "--shuffle", "--resume",
            "--checkpoint", self.checkpoints, "--metrics", self.metrics,
            "--log-interval", 1000000, *self.flags]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen([str(c) for c in command],
                                            stdout=log, stderr=log,
                                            env={**os.environ, **environment})
        return self.process

    def finish(self, expect=0):
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("still running after 60 s") from None
        if code != expect:
            raise Failed(f"lmrun ended with {code}, expected {expect}: "
                         + self.log.read_text()[-600:])

    def through(self):
        self.begin()
        self.finish()
        return self

    def losses(self):
        """{step: loss}. A step that was computed in two lives must have had
        the same loss in both."""
        seen = {}
        if not self.metrics.exists():
            return seen
        for line in self.metrics.read_text().splitlines():
            entry = json.loads(line)
            if "loss" not in entry:
                continue
            numbers = (entry["loss"], entry["grad_norm"])
            if seen.setdefault(entry["step"], numbers) != numbers:
                raise Failed(f"step {entry['step']} had loss and norm "
                             f"{seen[entry['step']]}, then {numbers}")
        return seen

    def evaluations(self):
        """[(step, loss)] of the held-out part."""
        entries = map(json.loads, self.metrics.read_text().splitlines())
        return [(e["step"], e["eval_loss"]) for e in entries
                if "eval_loss" in e]

    def saved(self):
        """Steps of which there is a checkpoint."""
        return sorted(int(p.name[5:]) for p in self.checkpoints.glob("step_*"))

    def latest(self):
        name = (self.checkpoints / "latest").read_text().strip()
        return self.checkpoints / name

    def saving(self):
        """Whether a checkpoint is half written at this moment."""
        try:
            return any(name.endswith(".part")
                       for name in os.listdir(self.checkpoints))
        except FileNotFoundError:
            return False


def same_checkpoint(a, b):
    for file in ("model.safetensors", "optimizer.safetensors", "trainer.json"):
        if (a / file).read_bytes() != (b / file).read_bytes():
            raise Failed(f"{file} of {a.name} in {a.parent.parent.name} and "
                         f"in {b.parent.parent.name} differ")


def same_end(training, whole):
    """Losses of all steps and the last checkpoint, bit for bit."""
    mine, its = training.losses(), whole.losses()
    if sorted(its) != list(range(1, whole.steps + 1)):
        raise Failed(f"the uninterrupted run has {len(its)} losses")
    if mine != its:
        step = next(s for s in sorted(set(mine) | set(its))
                    if mine.get(s) != its.get(s))
        raise Failed(f"step {step} has loss and norm {mine.get(step)}, "
                     f"uninterrupted {its[step]}")
    same_checkpoint(training.latest(), whole.latest())
