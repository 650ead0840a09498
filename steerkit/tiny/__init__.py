"""The model in the box: what it is made for, and how it is made."""
