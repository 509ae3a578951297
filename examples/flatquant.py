"""Quantise a language model to 4 bits: `python examples/flatquant.py [FOLDER text.txt]`; else SmolLM2 and a novel.

Only the first two blocks are quantised, so that it takes a minute on two cores; leave `blocks` out for all.
"""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from linmap.compress.flatquant import FlatQuantConfig, calibrate, in_format, perplexity
from linmap.data import EMBEDDED
from linmap.data.pretrained import bundled_model
from linmap.data.text import read_text

folder = sys.argv[1] if len(sys.argv) > 1 else bundled_model("smollm2-135m")
file = sys.argv[2] if len(sys.argv) > 2 else EMBEDDED / "austen_calib.txt.gz"

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
ids = torch.tensor(tokenizer(read_text(file), add_special_tokens=False, verbose=False)["input_ids"])
calibration, held_out = ids[:-1024], ids[-1024:]
before = perplexity(model, held_out, window=512)

config = FlatQuantConfig(
    w_bits=4,
    a_bits=4,
    k_bits=4,
    v_bits=4,
    weights="gptq",
    n_samples=16,
    sequence_length=128,
    epochs=4,
    blocks=[0, 1],
)
calibrate(model, calibration, config)
print(f"perplexity {before:.2f} before, {perplexity(model, held_out, window=512):.2f} after")

in_format(model, torch.bfloat16).save_pretrained("quantised")  # embeddings and other blocks in half of float32
tokenizer.save_pretrained("quantised")
again = AutoModelForCausalLM.from_pretrained("quantised")  # a fresh process needs `import linmap` first
prompt = tokenizer("It is a truth universally acknowledged,", return_tensors="pt")
print(tokenizer.decode(again.generate(**prompt, max_new_tokens=20, do_sample=False)[0]))
print("left in this folder: quantised/ (260 MB for SmolLM2), which from_pretrained reads")
