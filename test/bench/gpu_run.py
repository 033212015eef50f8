#!/usr/bin/env python3
"""What one GPU proves and measures, in one stretch of ten minutes.

    gpu run [--seconds=540] [--proof | --speed]

`test/bench/gpu prepare` puts this script, as `gpu`, into a folder of what it
needs: programs, plans, goldens. These parts run in this order and end with a
table, also in results.json with GPU, driver, versions and date:

devices     what the driver lists
conformance runtime-device-test on the GPU, and every kernel and product of two
            models of odd sizes against float64 (test/device)
goldens     logits, generation with the cache, gradients, losses and norms of 20
            AdamW steps, of nine models of odd sizes in three families
cpu         20 losses with dropout and 50 of gpt-mini within 1e-4 of the CPU's,
            gpt-mini's texts, greedy and drawn
bitwise     a second run, and a resumed one, to the last bit; a text alone and
            beside others
memory      what nvidia-smi reports against the plan and a stated context
sanitizer   memcheck and racecheck of those kernels, a training step and a text
speed       GPT-2 124M: training beside PyTorch (fp32 and TF32), each kind of
            kernel against a copy, decode of 1 to 17 tokens a step and a
            prompt of 256, time to the first step

cuBLASLt is looked for as the loader does, then in CUDA_HOME and /usr/local/cuda
and beside PyTorch (LMC_PYTHON, or python3), whose wheels bring it.

What the machine lacks (PyTorch, compute-sanitizer) is a SKIP with its reason,
and so is what no time is left for. `--proof` leaves out speed, `--speed` all
else: a machine that is lent for ten minutes a call takes both in turn.
results.json grows row by row, in $OUT, too, where that is set. Exit status 0:
nothing failed; 1: something did; 2: there is no GPU. The proof also runs on the
doubles of driver and cuBLASLt of a build, which interpret the kernels' PTX:

    LMC_STUB_CUDA_INTERPRET=1 LD_LIBRARY_PATH=BUILD/test/cuda-stub \\
        FOLDER/gpu run --proof --seconds=3000

Python's standard library alone is used.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

here = Path(__file__).resolve().parent
steps_of_mini = 50


class Failed(Exception):
    pass


class Skipped(Exception):
    pass


def call(*command, limit=None, **settings):
    command = [str(c) for c in command]
    try:
        ran = subprocess.run(command, capture_output=True, text=True,
                             timeout=limit, **settings)
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} took more than {limit:.0f} s")
    if ran.returncode:
        print("$ " + " ".join(command) + "\n" +
              (ran.stdout + ran.stderr).strip()[-3000:], flush=True)
        raise Failed(f"{Path(command[0]).name} {' '.join(command[1:2])} ended "
                     f"with {ran.returncode}")
    return ran.stdout


def generate(lmrun, plan, weights, *others, temperature=0):
    prompts = [f"--prompt={prompt}" for prompt in ("A pass ", *others)]
    return call(lmrun, "generate", plan, "--weights", weights, *prompts,
                "--max-tokens", 64, "--temperature", temperature, "--seed", 1,
                limit=120)


def texts(lmrun, plan, weights):
    """Greedily, and drawn: of the whole distribution at each token."""
    return generate(lmrun, plan, weights) + generate(lmrun, plan, weights,
                                                     temperature=1)


class Run:
    copied = 0  # GB/s of a copy, once measured

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.limit = max(120, seconds / 5)  # of one program
        self.facts = json.loads((here / "manifest.json").read_text())
        self.is_cuda = self.facts["target"] == "cuda"
        self.scratch = here / "scratch"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        self.rows = []
        self.device = ""

    def lmrun(self, *command, **settings):
        return self.program("lmrun", *command, **settings)

    def program(self, name, *command, **settings):
        left = self.end - time.monotonic()
        if left < 5:
            raise Skipped("no time is left")
        return call(here / "bin" / name, *command, limit=min(self.limit, left),
                    **settings)

    def row(self, status, name, text=""):
        self.rows.append({"status": status, "name": name, "text": text})
        print(f"{status:<4} {name:<44} {text}", flush=True)
        # Each time: what ends the call takes no result with it.
        said = json.dumps({
            **{k: v for k, v in self.facts.items() if k != "peak_bytes"},
            "date": datetime.date.today().isoformat(), "device": self.device,
            "system": platform.platform(), "rows": self.rows}, indent=1)
        for folder in filter(None, (here, os.environ.get("OUT"))):
            (Path(folder) / "results.json").write_text(said)

    def part(self, name, body, *arguments):
        start = time.monotonic()
        try:
            text = body(*arguments)
            self.row("PASS", name, f"{text or ''} "
                     f"({time.monotonic() - start:.1f} s)".strip())
        except Failed as failure:
            self.row("FAIL", name, str(failure))
        except Skipped as reason:
            self.row("SKIP", name, str(reason))
        except (OSError, ValueError, KeyError, IndexError,
                subprocess.SubprocessError) as error:
            self.row("FAIL", name, repr(error))

    # -- correctness

    def proof(self):
        self.part("conformance", self.conformance)
        self.part("kernels", self.kernels)
        for golden in sorted((here / "goldens").iterdir()):
            for body in (self.logits, self.generation, self.training):
                self.part(f"{golden.name} {body.__name__}", body, golden)
        self.part("dropout, losses like the CPU's", self.dropout)
        self.part("gpt-mini, losses like the CPU's", self.like_cpu)
        self.part("gpt-mini, texts like the CPU's", self.same_text)
        self.part("gpt-mini, a text beside others", self.crowded)
        self.part("gpt-mini, a second run, bitwise", self.twice)
        self.part("gpt-mini, resumed at 20, bitwise", self.resumed)

    def conformance(self):
        wanted = "cuda" if self.is_cuda else "cpu"
        said = self.program("runtime-device-test",
                            f"--gtest_filter=Devices/*/{wanted}")
        count = re.search(r"PASSED  \] (\d+) test", said)
        if "SKIPPED" in said or not count or count[1] == "0":
            raise Failed("tests were skipped")
        return f"{count[1]} tests"

    def kernels(self):
        said = self.program("check-device", "cuda" if self.is_cuda else "cpu",
                            here / "kernels.cases")
        print(said, end="")
        return said.splitlines()[-1]

    def hold(self, what, expected, actual, *flags):
        try:
            self.program("compare-tensors", expected, actual, *flags)
        except Failed as failure:
            raise Failed(f"{what}: {failure}")

    def logits(self, golden):
        out = self.scratch / f"{golden.name}.npy"
        self.lmrun("eval", golden / "logits.plan", "--weights", golden,
                   "--input", golden / "input.npy", "--output", out)
        self.hold("logits", golden / "logits.npy", out, "--absolute=1e-4")

    def generation(self, golden):
        self.program("check-generation", golden / "generate.plan", golden,
                     golden / "input.npy", golden / "logits.npy")

    def training(self, golden):
        """The tolerances are those of test/numerics/run."""
        expected = json.loads((golden / "expected.json").read_text())
        adamw = expected["adamw"]
        out = self.scratch / f"{golden.name}.safetensors"
        steps = self.train(
            f"{golden.name}.jsonl", golden / "train.plan", "--weights", golden,
            "--data", golden / "data.bin", "--steps", expected["steps"],
            "--decay", adamw["schedule"], "--dump-gradients", out,
            *(f"--set={name}={adamw[name]}" for name in (
                "lr", "beta1", "beta2", "eps", "weight_decay", "clip_norm")))
        self.hold("gradients", golden / "gradients.safetensors", out,
                  "--relative=1e-4", "--of-all=1e-7")
        worst = {}
        for key, name, most in (("loss", "losses", 1e-4),
                                ("grad_norm", "gradient_norms", 1e-3)):
            pairs = list(zip([s[key] for s in steps], expected[name],
                             strict=True))
            worst[key] = max(abs(a - b) / abs(b) for a, b in pairs)
            if not all(abs(a - b) <= most * abs(b) for a, b in pairs):
                raise Failed(f"{key} is off by {worst[key]:.1e}")
        return "loss within {loss:.0e}, norm {grad_norm:.0e}".format(**worst)

    def train(self, metrics, plan, *flags, **settings):
        metrics = self.scratch / metrics
        metrics.unlink(missing_ok=True)
        self.lmrun("train", plan, "--metrics", metrics, *flags, **settings)
        return steps_of(metrics)

    def mini(self, name, *flags, steps=steps_of_mini):
        folder = self.scratch / name
        done = self.train(f"{name}.jsonl", here / "mini-train.plan", "--data",
                          here / "tokens.bin", "--steps", steps, "--checkpoint",
                          folder, *flags)
        return done, folder / f"step_{steps}"

    def like_cpu(self):
        return self.close(self.mini("first")[0], here / "mini.jsonl")

    def dropout(self):
        folder, golden = here / "dropout", here / "goldens/gpt2-1"
        return self.close(self.train(
            "dropout.jsonl", folder / "train.plan", "--data",
            golden / "data.bin", "--weights", golden, "--steps", 20),
            folder / "cpu.jsonl")

    def close(self, steps, expected):
        worst = max(abs(a["loss"] - b["loss"]) for a, b in zip(
            steps, steps_of(expected), strict=True))
        if not worst <= 1e-4:
            raise Failed(f"losses are off by {worst:.1e}")
        return f"{len(steps)} losses within {worst:.1e}"

    def same_text(self):
        said = texts(here / "bin/lmrun", here / "mini-infer.plan",
                     here / "mini-weights")
        if said != (here / "mini.txt").read_text():
            raise Failed(f"another text than the CPU's: {said!r}")
        return f"{len(said)} bytes"

    def crowded(self):
        # Steps of 1, of 4 and of more than 16 rows, by the prompts' lengths.
        others = ["The ", "An operation that has one result ", "x"]

        def drawn(*others):
            return generate(here / "bin/lmrun", here / "mini-infer.plan",
                            here / "mini-weights", *others, temperature=1)
        alone = drawn()
        for count in range(1, len(others) + 1):
            among = drawn(*others[:count])
            text = alone.rstrip("\n")
            if not among.startswith(f"--- 1 ---\n{text}\n"):
                raise Failed(f"beside {count} others another text than alone: "
                             f"{among!r}")
        return f"{len(alone)} bytes beside 1 to {len(others)}"

    def twice(self):
        _, folder = self.mini("second")
        return self.same_files(self.scratch / "first" / folder.name, folder)

    def resumed(self):
        self.mini("resumed", steps=20)
        _, folder = self.mini("resumed", "--resume")
        return self.same_files(self.scratch / "first" / folder.name, folder)

    def same_files(self, first, second):
        files = sorted(first.glob("**/*.safetensors"))
        if not files:
            raise Failed(f"{first} holds no tensors")
        for file in files:
            if file.read_bytes() != (second /
                                     file.relative_to(first)).read_bytes():
                raise Failed(f"{file.name} differs")
        return f"{sum(f.stat().st_size for f in files)} equal bytes"

    def sanitizer(self, tool):
        if not self.is_cuda:
            raise Skipped("a rehearsal on the CPU")
        found = shutil.which("compute-sanitizer", path=os.pathsep.join(
            [os.environ["PATH"], *(f"{root}/bin" for root in toolkits())]))
        if not found:
            raise Skipped("no compute-sanitizer on the PATH")
        golden = here / "goldens/llama-1"
        # Three steps: walked, recorded and replayed.
        for command in (["check-device", "cuda", here / "kernels.cases"],
                        ["lmrun", "train", golden / "train.plan", "--weights",
                         golden, "--data", golden / "data.bin", "--steps", "3"],
                        ["lmrun", "eval", golden / "logits.plan", "--weights",
                         golden, "--input", golden / "input.npy", "--output",
                         self.scratch / "sanitized.npy"]):
            left = self.end - time.monotonic()
            if left < 20:
                raise Skipped("no time is left")
            # A cubin that the driver does not take is no error: PTX is next.
            checked = [found, "--tool", tool, "--error-exitcode", 99,
                       "--report-api-errors", "no",
                       here / "bin" / command[0], *command[1:]]
            try:
                ran = subprocess.run(list(map(str, checked)), text=True,
                                     capture_output=True, timeout=left)
            except subprocess.TimeoutExpired:
                raise Skipped(f"{command[0]} took more than {left:.0f} s")
            said = ran.stdout + ran.stderr
            if "Device not supported" in said:
                raise Skipped("compute-sanitizer: Device not supported")
            if ran.returncode:
                print(said[-3000:], flush=True)
                raise Failed(f"{command[0]} ended with {ran.returncode}")

    def memory(self):
        if not self.is_cuda:
            raise Skipped("a rehearsal on the CPU")
        if not shutil.which("nvidia-smi"):
            raise Skipped("no nvidia-smi on the PATH")

        def most(plan, steps):
            # One that goes on asking: each start of it takes a second or so.
            watcher = subprocess.Popen(
                ["nvidia-smi", "--query-gpu=memory.used", "--id=0",
                 "--format=csv,noheader,nounits", "-lms", "20"],
                stdout=subprocess.PIPE, text=True)
            before = int(watcher.stdout.readline())
            try:
                self.lmrun("bench", here / plan, "--steps", steps)
            finally:
                watcher.terminate()
            seen = [int(line) for line in watcher.communicate()[0].split()]
            return ((max(seen, default=before) - before) << 20,
                    self.facts["peak_bytes"][plan])

        # The context is that of a small plan which loads cuBLASLt, too.
        small, planned = most("mini-train.plan", 300)
        context = small - planned
        large, planned = most("gpt2-train.plan", 10)
        off = (large - context) / planned - 1
        text = (f"{large >> 20} MiB: plan {planned >> 20}, context "
                f"{context >> 20}, off by {100 * off:.1f} %")
        if abs(off) > 0.05:
            raise Failed(text)
        return text

    # -- speed: figures, not verdicts

    @functools.cache
    def python(self):
        python = os.environ.get("LMC_PYTHON", "python3")
        if subprocess.run([python, "-c", "import torch, transformers"],
                          capture_output=True, timeout=120).returncode:
            raise Skipped(f"{python} has no torch or transformers")
        return python

    def copy(self):
        if not self.is_cuda:
            raise Skipped("a rehearsal on the CPU")
        said = call(self.python(), "-c", """
import torch
a = torch.rand(1 << 28, device="cuda"); b = torch.empty_like(a)
times = []
for _ in range(700): # half a second, until the clocks are up
    b.copy_(a)
for _ in range(20):
    s, e = (torch.cuda.Event(enable_timing=True) for _ in "se")
    s.record(); b.copy_(a); e.record(); torch.cuda.synchronize()
    times.append(s.elapsed_time(e))
print(2 * a.nbytes / sorted(times)[10] / 1e6, torch.__version__)
""", limit=90).split()
        self.copied = float(said[0])
        return f"{self.copied:.0f} GB/s read and written, torch {said[1]}"

    def training_speed(self, *flags):
        said = self.lmrun("bench", here / "gpt2-train.plan", "--steps=20",
                          *flags)
        tokens = re.search(r"^tokens +([\d.]+)", said, re.M)
        step = re.search(r"^step +([\d.]+)", said, re.M)
        kinds = re.findall(r"^ *([\d.]+) +([\d.]+) +(\d+) +([\d.]+) +([\d.]+)"
                           r"  (\S+)$", said, re.M)
        # Worst first.
        for share, ms, count, gflops, bandwidth, kind in sorted(
                kinds, key=lambda kind: float(kind[4])):
            of = (f", {100 * float(bandwidth) / self.copied:.0f} % of a copy"
                  if self.copied else "")
            self.row("", f"  {kind}", f"{share} % of the step, {count} calls, "
                     f"{gflops} GFLOP/s, {bandwidth} GB/s{of}")
        return f"{tokens[1]} tokens/s, {step[1]} ms a step"

    def decode(self, rows):
        # Graphs are replayed from the third step on; then clocks go up.
        said = json.loads(self.lmrun(
            "bench", here / "gpt2-infer.plan", "--json", f"--tokens={rows}",
            *(("--warmup=500", "--steps=500") if self.is_cuda else
              ("--warmup=2", "--steps=3"))))
        read = said["weight_bytes"] / said["step_ms"] / 1e6
        of = (f", {100 * read / self.copied:.0f} % of a copy" if self.copied
              else "")
        return (f"{said['tokens_per_second']:.0f} tokens/s, weights at "
                f"{read:.0f} GB/s{of}")

    def peer(self, *flags):
        # All cores: torch.compile has as many workers as the process has CPUs.
        threads = os.cpu_count() if self.is_cuda else 2
        command = [self.python(), here / "pytorch_gpt2.py",
                   f"--threads={threads}", "--variant=eager-fused",
                   "--variant=compile-fused", "--steps=20",
                   f"--batch={self.facts['batch']}",
                   f"--seq={self.facts['length']}", f"--data={here}/gpt2.bin",
                   *flags, *(["--device=cuda"] if self.is_cuda else [
                       "--layers=4", "--heads=6", "--width=192",
                       "--vocabulary=256"])]
        # One that was measured counts, whatever becomes of the other.
        try:
            ran = subprocess.run(
                list(map(str, command)), text=True, capture_output=True,
                timeout=max(5, min(240, self.end - time.monotonic())))
            said, fault = ran.stdout, ran.stderr.strip()[-2000:]
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode()
            fault = f"more than {late.timeout:.0f} s"
        done = [json.loads(line) for line in said.splitlines()
                if line.startswith('{"variant"')]
        if not done:
            raise Skipped(f"PyTorch: {fault}")
        if len(done) < 2:
            print(fault, flush=True)
        best = max(done, key=lambda one: one["tokens_per_second"])
        return (f"{best['tokens_per_second']} tokens/s, {best['variant']} of "
                + ", ".join(one["variant"] for one in done))

    def startup(self):
        start = time.monotonic()
        self.lmrun("bench", here / "gpt2-train.plan", "--steps=1",
                   "--warmup=0")
        one = time.monotonic() - start
        start = time.monotonic()
        self.lmrun("bench", here / "gpt2-train.plan", "--steps=0")
        return (f"{time.monotonic() - start:.2f} s without a step, "
                f"{one:.2f} s with first weights and two")

    def speed(self):
        self.part("a copy", self.copy)
        self.part("GPT-2 training", self.training_speed)
        if self.is_cuda:
            self.part("GPT-2 training, TF32", self.training_speed,
                      "--set=tf32=1")
        for rows in (1, 4, 8, 16, 17, *([256] if self.is_cuda else [])):
            self.part(f"GPT-2 decode, {rows} tokens a step", self.decode, rows)
        self.part("GPT-2 training, PyTorch fp32", self.peer)
        if self.is_cuda:
            self.part("GPT-2 training, PyTorch TF32", self.peer, "--tf32")
        self.part("lmrun from its start", self.startup)


def steps_of(metrics):
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def toolkits():
    return [root for root in (os.environ.get("CUDA_HOME"),
                              os.environ.get("CUDA_PATH"), "/usr/local/cuda")
            if root]


def find_cublaslt():
    """Puts the folders that have it behind what the loader searches."""
    script = """
import pathlib, sys
for path in sys.path:
    for found in pathlib.Path(path).glob("nvidia/*/lib/libcublasLt.so.*"):
        print(found.parent)
"""
    said = subprocess.run([os.environ.get("LMC_PYTHON", "python3"), "-c",
                           script], capture_output=True, text=True).stdout
    folders = [os.environ.get("LD_LIBRARY_PATH"), *said.split("\n"),
               *(f"{root}/lib64" for root in toolkits())]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, folders))


def run(options):
    if not (here / "manifest.json").exists():
        sys.exit(f"error: {here} was not made by `gpu prepare`")
    find_cublaslt()
    self = Run(options.seconds)
    # Without a GPU nothing of what follows means anything.
    listed = call(here / "bin/lmrun", "devices", limit=60)
    gpu = re.search(r"^cuda +(.*)", listed, re.M)
    if self.is_cuda and (not gpu or gpu[1].startswith("none")):
        print(f"error: {gpu[1] if gpu else listed}\n  help: run where there is "
              "an NVIDIA GPU, or rehearse with prepare --target=cpu",
              file=sys.stderr)
        sys.exit(2)
    self.device = gpu[1] if self.is_cuda else listed.splitlines()[0]
    if library := re.search(r"^ +(cuBLASLt.*)", listed, re.M):
        self.row("", "library", library[1])
    self.row("", "device", self.device)
    if not options.speed:
        self.proof()
    if not options.proof:
        self.speed()
    if not options.speed:
        self.part("memory", self.memory)
        for tool in ("memcheck", "racecheck"):
            self.part(f"compute-sanitizer {tool}", self.sanitizer, tool)
    shutil.rmtree(self.scratch)
    counts = {s: sum(r["status"] == s for r in self.rows)
              for s in ("PASS", "FAIL", "SKIP")}
    print("{PASS} passed, {FAIL} failed, {SKIP} skipped".format(**counts))
    sys.exit(1 if counts["FAIL"] else 0)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verb = parser.add_subparsers(required=True, metavar="run").add_parser("run")
    verb.add_argument("--seconds", type=float, default=540)
    only = verb.add_mutually_exclusive_group()
    only.add_argument("--proof", action="store_true")
    only.add_argument("--speed", action="store_true")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
