"""A language model read at one text: who added what to the next token, in which words, and layer by layer."""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from linmap.data.pretrained import bundled_model
from linmap.interpret.linearscope import LinearScope

TEXT = "Berlin is the capital of Germany, Rome is the capital of Italy, and the capital of France is"

folder = sys.argv[1] if len(sys.argv) > 1 else bundled_model("smollm2-135m")
model = AutoModelForCausalLM.from_pretrained(folder).float().eval().requires_grad_(False)
tokenizer = AutoTokenizer.from_pretrained(folder)

reading = LinearScope(model).text(TEXT, tokenizer)  # y = F x + r, exact at this text
print(f"F x + r equals the model to {reading.interp.exactness():.1e}")
print("next:", ", ".join(f"{p.token.word} {p.probability:.0%}" for p in reading.predictions(5)))

found = reading.contributions()  # they and the residual add up to the logit
print(f"\nlogit of {found.target.word}: {found.value:.2f} = {found.values.sum():.2f} + {found.residual:.2f}")
for token, value in zip(reading.tokens, found.values, strict=True):
    print(f"  {token.word:12s} {value:+.2f}")

print("\nwhat the last token's operator writes, strongest first:")
for direction in reading.directions(position=-1, k=3, words=6):
    words = ", ".join(token.word for token in direction.writes)
    print(f"  gain {direction.gain:.1f}: {words}")

lens = reading.lens(positions=1)
print("\nlayer: carried through the frozen rest | logit lens")
for layer in range(0, len(lens.logit.tokens), 5):
    print(f"  {layer:2d}: {lens.carried.tokens[layer][0].word:14s} | {lens.logit.tokens[layer][0].word}")
