"""The seam to whatever makes tokens: rows and steering in, steps out, the recording at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeAlias

from torch import Tensor

from steerkit.audit import ModelIdentity, SaeSetIdentity
from steerkit.chat import Tokenizer
from steerkit.errors import ModelError
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.steer import Extent, Wanted
from steerkit.types import Trace


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of a generation; the default is greedy."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the most likely token; above 0 the logits are divided by it and sampled."""
    top_k: int = 0
    """Sample among this many most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Sample among the most likely tokens that together reach this probability."""
    seed: int = 0
    """Each request draws from a generator of its own with this seed, so a batch draws what single runs draw."""

    def __new__(cls, *args: object, **given: object) -> Self:
        """Refuse names that are none of its fields, with the one that was probably meant.

        Raises:
            ModelError: there is such a name.
        """
        for name in given:
            if name not in _RANGES:
                close = get_close_matches(name, _RANGES, n=1)
                meant = f"; did you mean {close[0]}?" if close else ""
                raise ModelError(f"sampling: got {name!r}, expected {', '.join(_RANGES)}{meant}")
        return object.__new__(cls)  # with slots the class is made anew, and `super()` would be of the old one

    def __post_init__(self) -> None:
        for name, (kind, fine, expected) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not fine(value):
                raise ModelError(f"sampling.{name}: got {value!r}, expected {expected}")
            if not isinstance(value, (int, float)):  # of numpy's, which records cannot hold
                number: Any = value
                object.__setattr__(self, name, int(number) if kind is Integral else float(number))


_RANGES: Final[Mapping[str, tuple[type, Callable[[Any], bool], str]]] = {
    "max_new_tokens": (Integral, lambda value: value >= 1, "a whole number, at least 1"),
    "temperature": (Real, lambda value: 0 <= value < math.inf, "a number, at least 0"),
    "top_k": (Integral, lambda value: value >= 0, "a whole number, at least 0"),
    "top_p": (Real, lambda value: 0 < value <= 1, "a number, more than 0 and at most 1"),
    "seed": (Integral, lambda value: -(2**63) <= value < 2**64, "a whole number of 64 bits"),
}
"""By field, what its values are, which are fine, and both in words."""


class Constraint(Protocol):
    """A grammar over one row's reply, used up by its generation."""

    def take(self, token: int) -> bool:
        """Go on by a token; False where the grammar refuses it, and nothing has changed then."""

    def allowed(self) -> bytes:
        """A byte for each token of the vocabulary, 0 for those that may not come next."""

    def forced(self) -> Sequence[int]:
        """The tokens that come next without a choice, if any."""

    @property
    def must_call(self) -> bool:
        """True where nothing was called yet and the next token can begin a call."""

    @property
    def written(self) -> str:
        """Text of which `steerkit.chat.read_constraint` makes a fresh one, in another process too."""


Decided: TypeAlias = Literal["model", "mask", "forced", "turned away"]
"""Who decided a token: the model, free or within what its grammar allows; a mask, as the grammar refused the model's
own; the grammar alone, as it left no choice; or the model, which steering had turned away from a call that the grammar
demands, and whose reply is free of calls from there on."""


class Row(NamedTuple):
    """One sequence to generate."""

    ids: Sequence[int]
    """Tokens of its prompt."""
    wanted: Wanted
    """Its policies, with every quantity raw, and the features and probes that its trace shows."""
    sampling: Sampling
    constraint: Constraint | None = None
    """The grammar of its reply; None for any reply."""
    turned_away: Constraint | None = None
    """What takes the grammar's place where that demands a call that steering turned the model away from: without
    steering its most likely token would be allowed. None: the call is demanded all the same."""


class Step(NamedTuple):
    """One decoded token of every row that goes on."""

    tokens: list[int | None]
    """By row; None once it has stopped, and where an engine that serves rows in turns has none of it in this step. A
    stop token is a row's last."""
    watched: Callable[[int, int], Mapping[str, Sequence[float]]]
    """Watched values of a row from a position on, for as far as the model has run; of tokens that come in one pass, for
    as far as it would have run had they come one by one."""
    decided: Sequence[Decided] = ()
    """By row, who decided; empty where no row has a grammar."""


class Provenance(NamedTuple):
    """The part of a record that an engine knows."""

    model: ModelIdentity
    saes: SaeSetIdentity | None
    libraries: Mapping[str, str]
    """Versions of the libraries whose arithmetic it uses."""
    machine: Mapping[str, Any]
    """All else that the last bits of its arithmetic depend on."""


class Recording(Protocol):
    """A finished generation, as the engine saw it."""

    @property
    def decoding(self) -> str | None:
        """Way of decoding, where it was other than by hooks on the model: a graph may round otherwise."""

    @property
    def cached(self) -> Sequence[int]:
        """By row, tokens of its prompt that a prefix cache knew; empty where it knew none."""

    def traces(self, extents: Sequence[Extent]) -> list[Trace]:
        """The trace of each row, features as they were before any edit.

        Raises:
            SteerkitError: a trace cannot be read.
        """


Steps: TypeAlias = Generator[Step, Collection[int] | None, Recording]
"""The steps of a generation, which ends when every row has stopped. Rows whose numbers are sent into it stop there: the
token just yielded is their last. Closing it ends the generation and frees the model."""


class Running(Protocol):
    """Rows that joined a continuous batch together, on their way."""

    @property
    def step(self) -> Step:
        """Their newest tokens, None of rows that had ended before, or whose prompts are still read.

        Raises:
            SteerkitError: what ended one of them; or they cannot be generated or steered so.
        """

    def cut(self, rows: Collection[int]) -> None:
        """Let the newest tokens of some of them be their last."""

    @property
    def ended(self) -> bool:
        """True once the last tokens of all have come."""

    @property
    def recording(self) -> Recording:
        """The recording of all, once they have ended."""

    @property
    def place(self) -> int:
        """Row of the batch that the first of them had when it joined."""

    @property
    def size(self) -> int:
        """Rows that were decoded together with them at most, they included."""


class Continuous(Protocol):
    """Continuous batching: rows are decoded together, join between two steps and leave when they have ended.

    It holds the model from the first row to the end of the `with`, but for whoever waits for it between two steps.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    @property
    def rows(self) -> int:
        """Rows that go on."""

    def join(self, rows: Sequence[Row]) -> Running:
        """Let some rows join, which have their first tokens in the step in which their prompts are read to the end."""

    def step(self) -> None:
        """One more token of every row that goes on, and a part of a prompt where rows wait."""


class Engine(Protocol):
    """Generates rows under steering: all that a turn needs of a model.

    One generation runs at a time; threads wait. `steerkit.engine.hf` has the member that runs transformers,
    `steerkit.engine.vllm` the one that runs vLLM.
    """

    @property
    def name(self) -> str:
        """Name of the model, as the user wrote it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""

    @property
    def saes(self) -> SaeSet | None:
        """SAEs that policies are resolved and steered through."""

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its reply together; None where nothing bounds them."""

    @property
    def provenance(self) -> Provenance:
        """Provenance for records."""

    def reserve(self, wanted: Sequence[Wanted]) -> None:
        """Prepare for rows such as these, so that going from one to another rebuilds nothing."""

    def with_decoder_rows(self, rows: Mapping[Feature, Tensor]) -> Engine:
        """An engine on the same model that writes edits of some features along other decoder rows `(d_in,)`."""

    def generate(self, rows: Sequence[Row], stopped: Callable[[], bool] | None = None) -> Steps:
        """Decode rows together, each under its own policies.

        Args:
            rows: what to generate; a row decodes the tokens that it decodes alone.
            stopped: asked while the model is busy with another generation.

        Raises:
            SteerkitError: what cannot be generated or steered so, at the first step.
            AbandonedError: `stopped` answered True.
        """

    def continuous(
        self, stopped: Callable[[], bool] | None = None, *, whole_prompts: bool = False
    ) -> Continuous | None:
        """Continuous batching, in which a row decodes the tokens that it decodes alone; None where the engine has none.

        Args:
            stopped: asked while the model is busy with another generation; AbandonedError where it answers True.
            whole_prompts: all prompts that wait are read in the next step, however long the rows that are decoded wait
                for it: then which rows are decoded together does not depend on what a prefix cache holds.
        """

    def logits_along(self, rows: Sequence[Row], reply: Sequence[int]) -> Iterator[Tensor]:
        """Logits `(rows, vocabulary)` before each token of one reply and after its last, each row under its policies.

        Raises:
            SteerkitError: as for `generate`.
        """
