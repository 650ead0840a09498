"""A recorded turn with all that its pages read: trace, texts of tokens, and the policies' bounds and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from steerkit.audit import Gone, Store, StoredRecord, TurnRecord, policies_of, read_content, unpack
from steerkit.errors import AuditError, PolicyError
from steerkit.kept import Kept
from steerkit.policy import Policy, recorded_policy
from steerkit.report import Bound, bounds_of
from steerkit.sites import Feature
from steerkit.types import Trace
from steerkit.viewer.pages import Pages
from steerkit.viewer.sae_labels import labels_of
from steerkit.viewer.vocabulary import Vocabulary, read_vocabulary

_VOCABULARIES: Final[Kept[str, Vocabulary | None]] = Kept(4)
_TRACES: Final[Kept[tuple[str, str], Trace | None]] = Kept(
    256 << 20, lambda trace: 1 if trace is None else sum(len(top.index) + len(top.value) for top in trace.top)
)
"""By store and hash of the record; so many bytes at most."""


@dataclass(frozen=True)
class ShownTurn:
    """A turn that is shown."""

    store: Store
    stored: StoredRecord
    turn: TurnRecord

    @cached_property
    def trace(self) -> Trace | None:
        """Its features; None where they were redacted, or cannot be read."""
        return _TRACES.get((str(self.store.path), self.stored.hash), self._read_trace)

    def _read_trace(self) -> Trace | None:
        try:
            packed = self.store.trace_of(self.stored)
            return unpack(packed) if packed else None
        except AuditError:
            return None

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Texts of its tokens, where this machine has its model's tokenizer."""
        model = self.turn.model
        return _VOCABULARIES.get(model.name, lambda: read_vocabulary(model))

    @property
    def is_same_tokenizer(self) -> bool:
        """True if the tokenizer here is the one that the record names, or names none."""
        said = self.turn.model.tokenizer
        return self.vocabulary is None or not said or said == self.vocabulary.fingerprint

    @cached_property
    def policies(self) -> list[Policy]:
        """Its policies that this version can read."""
        found = []
        for one in policies_of(self.store, self.stored):
            try:
                found += [] if one.content is None else [recorded_policy(one.content, one.name)]
            except PolicyError:
                continue
        return found

    @cached_property
    def bounds(self) -> dict[str, list[Bound]]:
        """Bounds of rules on what is watched, by its name."""
        return bounds_of(self.policies)

    @cached_property
    def named(self) -> Mapping[Feature, str]:
        """Names and labels that its policies give features."""
        return self._named({})

    @cached_property
    def labels(self) -> Mapping[Feature, str]:
        """What its SAEs call features, after the names that its policies give them."""
        labels = labels_of(self.turn)
        return {**labels, **self._named(labels)}

    def _named(self, labels: Mapping[Feature, str]) -> dict[Feature, str]:
        """Names of its policies with their own label for it, or one of these."""
        return {
            one.feature: f"{policy.name}.{name}{f': {label}' if label else ''}"
            for policy in self.policies
            for name, one in policy.features.items()
            for label in [one.label or labels.get(one.feature, "")]
        }

    @cached_property
    def names(self) -> list[str]:
        """Names of what is watched in it."""
        return [] if self.trace is None else list(self.trace.watched)

    @property
    def has_tokens(self) -> bool:
        """True if its tokens are on record."""
        return not isinstance(self.turn.prompt_ids, Gone) and not isinstance(self.turn.reply_ids, Gone)

    def first_name(self) -> str:
        """The watched name that is shown where none is asked for: what decided, or a policy's that steered, if any."""
        read = [one.name for verdict in self.turn.verdicts for one in verdict.readings]
        full = [name for name in self.names for one in read if one in (name, name.partition(".")[2])]
        steered = [name for edit in self.turn.edits for name in self.names if name.startswith(f"{edit.policy}.")]
        return next(iter([*full, *steered, *self.names]), "")


def shown_turn(pages: Pages, reference: str) -> ShownTurn:
    """The turn of a record. Raises AuditError where there is none."""
    stored = pages.store.get(reference)
    turn = read_content(stored)
    if not isinstance(turn, TurnRecord):
        raise AuditError(f"record {stored.sequence} is a {turn.kind}; only turns have tokens")
    return ShownTurn(pages.store, stored, turn)
