"""Make a pretrained model smaller or faster."""
