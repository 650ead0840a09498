"""An explanation of a call, in words, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.console import Console
from rich.text import Text

from steerkit.audit import as_json as written
from steerkit.report.rows import print_rows
from steerkit.report.text import call_text, reply_text, verdict_text
from steerkit.report.tokens import drawn, visible
from steerkit.types import CallLike, MalformedCall, Verdict

if TYPE_CHECKING:
    from steerkit.lab.explain import Changed, Explanation, Reason, Without

_LABEL: Final = 28
"""Characters of a label that a table shows."""


class ExplainView(NamedTuple):
    """One explanation beside what it is of."""

    found: Explanation
    call: CallLike
    """The recorded call."""
    verdict: Verdict

    @property
    def choice(self) -> str:
        """The chosen token, the one it was chosen over, and by how much."""
        found, choice = self.found, self.found.choice
        over = f" (of {visible(choice.rival)})" if choice.rival and choice.rival != found.other else ""
        return (
            f"{choice.what}: {quoted(found.chosen)} over {quoted(found.other)}{over} by {found.score:.2f} log-odds, "
            f"token {choice.position + 1}"
        )

    @property
    def remarks(self) -> list[str]:
        """Remarks on how the turn was read: steering, sampling, reproduction."""
        found, said = self.found, []
        if found.steered:
            said.append(f"steering acted in this turn, and acts here: {', '.join(map(visible, found.steered))}")
        else:
            said.append("no steering rule wrote in this turn")
        if found.is_forced:
            said.append("a grammar chose this token, not the model: the features say how far it leaned to it by itself")
        elif not found.likeliest:
            said.append("the token was sampled: it was not the likeliest")
        if found.forced:
            count = sum(span.end - span.start for span in found.forced)
            said.append(f"a grammar chose {count} tokens of the reply; features there are not the model's own choice")
        if not found.reproduced:
            said.append("the model does not write this reply again greedily; calls below are what it writes greedily")
        return said

    @property
    def together(self) -> list[str]:
        """Sentences on the call without several features, and without as many random ones."""
        found, count = self.found, len(self.found.reasons)
        lines = []
        for title, one, controls in (
            ("at every token", found.without, found.controls),
            ("at the choice alone", found.without_at_choice, found.controls_at_choice),
        ):
            changed = sum(other.changes_call for other in controls)
            mean = sum(other.lost for other in controls) / max(1, len(controls))
            lines.append(
                f"the first {count} set to 0 {title}: {one.lost:+.2f} go, {_outcome(one)}; as many random ones: "
                f"{mean:+.2f} go, the call changes in {changed} of {len(controls)} draws"
            )
        turning = found.turning
        if turning is None and found.growing:
            most = len(found.growing[-1].features)
            lines.append(f"not even without the first {most} features does the call change")
        elif turning is not None:
            other = found.growing_controls[found.growing.index(turning)]
            count = len(turning.features)
            lines.append(
                f"it takes the first {count}: then {_outcome(turning)}; without {count} random ones {_outcome(other)}"
            )
        return lines


def quoted(token: str) -> str:
    """A token with its blanks in sight."""
    return f"'{drawn(token)}'"


def name_of(reason: Reason) -> str:
    """Such as `l3_72`."""
    return reason.feature.handle


def acts_at(found: Explanation, reason: Reason) -> str:
    """The token at which a feature's effect is largest."""
    if not reason.role.acts:
        return "nowhere"
    act = reason.role.acts[0]
    return f"{quoted(found.tokens[act.position])} {act.position}, {visible(act.source)}"


def reads(reason: Reason) -> str:
    """Parts of the conversation that it reads there, the largest shares first."""
    shown = [one for one in reason.role.reads if one.share >= 0.1]
    return ", ".join(f"{visible(one.source)} {100 * one.share:.0f} %" for one in shown) or "-"


def change(one: Changed | None) -> str:
    """The lost log-odds, and the likeliest token then, where that is another."""
    if one is None:
        return "-"
    return f"{one.lost:+.2f}" + (f" → {quoted(one.token)}" if one.flips else "")


def _outcome(one: Without) -> str:
    if not one.changes_call:
        return "the call stays"
    return f"the reply is {visible(reply_text(one.calls, one.text))}"


def show_explanation(out: Console, view: ExplainView) -> None:
    """Print the explanation for people."""
    found = view.found
    out.print(f"record   {found.record}")
    out.print(f"call     {visible(call_text(view.call))}")
    out.print(Text("guard    ") + verdict_text(view.verdict), soft_wrap=True)
    out.print(f"chosen   {view.choice}", soft_wrap=True)
    for remark in view.remarks:
        out.print(f"read     {remark}", soft_wrap=True)
    for title, reasons in (("For it", found.reasons), ("Against it", found.opposing)):
        if reasons:
            out.print()
            _show_reasons(out, title, found, reasons)
    out.print()
    for line in view.together:
        out.print(line, soft_wrap=True)
    layers = "  ".join(f"{site.compact} {total:+.2f}" for site, total in found.layers.items())
    out.print(f"all features of a layer, by estimate: {layers}", soft_wrap=True)
    out.print(
        "log-odds of the choice that go when a feature is 0: by estimate, ablated at every token, at the choice's step "
        "alone, and of a random feature in its place, active where it acts; reads: what attention brought it there",
        soft_wrap=True,
    )


def _show_reasons(out: Console, title: str, found: Explanation, reasons: Sequence[Reason]) -> None:
    rows = []
    for one in reasons:
        numbers = (f"{one.role.effect:+.2f}", *map(change, (one.ablated, one.at_choice, one.control_ablated)))
        label = visible(one.label)
        short = label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
        rows.append((name_of(one), *numbers, acts_at(found, one), reads(one), short))
    titles = (title, "Estimate", "Ablated", "At the choice", "Random", "Acts most at", "Reads", "Label")
    print_rows(out, titles, rows, main=5, words=(title, "Acts most at", "Reads", "Label"))


def explanation_json(view: ExplainView) -> dict[str, Any]:
    """The explanation as one JSON object; `tokens` and what stands beside them go up to the choice and beyond."""
    found = view.found
    plain = asdict(found)
    for name in ("without", "without_at_choice"):
        plain[name] = _plain(getattr(found, name))
    for name in ("controls", "controls_at_choice", "growing", "growing_controls"):
        plain[name] = [_plain(one) for one in getattr(found, name)]
    plain["choice"] = found.choice._asdict()
    plain["turning"] = None if found.turning is None else len(found.turning.features)
    for name in ("reasons", "opposing"):
        for row, one in zip(plain[name], getattr(found, name), strict=True):
            row["role"]["acts"] = [act._asdict() for act in one.role.acts]
            row["role"]["reads"] = [part._asdict() for part in one.role.reads]
            row["ablated"], row["at_choice"] = one.ablated._asdict(), one.at_choice._asdict()
            row["control_ablated"] = None if one.control_ablated is None else one.control_ablated._asdict()
    return {"content": written(view.call), "verdict": written(view.verdict), **plain}


def _plain(one: Without) -> dict[str, Any]:
    return {**asdict(one), "calls": [_plain_call(call) for call in one.calls]}


def _plain_call(call: CallLike) -> dict[str, Any]:
    if isinstance(call, MalformedCall):
        return {"malformed": call.error, "raw": call.raw}
    return {"name": call.name, "arguments": dict(call.arguments)}
