"""Which of your records are alike, and why: `python examples/mbat.py records.jsonl`; without a file, FHIR patients."""

import sys

import numpy as np

from linmap.data import EMBEDDED
from linmap.data.records import read_records
from linmap.retrieve.mbat import JSONVectorizer

source = sys.argv[1] if len(sys.argv) > 1 else EMBEDDED / "fhir_patients.jsonl"
records = list(read_records(source))

vectorizer = JSONVectorizer(arrays="both", ignore=["**.id"], n_jobs=2)
vectors = vectorizer.transform([record.document for record in records])
print(f"{len(records)} records, {len(vectorizer.get_feature_paths([records[0].document]))} paths in the first")

cosines = vectors @ vectors.T
np.fill_diagonal(cosines, -1)
first, second = np.unravel_index(cosines.argmax(), cosines.shape)
breakdown = vectorizer.similarity_breakdown(records[first].document, records[second].document)

print(f"the two most alike are {records[first].id} and {records[second].id}, cosine {breakdown.cosine:.3f}:")
for path, share, left, right in breakdown.contributions[:8]:
    print(f"  {share:+.3f}  {path}: {str(left)[:40]} and {str(right)[:40]}")
print(f"  {breakdown.crosstalk:+.3f}  crosstalk")
