#!/usr/bin/env python3
"""The peer of `lmrun train`: PyTorch training GPT-2 in float32.

Needs torch and transformers. One step is what ours is: forward, mean loss,
backward, clipping by global norm, AdamW with decay on tensors of two or more
dims. It gets its best setting: eager and torch.compile, the fused or the
foreach AdamW, attention without a T x T tensor, denormals flushed.

    python3 test/bench/pytorch_gpt2.py --threads 2 [--device cuda [--tf32]]

prints one JSON object per variant (tokens_per_second is the median over steps
behind the warm-up) and a last one, {"best": …}. To alternate with another
program in one run, as numbers that are to be compared need,

    python3 test/bench/pytorch_gpt2.py --threads 2 --variant compile-fused --interactive

prints {"ready": true} once warm, then runs --steps steps and prints their JSON
for every line it reads.
"""

import argparse
import json
import os
import statistics
import sys
import time

VARIANTS = ("eager-foreach", "eager-fused", "compile-foreach", "compile-fused")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    number = dict(type=int, metavar="N")
    parser.add_argument("--threads", default=2, **number,
                        help="threads, each pinned to one of as many CPUs")
    parser.add_argument("--cpus", help="which, as 0,1; by default the first")
    parser.add_argument("--batch", default=4, **number)
    parser.add_argument("--seq", default=256, **number)
    parser.add_argument("--steps", default=10, **number, help="timed steps")
    parser.add_argument("--warmup", default=3, **number)
    parser.add_argument("--layers", default=12, **number)
    parser.add_argument("--heads", default=12, **number)
    parser.add_argument("--width", default=768, **number)
    parser.add_argument("--vocabulary", default=50257, **number)
    parser.add_argument("--dropout", default=0.0, type=float)
    parser.add_argument("--lr", default=3e-4, type=float)
    parser.add_argument("--seed", default=1, **number)
    parser.add_argument("--weights", metavar="DIR",
                        help="a Hugging Face folder to start from")
    parser.add_argument("--data", metavar="FILE",
                        help="tokens in llm.c's format; random ones by default")
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tf32", action="store_true",
                        help="products in TF32; a GPU alone has it")
    parser.add_argument("--interactive", action="store_true")
    return parser.parse_args()


def batches(options, torch):
    """Endless [B, T+1]: sample i is tokens [i*T, i*T + T + 1)."""
    import numpy as np
    B, T = options.batch, options.seq
    if options.data:
        header = np.fromfile(options.data, dtype=np.int32, count=256)
        dtype = {20240520: np.uint16, 20240801: np.uint32}[int(header[0])]
        tokens = np.fromfile(options.data, dtype=dtype, offset=1024)
    else:
        tokens = np.random.default_rng(options.seed).integers(
            0, options.vocabulary, size=64 * B * T + 1)
    samples = (len(tokens) - 1) // T
    i = 0
    while True:
        rows = [tokens[(j % samples) * T:(j % samples) * T + T + 1]
                for j in range(i, i + B)]
        yield torch.from_numpy(np.stack(rows).astype(np.int64))
        i += B


class Trainer:
    def __init__(self, options, variant, torch):
        import transformers
        torch.manual_seed(options.seed)
        if options.weights:
            model = transformers.GPT2LMHeadModel.from_pretrained(
                options.weights, attn_implementation="sdpa",
                dtype=torch.float32)
        else:
            config = transformers.GPT2Config(
                n_layer=options.layers, n_head=options.heads,
                n_embd=options.width, vocab_size=options.vocabulary,
                n_positions=max(1024, options.seq),
                embd_pdrop=options.dropout, resid_pdrop=options.dropout,
                attn_pdrop=options.dropout, bos_token_id=0, eos_token_id=0)
            config._attn_implementation = "sdpa"
            model = transformers.GPT2LMHeadModel(config)
        model.to(options.device)
        self.torch, self.device = torch, options.device
        self.parameters = list(model.train().parameters())
        how = variant.split("-")[1]
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in self.parameters if p.ndim >= 2],
              "weight_decay": 0.1},
             {"params": [p for p in self.parameters if p.ndim < 2],
              "weight_decay": 0.0}],
            lr=options.lr, betas=(0.9, 0.95), eps=1e-8, **{how: True})

        def loss(tokens):
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            return torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), tokens[:, 1:].flatten())

        self.loss = torch.compile(loss) if "compile" in variant else loss
        self.data = batches(options, torch)
        self.tokens_per_step = options.batch * options.seq
        self.variant = variant

    def run(self, steps):
        seconds, losses = [], []
        for _ in range(steps):
            tokens = next(self.data)
            start = time.perf_counter()
            tokens = tokens.to(self.device)
            loss = self.loss(tokens)
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            if self.device == "cuda":
                self.torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        median = statistics.median(seconds)
        return {"variant": self.variant,
                "tokens_per_second": round(self.tokens_per_step / median, 2),
                "step_ms": round(median * 1e3, 3),
                "step_ms_least": round(min(seconds) * 1e3, 3),
                "step_ms_most": round(max(seconds) * 1e3, 3),
                "losses": losses}


def main():
    options = parse()
    allowed = sorted(os.sched_getaffinity(0))
    cpus = ([int(c) for c in options.cpus.split(",")] if options.cpus
            else allowed[:options.threads])
    if len(cpus) != options.threads or not set(cpus) <= set(allowed):
        sys.exit(f"error: {options.threads} threads need as many of the CPUs "
                 f"{allowed}, got {cpus}")
    os.sched_setaffinity(0, cpus)
    # Read when OpenMP starts, so before torch is imported.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_PROC_BIND", "true")
    import torch
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")

    variants = options.variant or VARIANTS
    results = []
    for variant in variants:
        trainer = Trainer(options, variant, torch)
        trainer.run(options.warmup)
        if options.interactive:
            print(json.dumps({"ready": True, "variant": variant}), flush=True)
            for _ in sys.stdin:
                print(json.dumps(trainer.run(options.steps)), flush=True)
            return
        results.append(trainer.run(options.steps))
        results[-1]["torch"] = torch.__version__
        results[-1]["threads"] = options.threads
        print(json.dumps(results[-1]), flush=True)
        del trainer
        torch.compiler.reset()
    best = max(results, key=lambda r: r["tokens_per_second"])
    print(json.dumps({"best": best["variant"],
                      "tokens_per_second": best["tokens_per_second"]}))


if __name__ == "__main__":
    main()
