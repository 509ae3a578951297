"""Speed and memory of linmap beside its peers; `python -m benchmarks [NAME ...]` writes RESULTS.md."""
