"""Makes the model in the box and its SAEs, and measures it."""
