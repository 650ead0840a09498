"""vLLM's own engine, as far as it is used here: requests in, tokens out, calls to the worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from steerkit.engine.vllm.wire import KEY
from steerkit.errors import ModelError, SteerkitError


class Arrived(NamedTuple):
    """Tokens of one request that a step brought."""

    request: str
    tokens: Sequence[int]
    over: bool
    """True if there are no more."""
    cached: int
    """Tokens of its prompt that came from the prefix cache."""


class Llm:
    """vLLM's engine, in this process or beside it as its environment says.

    Raises:
        ModelError: it does not start; and from every method, if it is gone.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        from vllm import SamplingParams  # here, since loading it takes seconds
        from vllm.engine.arg_utils import EngineArgs
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine

        self._name = name
        with self._said("cannot load the model"):
            self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments, disable_log_stats=True))
        self.context: int = self._engine.model_config.max_model_len
        """Most tokens of a prompt and its reply together."""
        self._params, self._prompt, self._deltas = SamplingParams, tokens_input, RequestOutputKind.DELTA
        self._ids: dict[str, str] = {}
        """The worker's names of requests that run, by ours."""

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
    ) -> str:
        """Add a greedy request and return the worker's name for it.

        Args:
            name: ours.
            ids: tokens of its prompt.
            most: most new tokens.
            stops: tokens that end it.
            row: name of its row of policies; None for none.
            salt: of its blocks in the prefix cache; None to share them with all that have none.
            skips_cache: True if it must compute all of its tokens.
        """
        params = self._params(
            temperature=0.0,
            max_tokens=most,
            stop_token_ids=stops,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._deltas,
            skip_reading_prefix_cache=skips_cache,
            extra_args=None if row is None else {KEY: row},
        )
        with self._said("took no request"):
            found: str = self._engine.add_request(name, self._prompt(ids, cache_salt=salt), params)
        self._ids[name] = found
        return found

    def step(self) -> list[Arrived]:
        """The tokens of the next step; none where it only read prompts."""
        with self._said("stopped while it generated"):
            outputs = self._engine.step()
        found = []
        for output in outputs:
            request = self._ids.pop(output.request_id) if output.finished else self._ids[output.request_id]
            (one,) = output.outputs
            if one.finish_reason not in (None, "stop", "length"):
                raise ModelError(f"{self._name}: vLLM ended a request: {one.finish_reason}")
            found.append(Arrived(request, one.token_ids, output.finished, output.num_cached_tokens or 0))
        return found

    def abort(self, requests: Sequence[str]) -> None:
        """Give requests up, by the worker's names."""
        if not requests:
            return
        gone = set(requests)
        self._ids = {name: one for name, one in self._ids.items() if one not in gone}
        with self._said("could not give a request up"):
            self._engine.abort_request(list(requests), internal=True)

    def call(self, method: str, *args: Any) -> Any:
        """The answer of the worker's method."""
        with self._said(f"could not answer {method}"):
            return self._engine.collective_rpc(method, args=args)[0]

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Say what vLLM raises in one line; what this process' own worker says is said already."""
        try:
            yield
        except SteerkitError:
            raise
        except Exception as error:  # vLLM has no one kind
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = f": {lines[0][:300]}" if lines else ""
            raise ModelError(f"{self._name}: vLLM {what}: {type(error).__name__}{said}") from error
