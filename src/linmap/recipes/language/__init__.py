"""Language models on files: where they come from, what they answer, and the folders that are left behind."""
