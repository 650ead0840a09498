"""The engine that runs vLLM: requests go to its scheduler, each under its own policies, and come back as steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from steerkit.audit import SaeSetIdentity
from steerkit.chat import Tokenizer, dialect_of, place_machine
from steerkit.engine.api import Provenance, Row, Steps
from steerkit.engine.hf.engine import identity_of, libraries
from steerkit.engine.hf.model import LoadedModel
from steerkit.engine.lease import Lease
from steerkit.engine.vllm.arguments import Vllm, engine_arguments, vllm_version
from steerkit.engine.vllm.continuous import VllmContinuous
from steerkit.engine.vllm.llm import Asked, Llm
from steerkit.engine.vllm.wire import packed_choice, packed_wanted, row_name
from steerkit.errors import ModelError, SettingError, SteeringError, SteerkitError
from steerkit.fingerprints import sha256_of
from steerkit.policy import fingerprint
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import Plan, RaggedSteering, Wanted, check_engine, compile_plan, context_of

_MOST_ROWS: Final = 32
"""Most rows of policies that the worker holds for requests to come."""


class VllmEngine:
    """A model in vLLM's worker, with its SAEs.

    A request under a rule reads nothing from vLLM's prefix cache, since cached tokens pass no hook, and what it leaves
    there is found under a salt of its weights, SAEs and policies, by nobody else.

    Args:
        loaded: the model; only its identity is kept, since vLLM loads it from the same files.
        saes: SAEs that lie in a folder.
        settings: vLLM's engine arguments.
        revision: of the model on the hub.

    Raises:
        MissingExtraError, ModelError, SaeError: vLLM is not there or of another version, or the model cannot be run so.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        saes: SaeSet | None = None,
        settings: Vllm | None = None,
        revision: str | None = None,
    ) -> None:
        self._version = vllm_version()
        self.name: Final = loaded.name
        self.tokenizer: Final[Tokenizer] = loaded.tokenizer
        self.saes: Final = saes
        self._model = identity_of(loaded)
        self._llm = Llm(loaded.name, engine_arguments(loaded, saes, revision, settings or Vllm()))
        own, most = context_of(loaded.model), self._llm.context
        self.context: Final = most if own is None else min(own, most)
        sites, self._width, facts = self._llm.call("steerkit_describe")
        self._sites = frozenset(map(Site.of, sites))
        self._machine: dict[str, Any] = {"engine": "vllm", **facts}
        self._lease = Lease()
        self._rows: dict[str, Wanted] = {}
        """The rows that the worker holds, by name."""
        self._numbers = itertools.count()
        self._unread: list[str] = []
        """Requests whose recordings are gone, and whose traces nobody will read."""

    @property
    def provenance(self) -> Provenance:
        """Provenance for records."""
        through = None if self.saes is None else SaeSetIdentity(self.saes.name, self.saes.fingerprint)
        return Provenance(self._model, through, {**libraries(), "vllm": self._version}, self._machine)

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Give the worker the policies of rows such as these."""
        with self._lease.held():
            self._hold(wanted)

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """Decode rows, each when vLLM's scheduler has room for it: a step holds the tokens that came together."""
        with self.continuous(stopped) as batch:
            running = batch.join(rows)
            while not running.ended:
                batch.step()
                if not all(token is None for token in running.step.tokens):
                    running.cut((yield running.step) or ())
            return running.recording

    def continuous(self, stopped: Callable[[], bool] | None = None) -> VllmContinuous:
        """Continuous batching by vLLM's scheduler, which several of these share."""
        return VllmContinuous(self._llm, self._lease, self._added, self._unread, stopped)

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """Refuse: vLLM gives no logits along a reply. Raises ModelError."""
        raise ModelError(
            f"{self.name}: engine 'vllm' gives no logits along a reply; load it with engine 'transformers'"
        )

    def _added(self, rows: Sequence[Row]) -> list[Asked]:
        """Give rows to vLLM, all or none."""
        _check(rows)
        room = self._within_context(rows)
        self._hold([row.wanted for row in rows])
        asked: list[Asked] = []
        try:
            for row, most in zip(rows, room, strict=True):
                asked.append(self._add(row, most))
        except SteerkitError:
            self._llm.abort(asked)
            raise
        return asked

    def _add(self, row: Row, most: int) -> Asked:
        """Give a row to vLLM, for at most so many new tokens."""
        ruled = any(policy.steer for policy in row.wanted.policies)
        salt = None
        if ruled:
            parts = [self._model.fingerprint, *([self.saes.fingerprint] if self.saes else [])]
            salt = sha256_of("\n".join([*parts, *map(fingerprint, row.wanted.policies)]))
        return self._llm.add(
            f"steerkit-{next(self._numbers)}",
            list(row.ids),
            most=most,
            stops=sorted(dialect_of(self.tokenizer).stops),
            row=row_name(row.wanted) if row.wanted.policies else None,
            salt=salt,
            skips_cache=ruled or bool(row.wanted.top_k) or any(row.wanted.watch.values()),
            choice=packed_choice(row, most),
        )

    def _hold(self, wanted: Sequence[Wanted]) -> None:
        """Give the worker the rows that it does not hold yet."""
        unread = [self._unread.pop() for _ in range(len(self._unread))]
        if unread:
            self._llm.call("steerkit_forget", unread)
        asked = {row_name(one): one for one in wanted if one.policies}
        if asked.keys() <= self._rows.keys():
            return
        rows = {**self._rows, **asked}
        if len(rows) > _MOST_ROWS:
            used = self._llm.rows
            rows = {**{name: one for name, one in self._rows.items() if name in used}, **asked}
        for name in asked.keys() - self._rows.keys():
            self._check_plan(compile_plan([asked[name].policies], self.saes))
        self._llm.call("steerkit_rows", {name: packed_wanted(one) for name, one in rows.items()})
        self._rows = rows

    def _check_plan(self, plan: Plan) -> None:
        """Raise SteeringError for policies that the worker cannot follow; there it would end more than one request."""
        check_engine("vllm", plan.sites)
        RaggedSteering(plan, torch.device("cpu"), lambda _: 0, place_machine(self.tokenizer))
        for site, table in plan.sites.items():
            if site not in self._sites:
                has = ", ".join(map(str, sorted(one for one in self._sites if one.point == site.point)))
                raise SteeringError(f"{site}: the model has no such hook point; expected one of {has or 'none'}")
            if table.columns.width != self._width:
                raise SteeringError(
                    f"{site}: got a width of {table.columns.width}, but the model's is {self._width}; expected SAEs "
                    f"and directions of this model"
                )

    def _within_context(self, rows: Sequence[Row]) -> list[int]:
        """The most new tokens of each row. Raises ModelError: a prompt leaves no room for any."""
        room = [self.context - len(row.ids) for row in rows]
        for number, (row, left) in enumerate(zip(rows, room, strict=True), start=1):
            if left < 1:
                which = f"request {number} of {len(rows)}: " if len(rows) > 1 else ""
                raise ModelError(
                    f"{which}the prompt has {len(row.ids):,} tokens, but the model's context is {self.context:,}, "
                    f"which leaves no room for a reply; shorten the conversation"
                )
        return [min(row.sampling.max_new_tokens, left) for row, left in zip(rows, room, strict=True)]


def _check(rows: Sequence[Row]) -> None:
    """Refuse rows that ask for what this engine does not do. Raises SettingError."""
    if any(row.turned_away is not None for row in rows):
        raise SettingError(
            "tool_choice: got a call that is required under a policy that steers, and engine 'vllm' cannot ask what "
            "the model would have said without steering; load with required_over_steering=True, or use tool_choice "
            "auto, or engine 'transformers'"
        )
