"""One SAE in training: its weights, its optimizer and what is known of its dead features."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from steerkit.lab.train.gradients import Measured, Weights, gradients
from steerkit.lab.train.recipe import Recipe

_FIRST_THRESHOLD: Final = 0.1  # in units of the activations' root mean square
_MOST_SHARE: Final = 0.25  # of the encoder's usual length, for a feature that starts again


class Workspace:
    """Gradients and low-precision copies of the weights, shared by learners of one shape that step in turn."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self.gradients = Weights(*(torch.zeros_like(part) for part in weights))
        self._copies = None if dtype == torch.float32 else Weights(*(part.to(dtype) for part in weights))

    def products(self, weights: Weights) -> Weights:
        """The weights in the dtype of the products; valid until the next call."""
        if self._copies is None:
            return weights
        torch._foreach_copy_(list(self._copies), list(weights))
        return self._copies


class Learner:
    """Trains the SAE of one layer by one recipe.

    The encoder starts as the transpose of random unit directions, and `b_dec` at the mean of the first activations. All
    of it depends on the seed, the layer's activations and nothing else.
    """

    def __init__(self, first: Tensor, recipe: Recipe, seed: int) -> None:
        """`first` `(tokens, d_in)`: activations to take the mean and the scale from."""
        self.recipe = recipe
        values = first.float().clamp(-recipe.clip, recipe.clip)
        self.scale = float(values.square().mean().sqrt().clamp(min=1e-6)) if recipe.scales else 1.0
        mean = values.mean(0) / self.scale
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(recipe.d_sae, values.shape[1], generator=generator)
        directions = (directions / directions.norm(dim=1, keepdim=True)).to(first.device)
        encoder = directions.T.contiguous()
        logs = torch.full((recipe.d_sae if recipe.kind == "jumprelu" else 0,), _FIRST_THRESHOLD).log().to(first.device)
        self.weights = Weights(encoder, -(mean @ encoder), directions, mean, logs)
        self.silent = torch.zeros(recipe.d_sae, dtype=torch.long, device=first.device)
        """Tokens since each feature last fired."""
        self._generator = torch.Generator().manual_seed(seed + 1)
        self._optimizer = torch.optim.AdamW(
            [part for part in self.weights if part.numel()], lr=recipe.rate, weight_decay=0.0, fused=True
        )

    def step(self, x: Tensor, space: Workspace) -> Measured:
        """One step on activations `x` `(T, d_in)`, raw; returns its measures in the activations' own units."""
        recipe = self.recipe
        scaled = x.float().clamp_(-recipe.clip, recipe.clip) if x.dtype != torch.float32 else self._clipped(x)
        scaled = scaled.div_(self.scale) if recipe.scales else scaled
        found = gradients(self.weights, space.products(self.weights), scaled, recipe, self._dead(), space.gradients)
        self._apply(space.gradients)
        if recipe.scales:
            self._after(found, len(x))
        square = self.scale**2
        return Measured(found.loss * square, found.mse * square, found.l0, found.active)

    def rescale(self) -> Weights:
        """The weights for raw activations: since `relu(s · z) = s · relu(z)`, only biases and thresholds change."""
        W_enc, b_enc, W_dec, b_dec, logs = (part.detach().clone() for part in self.weights)
        lengths = W_dec.norm(dim=1).clamp(min=1e-12) if self.recipe.kind == "normalised" else torch.ones_like(b_enc)
        W_dec /= lengths.unsqueeze(1)
        return Weights(W_enc * lengths, b_enc * lengths * self.scale, W_dec, b_dec * self.scale, logs)

    def thresholds(self) -> Tensor | None:
        """`(d_sae,)` JumpReLU thresholds for raw activations; None in other recipes."""
        return self.weights.log_threshold.exp() * self.scale if self.recipe.kind == "jumprelu" else None

    def restart_dead(self, x: Tensor) -> int:
        """Start dead features again on tokens of `x` `(T, d_in)` that are explained badly; returns how many."""
        dead = (self.silent >= self.recipe.dead_after).nonzero().squeeze(-1)
        if self.recipe.kind != "normalised" or not len(dead):
            return 0
        z = self._clipped(x.float()) / self.scale
        W_enc, b_enc, W_dec, b_dec, _ = self.weights
        left = z - torch.addmm(b_dec, torch.addmm(b_enc, z, W_enc).relu_(), W_dec)
        chances = left.square().sum(1).square().cpu()
        rows = torch.multinomial(chances, len(dead), replacement=True, generator=self._generator).to(x.device)
        directions = left[rows] / left[rows].norm(dim=1, keepdim=True).clamp(min=1e-12)
        alive = W_enc.norm(dim=0)[self.silent < self.recipe.dead_after]
        usual = alive.mean() if len(alive) else W_enc.new_ones(())
        W_dec[dead] = directions
        W_enc[:, dead] = _MOST_SHARE * usual * directions.T
        b_enc[dead] = -_MOST_SHARE * usual * (directions @ b_dec)
        self._forget(dead)
        return len(dead)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "weights": dict(zip(Weights._fields, self.weights, strict=True)),
            "optimizer": self._optimizer.state_dict(),
            "scale": self.scale,
            "silent": self.silent,
            "generator": self._generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name, part in zip(Weights._fields, self.weights, strict=True):
            part.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.scale = state["scale"]
        self.silent.copy_(state["silent"])
        self._generator.set_state(state["generator"])

    def _clipped(self, x: Tensor) -> Tensor:
        return x.clamp(-self.recipe.clip, self.recipe.clip)

    def _dead(self) -> Tensor:
        if self.recipe.kind not in ("topk", "jumprelu"):
            return self.silent[:0]
        return (self.silent >= self.recipe.dead_after).nonzero().squeeze(-1)

    def _apply(self, found: Weights) -> None:
        """Clip the gradient to its largest norm, and update. The optimizer divides: no pass over the gradients more."""
        parts = [part for part in found if part.numel()]
        for weight, part in zip((w for w in self.weights if w.numel()), parts, strict=True):
            weight.grad = part
        norm = torch.nn.utils.get_total_norm(parts)
        torch.nn.utils.clip_grads_with_norm_((w for w in self.weights if w.numel()), self.recipe.max_norm, norm)
        self._optimizer.step()
        for weight in self.weights:
            weight.grad = None

    def _after(self, found: Measured, count: int) -> None:
        """Count silence, and keep decoder rows at length 1 where the recipe does."""
        if found.active is not None:
            self.silent += count
            self.silent[found.active] = 0
        if self.recipe.kind in ("topk", "jumprelu"):
            W_dec = self.weights.W_dec
            W_dec.div_(W_dec.norm(dim=1, keepdim=True).clamp_(min=1e-12))

    def _forget(self, features: Tensor) -> None:
        """Features that start again have no past: no moments, no silence."""
        self.silent[features] = 0
        for weight, dim in ((self.weights.W_enc, 1), (self.weights.b_enc, 0), (self.weights.W_dec, 0)):
            for name in ("exp_avg", "exp_avg_sq"):
                self._optimizer.state[weight][name].index_fill_(dim, features, 0)
