"""The hooks of a forward pass: positions before the first layer, then recording and steering at each site."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from steerkit.errors import SteeringError
from steerkit.sites import Site
from steerkit.steer.batch import Batch, Segments, Window
from steerkit.steer.compile.plan import Plan, SiteTable
from steerkit.steer.points import described
from steerkit.steer.positions import Positions
from steerkit.steer.record.recorder import Recorder
from steerkit.steer.steering import Steering


class ForwardPass:
    """The running forward pass, and the hooks in it."""

    def __init__(self, plan: Plan, recorder: Recorder, positions: Positions) -> None:
        self.recorder, self.positions = recorder, positions
        self.steering = Steering(plan, positions.device)
        self.remembers = plan.remembers
        self.window: Window | None = None
        self.paused = False
        """True while passes run that are not the generation's; the hooks do nothing then."""
        self.running: int | None = None
        """The thread in which a `generate` runs, if one is seen."""
        self.closed = self.stopped = False
        """True once steering was removed while that still ran, and once it was stopped for it."""
        self.thread = self.owner = threading.get_ident()
        """The threads of the pass that runs, and of whoever attached."""
        self.active = False
        """True if any rule may read or edit a token of this pass."""
        self.first = 0
        """Offset of the first token that a rule may read or edit."""
        self._batch: Batch | None = None
        self._steady: object = None
        """The key of the last pass' places, if the next may have the same."""
        if positions.uniform is not None:
            self.steering.gather_for([positions.uniform])
        self._gathered = 0
        """Sequences that tables are gathered for."""

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Let passes run that are none of the generation's."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """A copy of the model would keep this steering for ever."""
        raise SteeringError("the model is copied or saved while steering is attached to it; do so outside the `with`")

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first layer: find the positions of the tokens and the rules they allow."""
        if self.paused:
            return
        if self.closed:
            self._stop()
            return
        self._check_way(kwargs)
        tokens = args[0] if args else kwargs.get("input_ids")
        if tokens is None:
            tokens = kwargs["inputs_embeds"]
        before, self.window = self.window, None
        window = self.positions.next(tokens, kwargs)
        self.window = window
        self.recorder.begin_pass(window)
        if self.steering.gate_states:
            self._roll_back(window, before)
        self.active = any(window.reaches(place) for place in self.steering.places)
        if not self.active:
            return
        self.steering.begin(self._batch_of(window))
        opened = self.steering.opened
        self.recorder.keep_open(opened.view(len(window.rows), -1, opened.shape[-1]), window.start + self.first)

    def _batch_of(self, window: Window) -> Batch:
        """The tokens of this pass, with their places known to the steering."""
        uniform, steady, batch = self.positions.uniform is not None, window.steady, self._batch
        if batch is None or steady is None or steady != self._steady:
            self.first = window.first(self.steering.places)
            batch = window.batch(self.first, uniform=uniform, remembers=self.remembers)
            grammar = None if window.grammar is None else window.grammar.after(self.first)
            self.steering.place(batch, grammar, keeps=steady is not None)
            self._steady = steady
        elif self.remembers:
            batch = batch._replace(number=window.numbers(0))
        if not uniform and len(window.rows) != self._gathered:  # beams come with the first of them
            self._gathered = len(window.rows)
            self.steering.gather_for(window.rows.tolist())
        self._batch = batch
        return batch

    def _check_way(self, kwargs: dict[str, Any]) -> None:
        """Refuse passes that cannot be followed."""
        here = self._here()
        if self.running not in (None, here):
            raise SteeringError("two threads run the model at once while steering is attached; attach in turn")
        self.thread = here
        if kwargs.get("cu_seq_lens_q") is not None:
            raise SteeringError("sequences came packed into one row; steering cannot follow: give a padded batch")

    def _stop(self) -> None:
        """Stop the generation that still runs now that steering came off; other passes are nobody's here."""
        if self.running == self._here():
            self.stopped = True
            raise SteeringError("the `with` of `attach` was left while generate ran; its rest would not be steered")

    def _here(self) -> int:
        """The thread that runs; `torch.compile` cannot ask."""
        return self.thread if torch.compiler.is_compiling() else threading.get_ident()

    def _roll_back(self, window: Window, before: Window | None) -> None:
        """Let gates remember the tokens before this pass, without drafts that were not taken."""
        for state in self.steering.gate_states.values():
            if window.start == 0:
                state.forget()
            elif window.kept is not None and before is not None and self._batch is not None:
                width = window.kept - self.first
                valid = None if before.valid is None else before.valid[:, self.first : window.kept]
                segments = Segments.equal(len(before.rows), width, self.positions.device, valid) if width > 1 else None
                state.roll_back(len(before.rows), width, self._batch._replace(segments=segments))
            state.begin_pass()

    def hook(self, site: Site, table: SiteTable | None) -> Callable[[Tensor], Tensor | None]:
        """The hook of one site: copy, read, gate, write."""
        return partial(self._on_pass, site, table)

    def _on_pass(self, site: Site, table: SiteTable | None, y: Tensor) -> Tensor | None:
        if self.paused:
            return None
        if self.window is None:
            raise SteeringError(f"{described(site)} ran outside a forward pass of the decoder")
        if self.thread != self._here():
            raise SteeringError("two threads run the model at once while steering is attached; attach in turn")
        self.recorder.fired[site] += 1
        if self.recorder.fired[site] > self.recorder.forwards:
            raise SteeringError(
                f"{described(site)} ran twice in one pass, as with gradient checkpointing; switch it off"
            )
        if site in self.recorder.kept:
            # What is edited is ours alone: the model continues with another tensor.
            ours = self.active and table is not None and table.editors is not None
            self.recorder.keep_raw(site, y, self.window.start, ours=ours)
        if table is None or not self.active:
            return None
        if not self.first:
            return self.steering.steer(table, y)
        out = self.steering.steer(table, y[:, self.first :])
        return None if out is None else torch.cat([y[:, : self.first], out], dim=1)
