"""Fine-tune a language model with Bone: `python examples/bone.py [FOLDER file.jsonl]`; without them, SmolLM2 on GSM8K.

A line of the file has a "prompt" and its "completion", or a "question" and its "answer". The loop is plain PyTorch and
takes a minute on two cores. With LoraConfig in the place of BoneConfig it trains a LoRA.
"""

import sys

import torch
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from linmap.adapt import BoneConfig
from linmap.data import EMBEDDED
from linmap.data.pretrained import bundled_model
from linmap.data.text import read_training_texts
from linmap.data.tokens import LanguageData, document_of

folder = sys.argv[1] if len(sys.argv) > 1 else bundled_model("smollm2-135m")
file = sys.argv[2] if len(sys.argv) > 2 else EMBEDDED / "gsm8k_train2000.jsonl.gz"

tokenizer = AutoTokenizer.from_pretrained(folder)
records = read_training_texts(file, "language").records
data = LanguageData([document_of(record, tokenizer) for record in records], max_length=160)

torch.manual_seed(0)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16),  # the adapters stay in float32
    BoneConfig(r=48, mode="bat-row", target_modules=["q_proj", "v_proj"]),
)
model.print_trainable_parameters()

trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
loader = DataLoader(data, batch_size=2, shuffle=True, collate_fn=lambda batch: batch)  # batches come ready
for step, batch in zip(range(1, 31), loader, strict=False):
    loss = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss  # on the answers only
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

model.save_pretrained("adapter")  # safetensors; PeftModel.from_pretrained loads it
model.merge_and_unload().save_pretrained("merged")  # a plain model folder
print("left in this folder: adapter/ (2 MB) and merged/ (the whole model, 270 MB for SmolLM2)")
