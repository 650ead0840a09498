"""vLLM's own engine, as far as it is used here: requests in, tokens out, calls to the worker."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any

from steerkit.engine.vllm.liveness import Liveness
from steerkit.engine.vllm.wire import CHOICE, KEY, OWNER
from steerkit.errors import EngineError, ModelError, SteerkitError


@dataclass(slots=True, eq=False)
class Asked:
    """A request in vLLM's engine, and what came of it so far."""

    id: str
    """The worker's name for it."""
    row: str | None
    """Name of its row of policies."""
    tokens: deque[int] = field(default_factory=deque)
    """Its tokens that nobody has taken yet."""
    over: bool = False
    """True if vLLM has no more."""
    cached: int = 0
    """Tokens of its prompt that came from the prefix cache."""


class Llm:
    """vLLM's engine, in this process or beside it as its environment says. One thread calls it at a time.

    Raises:
        ModelError: it does not start.
        EngineError: from every method, if it is gone.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        from vllm import SamplingParams  # here, since loading it takes seconds
        from vllm.engine.arg_utils import EngineArgs
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine

        self._name = name
        self._liveness: Liveness | None = None
        os.environ[OWNER] = str(os.getpid())
        with self._said("cannot load the model", Exception), _without_interrupts():
            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=True))
        self._liveness = Liveness(self._engine.engine_core)
        self.context: int = self._engine.model_config.max_model_len
        """Most tokens of a prompt and its reply together."""
        self._params, self._prompt, self._deltas = SamplingParams, tokens_input, RequestOutputKind.DELTA
        self.held_for: object = None
        """Whose rows of policies the worker holds."""
        self._running: dict[str, Asked] = {}
        """Requests that run, by our names."""

    @property
    def rows(self) -> set[str]:
        """Names of the rows of policies of the requests that run."""
        return {one.row for one in self._running.values() if one.row is not None}

    def add(
        self,
        name: str,
        ids: list[int],
        *,
        most: int,
        stops: list[int],
        row: str | None,
        salt: str | None,
        skips_cache: bool,
        choice: Mapping[str, Any] | None = None,
    ) -> Asked:
        """Add a request.

        Args:
            name: ours.
            ids: tokens of its prompt.
            most: most new tokens.
            stops: tokens that end it.
            row: name of its row of policies; None for none.
            salt: of its blocks in the prefix cache; None to share them with all that have none.
            skips_cache: True if it must compute all of its tokens.
            choice: how the worker chooses its tokens; None for the most likely ones.
        """
        ours = {KEY: row, CHOICE: choice}
        params = self._params(
            temperature=0.0,
            max_tokens=most,
            stop_token_ids=stops,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._deltas,
            skip_reading_prefix_cache=skips_cache,
            extra_args={key: value for key, value in ours.items() if value is not None} or None,
        )
        with self._said("took no request", ValueError):
            found = Asked(self._engine.add_request(name, self._prompt(ids, cache_salt=salt), params), row)
        self._running[name] = found
        return found

    def step(self) -> None:
        """Take the tokens that the next step brings, whosever they are; none where it only read prompts."""
        with self._said("stopped while it generated"):
            outputs = self._engine.step()
        for output in outputs:
            request = self._running.get(output.request_id)
            if request is None:
                continue
            (one,) = output.outputs
            if one.finish_reason not in (None, "stop", "length"):
                raise EngineError(f"{self._name}: vLLM ended a request: {one.finish_reason}")
            request.tokens.extend(one.token_ids)
            request.over, request.cached = output.finished, output.num_cached_tokens or 0
            if output.finished:
                del self._running[output.request_id]

    def abort(self, requests: Collection[Asked]) -> None:
        """Give requests up, of which those that are over stay as they are."""
        gone = {name: one for name, one in self._running.items() if one in requests}
        if not gone:
            return
        for name, one in gone.items():
            one.over = True
            del self._running[name]
        with self._said("could not give a request up"):
            self._engine.abort_request([one.id for one in gone.values()], internal=True)

    def call(self, method: str, *args: Any) -> Any:
        """The answer of the first worker's method, which each of them runs."""
        return self.call_each(method, *args)[0]

    def call_each(self, method: str, *args: Any) -> list[Any]:
        """The answers of all workers' methods."""
        with self._said(f"could not answer {method}"):
            found: list[Any] = self._engine.collective_rpc(method, args=args)
        return found

    @contextmanager
    def _said(self, what: str, refusals: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Say what vLLM raises in one line, `refusals` as ModelError and all else as EngineError; what this process'
        own worker says is said already. Nothing is asked of processes that have ended."""
        gone = f"{self._name}: vLLM {what}: its processes have ended; load the model again, or start the server again"
        if self._liveness is not None and self._liveness.ended:
            raise EngineError(gone)
        try:
            yield
        except SteerkitError:
            raise
        except Exception as error:  # vLLM has no one kind
            if self._liveness is not None and self._liveness.ended:
                raise EngineError(gone) from error
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = f": {lines[0][:300]}" if lines else ""
            kind = ModelError if isinstance(error, refusals) else EngineError
            raise kind(f"{self._name}: vLLM {what}: {type(error).__name__}{said}") from error


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that are started here have no SIGINT: Ctrl-C is for this one, which ends them when it is done."""
    resource_tracker.ensure_running()  # which would unblock it, were it started within
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
