"""Policies as plans: which features are read and edited at which layer, and whether they can be."""
