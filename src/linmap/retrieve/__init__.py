"""Search with vectors: turn JSON into vectors, upgrade an embedder without re-indexing."""
