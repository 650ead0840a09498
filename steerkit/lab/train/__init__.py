"""Trains SAEs on a model's activations."""
