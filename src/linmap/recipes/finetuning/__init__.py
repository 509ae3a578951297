"""Fine-tuning on the user's own texts, once for all methods of the room `adapt`."""
