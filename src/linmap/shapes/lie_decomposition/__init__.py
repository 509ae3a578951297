"""Lie group decompositions: convolutions over SL(2), GL+(2) and SO(2) with affine feature maps."""
