"""The tuning of the base: AdamW on adapters and rows over packs of trees. It goes on where it was stopped."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lora import Adapter, Student, Vocabulary
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trees import Pack, Read, laid_out, packs

from steerkit.errors import ModelError

TOKENS_A_MINUTE: Final = 11_000
"""Tokens that one core of a recent server CPU tunes a minute in bfloat16; `--minutes` is counted in these."""


@dataclass(frozen=True)
class Recipe:
    """The choices of one tuning. Steps are counted in tokens, never in time: the same seed gives the same adapter."""

    tokens: int = 60 * TOKENS_A_MINUTE
    """Tokens read in all."""
    seed: int = 0
    rank: int = 16
    rate: float = 8e-4
    """Learning rate of the low-rank matrices at its highest."""
    row_rate: float = 2e-3
    """Of the control tokens' embeddings."""
    pack: int = 576
    """Tokens read at once, about."""
    step: int = 560
    """Tokens of one update at least."""
    longest: int = 480
    """Tokens of a conversation at most; a longer one is left out. The model's window is 512."""
    warmup: float = 0.03
    """Share of the tokens over which the rates rise."""
    decay: float = 0.75
    """Share of the tokens at the end over which they fall, in a line, to a fiftieth."""
    save: int = 20_000
    """Tokens between two saved states."""


def rate(done: float, recipe: Recipe) -> float:
    """The share of the full learning rate when a share of the tokens is done."""
    falling = max(0.02, (1 - done) / recipe.decay)
    return min(1.0, (done + 1e-3) / recipe.warmup, falling)


Report = Callable[[int, Mapping[str, Any]], None]
"""Called after each update with the tokens done, and with what is measured, empty most times."""


class Tuning:
    """One tuning, with its state in a folder."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        conversations: Sequence[Read],
        recipe: Recipe,
        folder: Path,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.conversations = [one for one in conversations if len(one.ids) <= recipe.longest]
        self.student = Student(model, tokenizer, recipe.rank, recipe.seed)
        self._vocabulary = Vocabulary(self.student, {token for one in self.conversations for token in one.ids})
        matrices = [part for one in self.student.adapted.values() for part in (one.a, one.b)]
        self._rates = (recipe.rate, recipe.row_rate)
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": [self.student.rows], "weight_decay": 0.0}],
            betas=(0.9, 0.98),
            fused=True,
        )
        self.tokens = self.updates = self._read = 0
        self.seconds = 0.0
        """CPU time of the updates, in all runs together."""
        self._resume()

    def run(self, report: Report = lambda tokens, measured: None) -> Adapter:
        """Tune until all tokens are done, and return the adapter."""
        recipe = self.recipe
        stream = itertools.islice(packs(self.conversations, recipe.pack, recipe.seed), self._read, None)
        saved, sums = self.tokens, [0.0, 0.0, 0.0]
        self.student.train()
        while self.tokens < recipe.tokens:
            batch: list[Pack] = []
            while sum(tree.size for pack in batch for tree in pack) < recipe.step:
                batch.append(next(stream))
            for number, value in enumerate(self._update(batch)):
                sums[number] += value
            measured = {}
            if self.updates % 20 == 0:
                measured = {"updates": self.updates, "tokens": self.tokens, "loss": round(sums[0] / sums[2], 4),
                            "right": round(sums[1] / sums[2], 4)}  # fmt: skip
                sums = [0.0, 0.0, 0.0]
            report(self.tokens, measured)
            if self.tokens - saved >= recipe.save or self.tokens >= recipe.tokens:
                self._save()
                saved = self.tokens
        return self.student.adapter()

    def _update(self, batch: Sequence[Pack]) -> tuple[float, float, float]:
        """One step over some packs: the summed loss, the tokens that were likeliest, and the tokens wanted."""
        began = time.process_time()
        share = rate(self.tokens / self.recipe.tokens, self.recipe)
        for group, full in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = full * share
        columns = self._vocabulary.columns(f"{self.recipe.seed} {self.updates}")
        laid = [laid_out(pack, self.student.rows.device) for pack in batch]
        total = sum(len(one.wanted) for one in laid)
        lost = right = 0.0
        for one in laid:
            loss, likeliest = self.student.loss(one, columns)
            (loss / total).backward()
            lost, right = lost + float(loss.detach()), right + float(likeliest)
        torch.nn.utils.clip_grad_norm_([p for group in self._optimizer.param_groups for p in group["params"]], 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        self._read += len(batch)
        self.tokens += sum(tree.size for pack in batch for tree in pack)
        self.seconds += time.process_time() - began
        return lost, right, total

    @property
    def _state(self) -> Path:
        return self.folder / "state.pt"

    def _about(self) -> dict[str, Any]:
        """What a state belongs to; another number of tokens only moves the end."""
        data = random.Random(str([one.ids for one in self.conversations])).random()
        return {**asdict(self.recipe), "tokens": 0, "save": 0, "data": data}

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self._state.with_suffix(".part")
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        counts = {"tokens": self.tokens, "updates": self.updates, "read": self._read, "seconds": self.seconds}
        state = {"about": json.dumps(self._about()), "counts": counts, "trained": [p.detach() for p in trained],
                 "optimizer": self._optimizer.state_dict()}  # fmt: skip
        torch.save(state, part)
        part.replace(self._state)

    def _resume(self) -> None:
        if not self._state.exists():
            return
        state = torch.load(self._state, map_location=self.student.rows.device, weights_only=True)
        if json.loads(state["about"]) != self._about():
            raise ModelError(
                f"{self._state}: got a tuning of another recipe or other conversations; remove the folder "
                f"{self.folder} to begin anew, or give the options that it began with"
            )
        trained = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        with torch.no_grad():
            for parameter, value in zip(trained, state["trained"], strict=True):
                parameter.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        counts = state["counts"]
        self.tokens, self.updates, self._read = counts["tokens"], counts["updates"], counts["read"]
        self.seconds = counts["seconds"]
