"""Policy files: every field that they can hold, and every mistake with its line and path."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from steerkit.errors import PolicyError
from steerkit.policy import Gate, leaves_of, load, loads
from steerkit.sites import Feature
from tests.policy.example import GOOD


def test_every_field_is_read() -> None:
    """The example's values arrive, and what was not said has its default."""
    policy = loads(GOOD)
    assert policy.features["urge"].feature == Feature(2, 417)
    assert policy.probes["risk"].weights == {"urge": 1.4, "order": 0.8}
    assert [rule.where for rule in policy.steer] == ["reply.start", "reply", "call.arguments.amount", "call.name"]
    assert [(rule.hold, rule.hold_tokens, rule.priority) for rule in policy.steer[1:]] == [
        ("token", 1, 0),
        ("token", 1, 2),
        ("turn", float("inf"), 1),
    ]
    assert policy.steer[2].when == "retry"
    gate = policy.steer[3].when
    assert isinstance(gate, Gate)
    assert gate.at == "tool_result"
    latched, negated = gate.all or ()
    assert (latched.feature, latched.above, latched.off_below) == ("order", "3 std", "1 std")
    assert negated.not_ is not None
    assert (negated.not_.probe, negated.not_.below, negated.not_.mean_over) == ("risk", -1, 4)
    assert policy.guard is not None
    assert policy.guard.rules[1].reason == "payments over 100 need a person"
    assert (policy.mode, policy.write_back, policy.trace.top_k) == ("shadow", "reconstruction", 16)
    bare = loads("steerkit: 1\nname: x\n")
    probe, feature = policy.steer[0].when, policy.steer[1].when
    assert isinstance(probe, Gate)
    assert isinstance(feature, Gate)
    assert (probe.probe, probe.above, probe.below) == ("risk", 0.5, None)
    assert (feature.feature, feature.above, feature.below) == ("order", "0.5 max", "2 max")
    assert policy.steer[0].edit["urge"].clamp == 0
    assert policy.steer[1].edit["order"].model_dump(exclude_none=True) == {
        "scale": 2,
        "shift": "1 std",
        "cap": "3 max",
        "floor": 0,
    }
    assert [(rule.name, rule.tool, rule.then) for rule in policy.guard.rules] == [
        ("schema", "*", "deny"),
        ("large", "transfer_money", "hold"),
        ("seen", "*", "deny"),
        ("again", "*", "retry"),
        ("send", "send_email", "deny"),
    ]
    again, send = policy.guard.rules[3:]
    assert (again.with_, again.attempts, send.tripwire, again.tripwire) == ("calm", 2, True, False)
    assert [part.reads for part in leaves_of(again.when)] == ["urge", "risk"]
    assert (again.when.at, again.when.any[0].at, again.when.any[1].mean_over) == ("user", "call.open", 2)  # type: ignore[union-attr, index]
    assert send.after is not None
    assert send.without is not None
    assert (send.after.tool, send.after.result) == ("read_file", {"required": ["text"]})
    assert (send.without.tool, send.without.arguments, send.without.result) == ("ask_person", {}, None)
    assert policy.guard.rules[0].when == "invalid_arguments"
    assert policy.guard.rules[1].arguments == {"properties": {"amount": {"exclusiveMinimum": 100}}}
    assert policy.guard.rules[2].when.at == "prompt"  # type: ignore[union-attr]
    assert (policy.trace.watch, policy.trace.at, policy.guard.default) == (("urge", "risk"), "call", "allow")
    assert (policy.name, policy.description, policy.model) == ("payments", "what it is for", "tiny")
    assert (policy.features["urge"].label, policy.probes["risk"].bias) == ("about to move money", -2.1)
    assert (bare.mode, bare.write_back, bare.guard, bare.steer) == ("enforce", "delta", None, ())


def test_five_mistakes_are_all_named_with_line_and_path() -> None:
    """One reading finds every mistake, in the order of their lines."""
    text = GOOD.replace("layer: 1, index: 90", "layer: -1, index: 90").replace("where: reply.start", "where: start")
    text = (
        text.replace("default: allow", "default: block")
        .replace("then: hold", "than: hold")
        .replace("[urge, risk]", "[urge, risc]")
    )
    with pytest.raises(PolicyError) as caught:
        loads(text, "mail.yaml")
    assert caught.value.problems == [
        "mail.yaml:7 features.order.layer: got -1, expected greater than or equal to 0",
        "mail.yaml:13 steer[0].where: got 'start'; expected one of any, prompt, developer, declaration, user, "
        "tool_result, reply, reply.start, text, call, call.open, call.name, call.arguments or call.arguments.NAME",
        "mail.yaml:33 guard.default: got 'block', expected 'allow', 'flag', 'hold', 'deny', 'handoff' or 'stop'",
        "mail.yaml:36 guard.rules[1]: got no 'then', expected one",
        "mail.yaml:39 guard.rules[1].than: got an unknown key 'than'; did you mean 'then'?",
        "mail.yaml:53 trace.watch[1]: got 'risc', which is no feature or probe of this policy; did you mean 'risk'?",
    ]


MISTAKES = {
    "unknown feature": ("edit: {urge:", "edit: {urgee:", "got 'urgee', which is no feature.*did you mean 'urge'"),
    "unit": ("0.5 max", "0.5 mux", "got '0.5 mux'; expected a number, or a number and a unit"),
    "boolean quantity": ("clamp: 0", "clamp: true", "got True; expected a number"),
    "infinite": ("clamp: 0", "clamp: .inf", "expected a finite number"),
    "clamp and scale": ("{clamp: 0}", "{clamp: 0, scale: 2}", "expected clamp or ablate alone"),
    "empty edit": ("{clamp: 0}", "{}", "expected clamp, ablate, scale, shift, cap or floor"),
    "no bound": ("{probe: risk, above: 0.5}", "{probe: risk}", "expected above, below or both"),
    "two sources": ("{probe: risk,", "{probe: risk, feature: urge,", "exactly one of feature, probe, all, any and not"),
    "unit on a probe": ("{probe: risk, above: 0.5}", "{probe: risk, above: 1 max}", "a probe is a sum and has no unit"),
    "bounds crossed": ("below: 2 max", "below: 0.1 max", "to be less than below"),
    "cap below floor": ("floor: 0", "floor: 4 max", "to be at most cap"),
    "twice the name": ("name: boost", "name: damp", "got 'damp' a second time"),
    "same feature": ("order: {scale", "urge: {scale", "layer 2 feature 417, which rule 'damp'"),
    "same feature again": (
        "edit: {urge: {clamp: 0}}",
        "edit: {order: {clamp: 0}}",
        "got layer 1 feature 90, which rule 'damp'",
    ),
    "probe named as feature": ("  risk: {bias", "  urge: {bias", "which is also a feature"),
    "no schema": ("{properties: {amount", "{type: 3, properties: {amount", "expected a JSON Schema"),
    "no default": ("  default: allow\n", "", "guard: got no 'default'"),
    "version": ("steerkit: 1", "steerkit: 2", "got 2, expected 1"),
    "top_k": ("top_k: 16", "top_k: 1000", "expected less than or equal to 256"),
    "key twice": ("mode: shadow", "mode: shadow\nmode: enforce", "got the key 'mode' a second time"),
    "alias": ("features:", "x: &a 1\ny: *a\nfeatures:", r"got a YAML alias"),
    "no YAML": ("features:", "features: [", "not YAML"),
    "no mapping": (GOOD, "- 1", "got no mapping"),
    "bad name": ("name: payments", "name: 'a b'", "name: got 'a b'"),
    "empty": (GOOD, "", "got no mapping"),
    "mapping for a word": ("mode: shadow", "mode: {shadow: 1}", r":54 mode: got a mapping, expected 'enforce' or"),
    "word for a mapping": ("index: 90}", "index: 90}\n  third: L2", r":8 features.third: got 'L2', expected"),
    "word for a guard": ("trace: {watch: [urge, risk], top_k: 16, at: call}", "trace: reply", ":53 trace: got 'reply'"),
    "half a character": ("what it is for", '"\\ud800"', "expected Unicode text"),
    "half a character as a key": ("{urge: {clamp: 0}}", '{"\\ud800": {clamp: 0}}', "got a key that is no text"),
    "a number beyond floats": ("clamp: 0", f"clamp: {10**400}", "expected a finite number"),
    "no finite schema": ("exclusiveMinimum: 100", "exclusiveMinimum: .nan", "finite numbers"),
    "key of a list": ("mode: shadow", "? [a]\n: 1\nmode: shadow", "got a key that is no text"),
    "nested tag": ("what it is for", "!!python/object:os.system x", "which YAML cannot read"),
    "no condition word": ("when: invalid_arguments", "when: wrong", "expected 'invalid_arguments'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_every_mistake_has_its_own_words(case: str) -> None:
    """The good file loads; with one thing wrong, the error says which and where."""
    right, wrong, error = MISTAKES[case]
    assert right in GOOD
    assert loads(GOOD).name == "payments"
    with pytest.raises(PolicyError, match=error):
        loads(GOOD.replace(right, wrong, 1))


def problems_of(text: str) -> list[str]:
    """The mistakes of a text; any other error goes through."""
    try:
        loads(text)
    except PolicyError as error:
        return error.problems or ["nothing was said"]
    return []


def test_broken_files_never_give_anything_but_their_errors() -> None:
    """Three hundred random cuts, swaps and insertions either load or name their mistakes."""
    rng = random.Random(0)
    failures = 0
    for _ in range(300):
        text = list(GOOD)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text))
            match rng.randrange(3):
                case 0:
                    del text[at : at + rng.randint(1, 12)]
                case 1:
                    text.insert(at, rng.choice("{}[]:,-*&!|>'\"#\t\n 0x"))
                case _:
                    text[at] = rng.choice("{}[]:,abc09 \n")
        problems = problems_of("".join(text))
        failures += bool(problems)
        assert all(problem.startswith("<string>:") for problem in problems)
    assert failures > 150


MORE_MISTAKES = {
    "features": ("layer: 2, index: 417", "layer: 2, indx: 417", "did you mean 'index'?"),
    "probes": ("bias: -2.1", "bais: -2.1", "did you mean 'bias'?"),
    "steer": ("where: reply.start", "were: reply.start", "did you mean 'where'?"),
    "edit": ("clamp: 0", "clmp: 0", "did you mean 'clamp'?"),
    "gate": ("above: 0.5}", "abov: 0.5}", "did you mean 'above'?"),
    "guard": ("default: allow", "defalt: allow", "did you mean 'default'?"),
    "rule": ("reason: payments", "raeson: payments", "did you mean 'reason'?"),
    "evidence": ("at: prompt", "att: prompt", "did you mean 'at'?"),
    "trace": ("top_k: 16", "top_n: 16", "did you mean 'top_k'?"),
    "top": ("write_back: rec", "writeback: rec", "did you mean 'write_back'?"),
}


@pytest.mark.parametrize("part", MORE_MISTAKES)
def test_misspelt_keys_are_told_the_key_they_meant(part: str) -> None:
    """In every part of a policy an unknown key is refused at its line, with the close key; a far one gets none."""
    right, wrong, hint = MORE_MISTAKES[part]
    (line,) = (n for n, text in enumerate(GOOD.splitlines(), 1) if right in text)
    found = problems_of(GOOD.replace(right, wrong, 1))
    assert any(hint in text and text.startswith(f"<string>:{line} ") for text in found), found
    assert "did you mean" not in "".join(
        problems_of(GOOD.replace(right, "zzzzzz: 0" + right[right.index(":") + 3 :], 1))
    )


def test_a_file_gives_the_policy_of_its_text(tmp_path: Path) -> None:
    """Reading a file is reading its text, and errors name the file."""
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    assert load(path) == load(str(path)) == loads(GOOD)
    path.write_text(GOOD.replace("then: hold", "then: hol"))
    with pytest.raises(PolicyError) as caught:
        load(path)
    assert caught.value.problems[0].startswith(f"{path}:39 guard.rules[1].then: got 'hol', expected")
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing, a folder, not text, too large, too deep: one clear line each."""
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 21))
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    cases = {
        "none.yaml": "no such file",
        "": "cannot be read",
        "latin.yaml": "not UTF-8",
        "large.yaml": "expected at most",
    }
    for name, error in {**cases, "deep.yaml": "too deep|not YAML|too deeply"}.items():
        with pytest.raises(PolicyError, match=error):
            load(tmp_path / name)
