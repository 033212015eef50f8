"""Opens a checkpoint folder as any Hugging Face folder, with transformers:

    logits_of_checkpoint.py CHECKPOINT TOKENS.npy LOGITS.npy
"""

import sys

import numpy
import torch
from transformers import AutoModelForCausalLM

checkpoint, tokens, logits = sys.argv[1:]
model, told = AutoModelForCausalLM.from_pretrained(
    checkpoint, output_loading_info=True, attn_implementation="eager")
for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    if told[kind]:
        sys.exit(f"{kind}: {sorted(told[kind])}")
model.eval()
with torch.no_grad():
    out = model(torch.from_numpy(numpy.load(tokens)).long()).logits
numpy.save(logits, out.float().numpy())
