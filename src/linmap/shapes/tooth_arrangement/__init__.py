"""Tooth arrangement: a diffusion over rigid motions of the teeth (TADPM)."""
