"""The box's world: its tools, scenes, phrasings and values, and conversations made of them."""
