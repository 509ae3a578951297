"""Fine-tune a pretrained model with few trainable parameters."""
