"""Steering around anybody's own `model.generate(...)` call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from steerkit import steer
from steerkit.chat import Tokenizer, as_tools, place_machine, reply_form
from steerkit.engine import Constraint, GrammarLogits, tool_from_function
from steerkit.policy import Policy, resolve
from steerkit.runtime.constraints import grammar_for, row_constraints
from steerkit.runtime.keywords import raises_setting_errors
from steerkit.runtime.policies import PolicyLike, read_policies
from steerkit.sae import SaeSet, load_set


@raises_setting_errors
@contextmanager
def attach(
    model: nn.Module,
    saes: SaeSet | str | Path,
    policy: PolicyLike | None = None,
    *,
    rows: Sequence[PolicyLike] | None = None,
    trace: Sequence[int] = (),
    prompt_length: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Iterator[steer.Recorder]:
    """Steer every forward pass of a transformers model inside the `with`: `generate`, sampling, beams, plain calls.

    Drafts of an assistant or of a prompt lookup, chunks of a prompt and a cache that was filled before are followed;
    what cannot be is refused by name (continuous batching, `guidance_scale`, packed sequences, a policy that remembers
    on a cache that it did not fill). One thread generates at a time, and is done when the `with` is left; the model
    is not copied or pickled inside.

    Args:
        model: a decoder with `layers.N.self_attn.o_proj`, such as Gemma 3.
        saes: its SAEs, a folder or a hub repository.
        policy: for all sequences of the batch; its guard and trace sections need `steerkit.load`.
        rows: instead, one policy (or an empty tuple) per request of the batch.
        trace: layers whose activations to keep on the recorder.
        prompt_length: columns of the padded prompt, those in its cache included. `generate` says it itself; in a loop
            of your own the first pass is taken to be the prompt, so give it where that is fed in chunks.
        tokenizer: needed where a rule's place is read from tokens, such as `tool_result` or `call.name`.

    Yields:
        The recorder: what the hooks saw.

    Raises:
        PolicyError, SaeError, SteeringError: what cannot be honoured, before the body runs or where it is asked for;
            and after it, a hook that did not run in every forward pass, or a thread that still generates.
        ModelError: a prompt is longer than the model's context.
    """
    suite = saes if isinstance(saes, SaeSet) else load_set(saes)
    requests = [_resolved(one, suite) for one in ([policy or ()] if rows is None else rows)]
    plan = steer.compile_plan(requests, suite, steer.devices_of(steer.find_sites(model)))
    numbers = [plan.row(request) for request in requests]
    places = None if tokenizer is None else place_machine(tokenizer)
    with steer.attach(model, plan, rows=numbers, trace=trace, prompt_length=prompt_length, places=places) as on:
        yield on.recorder


def constrain(
    tokenizer: Tokenizer, tools: Sequence[Any], *, rows: Sequence[Mapping[str, Any]] | None = None, **form: Any
) -> GrammarLogits:
    """A logits processor that holds the replies of one `generate` to a grammar, under `attach` or without it.

    `model.generate(..., logits_processor=[constrain(tokenizer, tools, tool_choice="required")])`. It masks at every
    token, as sampling comes after it, and forces none in one pass: the runtime's own generation is faster.

    Args:
        tokenizer: the model's.
        tools: what the model may call.
        rows: for each sequence of the batch what is other than here: `tools` and the settings of its form.
        form: tool_choice, parallel_tool_calls and response_format, as in `Request`.

    Raises:
        SettingError, ToolError: what cannot be asked for, before anything is generated.
        MissingExtraError: the extra is not installed.
    """
    asked = [{"tools": tools, **form, **one} for one in rows or [{}]]
    known = [as_tools(one.pop("tools"), from_function=tool_from_function) for one in asked]
    forms = [reply_form(some, **one) for some, one in zip(known, asked, strict=True)]

    def fresh(row: int, prompt: Sequence[int]) -> Constraint | None:
        number = 0 if rows is None else row
        grammar = grammar_for(tokenizer, forms[number], known[number], prompt, (), ())
        return row_constraints(tokenizer, forms[number], grammar, ()).grammar

    for row in range(len(forms)):
        fresh(row, ())
    return GrammarLogits(fresh)


def _resolved(policy: PolicyLike, saes: SaeSet) -> tuple[Policy, ...]:
    return tuple(resolve(item, saes.statistic) for item in read_policies(policy))
