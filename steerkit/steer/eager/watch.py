"""Watches a model's `generate` while steering is attached: what it is asked for, and who still runs it at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, update_wrapper
from typing import Any, Final, NoReturn

from torch import nn
from torch.utils.hooks import RemovableHandle

from steerkit.errors import SteeringError
from steerkit.steer.eager.forward_pass import ForwardPass
from steerkit.steer.eager.generation import Generation, is_draft
from steerkit.steer.points import Sites

_LONGEST_PASS: Final = 60.0
"""Seconds to wait for a forward pass of another thread to end."""


@contextmanager
def watching(sites: Sites, run: ForwardPass) -> Iterator[None]:
    """Watch every `generate` of the model inside the `with`.

    Raises:
        SteeringError: another thread attached to the model, or one still generates when the `with` is left; it is
            stopped before its next forward pass, as that would not be steered.
    """
    for hook in sites.body._forward_pre_hooks.values():
        other = getattr(hook, "__self__", None)
        if isinstance(other, ForwardPass) and other.owner != run.owner:
            raise SteeringError("another thread has attached steering to this model; attach in turn, or give `rows`")
    if sites.generates is None:
        yield
        return
    watch = Watch(sites.generates, sites.body, run)
    try:
        yield
    except BaseException:
        watch.close()
        raise
    if not watch.close():
        raise SteeringError(
            "the `with` was left while generate still ran; it was stopped, as the rest would not "
            "have been steered: read its streamer to the end, or join its thread, inside the `with`"
        )


class Watch:
    """Replaces a model's `generate`, as an attribute of that very model, and calls it."""

    def __init__(self, owner: nn.Module, body: nn.Module, run: ForwardPass) -> None:
        self._owner, self._body, self._run = owner, body, run
        self._hidden = {name: owner.__dict__[name] for name in _REPLACED if name in owner.__dict__}
        """Attributes of the model itself that are replaced."""
        self._inner: Callable[..., Any] = owner.generate  # type: ignore[assignment]  # a method, or another watch
        update_wrapper(self, self._inner, updated=())
        self._closed = False
        self._guard: RemovableHandle | None = None
        """The hook that stops a generation at its next pass, where that was not waited for."""
        self._ended = threading.Event()
        owner.generate = self  # type: ignore[assignment]  # torch says that attributes are tensors or modules
        owner.init_continuous_batching = partial(_refuse, run)  # type: ignore[assignment]  # the same

    def __call__(self, *args: Any, **given: Any) -> Any:
        """Generate, while the hooks know the arguments.

        Raises:
            SteeringError: it was looked up inside a `with` that is over, another thread generates, or it is asked for
                what steering cannot follow.
        """
        run, here = self._run, threading.get_ident()
        if self._closed:
            raise SteeringError("this generate was looked up in a `with` of `attach` that is over; look it up again")
        if run.running not in (None, here):
            raise SteeringError("another thread generates under the same `attach`; wait for it, or give it a batch")
        if is_draft(args, given):
            if run.running is None:
                raise SteeringError("steering is attached to a model that drafts for another; attach to the other one")
            with run.pause():
                return self._inner(*args, **given)
        outer = run.positions.generation, run.running
        run.positions.generation, run.running = Generation.of(self._owner, args, given), here
        try:
            return self._inner(*args, **given)
        finally:
            self._end(*outer)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse: a copy would call the model that it was copied from."""
        self._run.__reduce_ex__(protocol)

    def _end(self, outer: Generation | None, running: int | None) -> None:
        run = self._run
        one = run.positions.generation
        if one is not None and one.drafts and one.cache is not None:
            run.recorder.cut(int(one.cache.get_seq_length()))
        run.positions.generation, run.running = outer, running
        if running is None:
            self._ended.set()
            if self._guard is not None:
                self._guard.remove()

    def close(self) -> bool:
        """Put back what was replaced; False if a generation was stopped for it."""
        run, here = self._run, threading.get_ident()
        self._closed = True
        self._take_out()
        if run.running is None:
            return True
        run.closed = True
        if run.running != here:
            self._ended.wait(_LONGEST_PASS)
        if run.running is not None:
            self._guard = self._body.register_forward_pre_hook(run.begin, with_kwargs=True)
        return run.running is None and not run.stopped

    def _take_out(self) -> None:
        owner, found = self._owner, self._owner.__dict__.get("generate")
        if found is self:
            for name in _REPLACED:
                delattr(owner, name)
            owner.__dict__.update(self._hidden)
            return
        while isinstance(found, Watch):  # another one came later and stays
            if found._inner is self:
                found._inner, found._hidden = self._inner, self._hidden
            found = found._inner


_REPLACED: Final = ("generate", "init_continuous_batching")
"""Attributes that are replaced on a model."""


def _refuse(run: ForwardPass, *args: Any, **given: Any) -> NoReturn:
    raise SteeringError("continuous batching (generate_batch) is not steered here; call generate, or use attach_ragged")
