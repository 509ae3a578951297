"""The spaces that the matrices live in."""
