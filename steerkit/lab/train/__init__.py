"""Trains SAEs on a model's activations."""

from steerkit.lab.train.pipeline import Output, train_set
from steerkit.lab.train.recipe import Recipe, recipe, saved_dtype
from steerkit.lab.train.trainer import Beat

__all__ = ["Beat", "Output", "Recipe", "recipe", "saved_dtype", "train_set"]
