#!/usr/bin/env python3
"""Write the numeric goldens: small models and what PyTorch says about them.

Needs torch, transformers, safetensors and numpy. The tests never run this
file: they read the archives it leaves beside itself. Run it again only to add
a configuration or to change what a golden holds:

    python3 test/goldens/make_goldens.py                 # all archives
    python3 test/goldens/make_goldens.py --only gpt2-1 --unpacked DIR
    python3 test/goldens/make_goldens.py --random SEED --unpacked DIR

The last makes a configuration nobody chose, live-SEED, as a folder only: the
live test, where the packages are present.

Each configuration becomes <name>.tar.zst with a folder <name>/ in it:

    config.json            Hugging Face's, so the folder goes to `lmc compile`
    model.safetensors      float32 weights, every one random: biases and norm
                           weights too; each value fits bfloat16, which halves
                           the archive and loses nothing
    data.bin               tokens of `steps` training steps in llm.c's format;
                           sample i is tokens [i*T, i*T + T + 1)
    tokens.npy             int32 [B, T+1], the samples of the first step
    input.npy              int32 [B, T], tokens.npy without its last column
    logits.npy             float32 [B, T, V] for input.npy
    gradients.safetensors  float32, of the mean loss over B*T targets, under
                           the names of the Hugging Face model; a tied head
                           appears once, under the embedding's name
    expected.json          the loss, the losses and gradient norms of the
                           AdamW steps, and every setting they depend on

All mathematics is done in float64 on the float32 weights and rounded once, at
the end. transformers widens to float32 by name in several places (norms,
softmax, rotary tables), which in a float64 model narrows; Float64Mode turns
each of these into float64.
"""

import argparse
import io
import json
import os
import subprocess
import tarfile
import zlib

import numpy as np
import torch
import transformers
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

HERE = os.path.dirname(os.path.abspath(__file__))

ADAMW = {
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "schedule": "constant",
}
STEPS = 20
BATCH = 2


def gpt2(**changes):
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    config.update(changes)
    return config


def gptj(**changes):
    config = {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    config.update(changes)
    return config


def llama(**changes):
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    config.update(changes)
    return config


# name -> (sequence length, config, whether the weights' names lack the
# "transformer." prefix, as the files of the original GPT-2 do). The comment
# says what a configuration is there for.
CONFIGURATIONS = {
    # The plain case: tied head, GELU by tanh, T = n_positions.
    "gpt2-1": (32, gpt2(n_embd=64, n_layer=2, n_head=4, vocab_size=211,
                        n_positions=32), False),
    # Nothing a multiple of 16: odd vocabulary, T < n_positions, head dim 12,
    # an FFN that is not 4D, a large epsilon, names without prefix.
    "gpt2-2": (23, gpt2(n_embd=36, n_layer=3, n_head=3, vocab_size=101,
                        n_positions=40, n_inner=100,
                        layer_norm_epsilon=1e-3), True),
    # Untied head, GELU by erf, one head.
    "gpt2-3": (48, gpt2(n_embd=32, n_layer=2, n_head=1, vocab_size=300,
                        n_positions=48, activation_function="gelu",
                        tie_word_embeddings=False), False),
    # Rotary positions on half of each head.
    "gptj-1": (32, gptj(n_embd=64, n_layer=2, n_head=4, rotary_dim=8,
                        n_inner=128, vocab_size=157, n_positions=32), False),
    # Odd T below n_positions, head dim 24, FFN 4D by default, a tied head that
    # has a bias all the same.
    "gptj-2": (17, gptj(n_embd=48, n_layer=2, n_head=2, rotary_dim=4,
                        vocab_size=101, n_positions=64,
                        tie_word_embeddings=True,
                        layer_norm_epsilon=1e-3), False),
    # Rotary positions on whole heads of 8, five heads, GELU by erf.
    "gptj-3": (45, gptj(n_embd=40, n_layer=3, n_head=5, rotary_dim=8,
                        n_inner=72, vocab_size=299, n_positions=48,
                        activation_function="gelu"), False),
    # Three query heads for each of two key/value heads.
    "llama-1": (32, llama(hidden_size=96, num_hidden_layers=2,
                          num_attention_heads=6, num_key_value_heads=2,
                          intermediate_size=80, vocab_size=67,
                          max_position_embeddings=64), False),
    # One key/value head, tied head, Llama-3's scaling with one frequency in
    # each of its three bands.
    "llama-2": (41, llama(hidden_size=48, num_hidden_layers=2,
                          num_attention_heads=6, num_key_value_heads=1,
                          intermediate_size=80, vocab_size=211,
                          max_position_embeddings=256,
                          rms_norm_eps=1e-6, rope_theta=500.0,
                          rope_scaling={
                              "rope_type": "llama3",
                              "factor": 8.0,
                              "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 32,
                          }, tie_word_embeddings=True), False),
    # Biases everywhere, a head dim that is not D/H, rotary settings in the
    # newer form of config.json.
    "llama-3": (47, llama(hidden_size=42, num_hidden_layers=3,
                          num_attention_heads=3, num_key_value_heads=3,
                          head_dim=20, intermediate_size=72, vocab_size=101,
                          max_position_embeddings=48, attention_bias=True,
                          mlp_bias=True,
                          rope_parameters={"rope_type": "default",
                                           "rope_theta": 1000.0}), False),
}
# In the newer form the older keys are not there at all.
for _key in ("rope_theta", "rope_scaling"):
    del CONFIGURATIONS["llama-3"][1][_key]


# Where another clipping norm than ADAMW's makes a better test: never reached,
# or reached in some of the steps.
CLIP_NORMS = {"gpt2-3": 100.0, "gptj-3": 2.0, "llama-2": 7.0}


class Float64Mode(TorchFunctionMode):
    """Turns every float32 asked for by name into float64, and asserts that no
    operation returned float32 all the same."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def widen(value):
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        kwargs = {k: widen(v) for k, v in (kwargs or {}).items()}
        result = func(*(widen(a) for a in args), **kwargs)
        if isinstance(result, torch.Tensor):
            assert result.dtype is not torch.float32, func
        return result


def build_model(config):
    """The model in eager attention, without dropout, in the default dtype."""
    cls = transformers.AutoConfig.for_model(config["model_type"])
    parsed = type(cls).from_dict(dict(config))
    parsed._attn_implementation = "eager"
    parsed.dtype = torch.get_default_dtype()
    model = getattr(transformers, config["architectures"][0])(parsed)
    return model.to(torch.get_default_dtype()).train()


def random_weights(model, width, generator):
    """Fills every parameter with values that bfloat16 holds exactly."""
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator,
                            dtype=torch.float64)
        if parameter.ndim == 1:
            isNorm = name.endswith("weight")
            value = (1.0 if isNorm else 0.0) + 0.2 * noise
        elif "wte" in name or "wpe" in name or "embed" in name:
            value = 0.3 * noise
        else:
            value = 1.2 / np.sqrt(width) * noise
        value = value.to(torch.bfloat16)
        with torch.no_grad():
            parameter.copy_(value.to(parameter.dtype))


def markov_tokens(count, vocab, rng):
    """A stream with something to learn: each token has four likely followers."""
    followers = rng.integers(0, vocab, size=(vocab, 4))
    tokens = np.zeros(count, dtype=np.int32)
    tokens[0] = rng.integers(0, vocab)
    for i in range(1, count):
        if rng.random() < 0.8:
            tokens[i] = followers[tokens[i - 1], rng.integers(0, 4)]
        else:
            tokens[i] = rng.integers(0, vocab)
    tokens[1] = vocab - 1  # the last id is read and predicted
    return tokens


def batches(stream, T, dtype=torch.int64):
    count = (len(stream) - 1) // T
    rows = np.stack([stream[i * T:i * T + T + 1] for i in range(count)])
    return torch.from_numpy(rows).to(dtype).reshape(-1, BATCH, T + 1)


def loss_of(model, tokens):
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten())
    return logits, loss


def train(model, data, adamw):
    """The AdamW steps, written out; decay only on tensors of 2 or more dims."""
    parameters = dict(model.named_parameters())
    m = {n: torch.zeros_like(p) for n, p in parameters.items()}
    v = {n: torch.zeros_like(p) for n, p in parameters.items()}
    losses, norms = [], []
    for step, tokens in enumerate(data, start=1):
        model.zero_grad(set_to_none=True)
        _, loss = loss_of(model, tokens)
        loss.backward()
        losses.append(float(loss.detach()))
        norm = float(torch.sqrt(sum((p.grad.double()**2).sum()
                                    for p in parameters.values())))
        norms.append(norm)
        scale = min(1.0, adamw["clip_norm"] / norm)
        with torch.no_grad():
            for name, p in parameters.items():
                g = p.grad * scale
                m[name].mul_(adamw["beta1"]).add_(g, alpha=1 - adamw["beta1"])
                v[name].mul_(adamw["beta2"]).addcmul_(
                    g, g, value=1 - adamw["beta2"])
                mHat = m[name] / (1 - adamw["beta1"]**step)
                vHat = v[name] / (1 - adamw["beta2"]**step)
                if p.ndim >= 2:
                    p.mul_(1 - adamw["lr"] * adamw["weight_decay"])
                p.sub_(adamw["lr"] * mHat / (vHat.sqrt() + adamw["eps"]))
    return losses, norms


def npy(array):
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array))
    return out.getvalue()


def llmc_data(stream):
    header = np.zeros(256, dtype=np.int32)
    header[:3] = [20240520, 1, len(stream)]
    return header.tobytes() + stream.astype(np.uint16).tobytes()


def make(name, T, config, noPrefix):
    seed = zlib.crc32(name.encode())
    rng = np.random.default_rng(seed)
    stream = markov_tokens(STEPS * BATCH * T + 1, config["vocab_size"], rng)
    data = batches(stream, T)
    adamw = dict(ADAMW, clip_norm=CLIP_NORMS.get(name, ADAMW["clip_norm"]))

    torch.set_default_dtype(torch.float64)
    with Float64Mode():
        model = build_model(config)
        random_weights(model, config.get("n_embd") or config["hidden_size"],
                       torch.Generator().manual_seed(seed))
        weights = {n: p.detach().to(torch.float64).clone()
                   for n, p in model.named_parameters()}
        logits, loss = loss_of(model, data[0])
        assert logits.dtype is torch.float64 and loss.dtype is torch.float64
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
        losses, norms = train(model, data, adamw)

    # The same in plain float32 shows how much of each tolerance a sound
    # float32 implementation needs.
    torch.set_default_dtype(torch.float32)
    narrow = build_model(config)
    with torch.no_grad():
        for n, p in narrow.named_parameters():
            p.copy_(weights[n])
    logits32, loss32 = loss_of(narrow, data[0])
    loss32.backward()
    total = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    worst = max(
        float((p.grad.double() - gradients[n]).norm() /
              (1e-4 * gradients[n].norm() + 1e-7 * total))
        for n, p in narrow.named_parameters())
    losses32, _ = train(narrow, data, adamw)
    drift = max(abs(a - b) / b for a, b in zip(losses32, losses))

    def narrowed(tensors, strip=False):
        return {(n.removeprefix("transformer.") if strip else n):
                t.detach().to(torch.float32).contiguous()
                for n, t in tensors.items()}

    # The plain float64 tensors: Float64Mode is off here.
    expected = {
        "sequence_length": T,
        "batch": BATCH,
        "steps": STEPS,
        "adamw": adamw,
        "adamw_note":
            "p *= 1 - lr*weight_decay for the parameters under `decayed`; "
            "then p -= lr * mHat / (sqrt(vHat) + eps); gradients scaled by "
            "min(1, clip_norm / global norm) before",
        "decayed": sorted(n for n, t in weights.items() if t.ndim >= 2),
        "not_decayed": sorted(n for n, t in weights.items() if t.ndim < 2),
        "loss": float(loss.detach()),
        "losses": losses,
        "gradient_norms": norms,
        "float32_needs": {
            "largest_logit_error":
                float((logits32.double() - logits).abs().max().detach()),
            "gradient_error_over_tolerance": worst,
            "largest_relative_loss_error": drift,
        },
        "made_with": {"torch": torch.__version__.split("+")[0],
                      "transformers": transformers.__version__,
                      "seed": seed},
    }
    tokens = data[0].to(torch.int32).numpy()
    files = {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": save(narrowed(weights, noPrefix),
                                  metadata={"format": "pt"}),
        "data.bin": llmc_data(stream),
        "tokens.npy": npy(tokens),
        "input.npy": npy(tokens[:, :-1]),
        "logits.npy": npy(logits.detach().numpy().astype(np.float32)),
        "gradients.safetensors": save(narrowed(gradients)),
        "expected.json": (json.dumps(expected, indent=1) + "\n").encode(),
    }
    print(f"{name}: {sum(t.numel() for t in weights.values())} parameters, "
          f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, "
          f"norms {min(norms):.2f}..{max(norms):.2f}; plain float32 needs "
          f"{expected['float32_needs']['largest_logit_error']:.1e} in a logit, "
          f"{worst:.1%} of the gradients' tolerance, {drift:.1e} of a loss")
    return files


def random_configuration(seed):
    """A small configuration drawn from what the product supports."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    T = int(rng.integers(5, 50))
    heads, layers = pick(1, 2, 3, 4, 6), pick(1, 2, 3)
    headDim = pick(4, 8, 10, 16, 24)
    vocab = int(rng.integers(50, 400))
    common = {"vocab_size": vocab}
    family = pick("gpt2", "gptj", "llama")
    if family == "llama":
        groups = pick(*(g for g in (1, 2, 3, 4, 6) if heads % g == 0))
        config = llama(
            hidden_size=heads * pick(headDim, headDim + 2),
            head_dim=headDim, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=groups,
            intermediate_size=int(rng.integers(8, 120)),
            max_position_embeddings=T + pick(0, 9),
            attention_bias=pick(True, False), mlp_bias=pick(True, False),
            tie_word_embeddings=pick(True, False), rms_norm_eps=pick(1e-5, 1e-6),
            rope_theta=pick(100.0, 10000.0), rope_scaling=pick(None, {
                "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16}), **common)
        return T, config, False
    shape = dict(n_embd=heads * headDim, n_layer=layers, n_head=heads,
                 n_positions=T + pick(0, 7), n_inner=pick(None, 44),
                 layer_norm_epsilon=pick(1e-5, 1e-3),
                 activation_function=pick("gelu_new", "gelu"),
                 tie_word_embeddings=pick(True, False), **common)
    if family == "gptj":
        return T, gptj(rotary_dim=pick(2, 4, headDim), **shape), False
    return T, gpt2(**shape), pick(True, False)


def write_folder(parent, name, files):
    folder = os.path.join(parent, name)
    os.makedirs(folder, exist_ok=True)
    for file, content in files.items():
        with open(os.path.join(folder, file), "wb") as out:
            out.write(content)


def write_archive(name, files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{name}/{file}")
            info.size = len(content)
            info.mode = 0o644
            t.addfile(info, io.BytesIO(content))
    path = os.path.join(HERE, f"{name}.tar.zst")
    with open(path, "wb") as out:
        subprocess.run(["zstd", "--ultra", "-22", "-q", "-c"],
                       input=buffer.getvalue(), stdout=out, check=True)
    print(f"  {name}.tar.zst: {os.path.getsize(path)} bytes")
    return os.path.getsize(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", help="one configuration by name")
    parser.add_argument("--unpacked", metavar="DIR",
                        help="also write the folders, uncompressed, under DIR")
    parser.add_argument("--random", metavar="SEED", type=int,
                        help="make live-SEED instead, unpacked only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, whatever the machine has
    torch.use_deterministic_algorithms(True)
    if arguments.random is not None:
        if not arguments.unpacked:
            parser.error("--random needs --unpacked")
        name = f"live-{arguments.random}"
        T, config, noPrefix = random_configuration(arguments.random)
        write_folder(arguments.unpacked, name, make(name, T, config, noPrefix))
        return
    total = 0
    for name, (T, config, noPrefix) in CONFIGURATIONS.items():
        if arguments.only and name != arguments.only:
            continue
        files = make(name, T, config, noPrefix)
        total += write_archive(name, files)
        if arguments.unpacked:
            write_folder(arguments.unpacked, name, files)
    print(f"total: {total} bytes")


if __name__ == "__main__":
    main()
