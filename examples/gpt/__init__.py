"""A byte-level GPT and its parallel training step: the model of the main job."""
