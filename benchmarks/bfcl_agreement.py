"""Whether steerkit scores BFCL's tests as BFCL's own checker does, on right answers and on systematic changes of them.

    pip install --no-deps --target DIR bfcl-eval==2026.3.23
    python benchmarks/bfcl_agreement.py DIR      # a minute or two on one core

Every test of the package's data that has possible answers and that steerkit reads is answered in every right way that
differs in one alternative, and in wrong ways that differ from a right one by one change. Both judge each answer. The
exit code says whether they ever differ.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from steerkit.lab.prove.suites.ast_match import MAY_BE_LEFT_OUT
from steerkit.lab.prove.suites.cases import SuiteCase, missed, read_bfcl
from steerkit.types import Call

Calls = Sequence[tuple[str, Mapping[str, Any]]]
"""Calls as name and arguments."""
MODEL = "google_functiongemma-270m-it-FC"


def main(folder: str) -> int:
    """Compare, print a table, and return the number of differences."""
    checker, data = own_checker(folder), Path(folder, "bfcl_eval", "data")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case, functions, truth in tests(data):
        for kind, calls in answers(case):
            ours = missed(case, [Call(name, arguments) for name, arguments in calls]) is None
            try:
                theirs = checker(functions, calls, truth, case.category)
            except (TypeError, KeyError, IndexError) as error:
                theirs = None if ours else False  # it has no answer: whatever breaks it must not pass here
                counts[case.category][f"it raised {type(error).__name__}"] += 1
            counts[case.category]["passed" if ours else "failed"] += 1
            if ours is not theirs:
                counts[case.category]["differing"] += 1
                print(f"{case.id}: {kind}: here {ours}, there {theirs}: {json.dumps(calls, ensure_ascii=False)[:300]}")
    for category, count in counts.items():
        print(f"{category}: {dict(sorted(count.items()))}")
    total = sum(counts.values(), Counter())
    print(f"{total['passed'] + total['failed']:,} comparisons, {total['passed']:,} passed: {total['differing']} differ")
    return total["differing"]


def own_checker(folder: str) -> Callable[[Any, Calls, Any, str], bool]:
    """BFCL's checker. Its table of models would import every vendor's client; names of functions stay."""
    sys.path.insert(0, folder)
    models = ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = defaultdict(lambda: SimpleNamespace(underscore_to_dot=False))  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    def judged(functions: Any, calls: Calls, truth: Any, category: str) -> bool:
        written = [{name: arguments} for name, arguments in calls]
        return bool(ast_checker(functions, written, truth, Language.PYTHON, category, MODEL)["valid"])

    return judged


def tests(data: Path) -> Iterator[tuple[SuiteCase, Any, Any]]:
    """Each test that steerkit reads and that has answers, with the functions and the answers as BFCL writes them."""
    functions, truths = {}, {}
    for path in data.glob("BFCL_v4_*.json"):
        answer = data / "possible_answer" / path.name
        if "multi_turn" not in path.name and "format" not in path.name and answer.exists():
            functions |= {row["id"]: row.get("function") for row in map(json.loads, path.open(encoding="utf-8"))}
            truths |= {row["id"]: row["ground_truth"] for row in map(json.loads, answer.open(encoding="utf-8"))}
    for case in read_bfcl(data):
        if case.wants == "calls" and not case.undeclared:
            yield case, functions[case.id], truths[case.id]


def answers(case: SuiteCase) -> Iterator[tuple[str, Calls]]:
    """Right answers of a test and changed ones, each with what was done."""
    first = [(one.name, arguments_of(one.arguments)) for one in case.answers]
    yield "right", first
    yield "nothing left out or added", [(one.name, arguments_of(one.arguments, least=True)) for one in case.answers]
    yield from changed_order(first)
    names = [tool.name for tool in case.tools]
    for number, (name, arguments) in enumerate(first):
        accepted = case.answers[number].arguments
        for kind, one in (*alternatives(accepted), *changed_arguments(arguments, accepted)):
            yield f"calls[{number}] {kind}", [*first[:number], (name, one), *first[number + 1 :]]
        for other in {name.upper(), name + "x", name.replace(".", "_"), name.rpartition(".")[2], *names} - {name}:
            yield f"calls[{number}] named {other}", [*first[:number], (other, arguments), *first[number + 1 :]]


def changed_order(calls: Calls) -> Iterator[tuple[str, Calls]]:
    """Other numbers and orders of calls."""
    yield "no calls", []
    yield "reversed", calls[::-1]
    yield "turned", [*calls[1:], *calls[:1]]
    yield "one more", [*calls, ("another", {})]
    for number in range(len(calls)):
        yield f"without {number}", [*calls[:number], *calls[number + 1 :]]
        yield f"{number} twice", [*calls[: number + 1], *calls[number:]]
        yield f"all are {number}", [calls[number]] * len(calls)


def arguments_of(accepted: Mapping[str, Sequence[Any]], *, least: bool = False) -> dict[str, Any]:
    """The first accepted value of each parameter; at least, of those alone that may not be left out."""
    return {name: value_of(value, least=least) for name, value in firsts(accepted, least).items()}


def firsts(accepted: Mapping[str, Sequence[Any]], least: bool) -> dict[str, Any]:
    """The first accepted value of each key, as it stands."""
    kept = {name: values for name, values in accepted.items() if not (least and MAY_BE_LEFT_OUT in values)}
    written = {name: [one for one in values if one != MAY_BE_LEFT_OUT] for name, values in kept.items()}
    return {name: values[0] for name, values in written.items() if values}


def value_of(accepted: Any, *, least: bool = False) -> Any:
    """A value that is accepted: an object has accepted values for each key, and what is deeper is as it stands."""
    if isinstance(accepted, Mapping):
        return firsts(accepted, least)
    if isinstance(accepted, list):
        return [firsts(one, least) if isinstance(one, Mapping) else one for one in accepted]
    return accepted


def alternatives(accepted: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each accepted value of each parameter, and of the keys of objects."""
    first = arguments_of(accepted)
    for name, values in accepted.items():
        for number, value in enumerate(values):
            where = f"{name} as accepted[{number}]"
            yield where, {**first, name: value_of(value)}
            yield f"{where}, least", {**first, name: value_of(value, least=True)}
            yield f"{where}, as it stands", {**first, name: value}
            for key, inner in value.items() if isinstance(value, Mapping) else ():
                yield from (
                    (f"{where}.{key}: {one!r}", {**first, name: {**value_of(value), key: one}}) for one in inner
                )


def changed_arguments(
    arguments: Mapping[str, Any], accepted: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Arguments with one change."""
    yield "one parameter more", {**arguments, "another_parameter": 1}
    yield "none", {}
    for name, value in arguments.items():
        rest = {key: one for key, one in arguments.items() if key != name}
        yield f"without {name}", rest
        yield f"{name} by another name", {**rest, name + "_": value}
        for kind, other in changed(value):
            yield f"{name} {kind}", {**arguments, name: other}
    for name in accepted.keys() - arguments.keys():
        for other in ("x", "", 0, 1, 1.0, True, [], {}, None):
            yield f"{name} given as {other!r}", {**arguments, name: other}


def changed(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Values that differ from one by one change, at every depth."""
    yield from ((f"as {other!r}", other) for other in ("", "x", 0, 1, 0.0, 1.0, True, False, None, [], {}, [[]], [{}]))
    yield "in a list", [value]
    yield "in an object", {"value": value}
    yield "as text", str(value)
    yield "as JSON", json.dumps(value)
    if isinstance(value, str):
        marked = "".join(f"{letter}{mark}" for letter, mark in zip(value, " ,./-_*^" * len(value), strict=False))
        for kind, other in {
            "upper": value.upper(), "swapped": value.swapcase(), "marked": marked, "longer": value + "x",
            "other quotes": value.translate({39: 34, 34: 39}), "split": value.split(), "letters": list(value),
            "other mark": value + ";", "spaced": f" {value} ", "newline": value + "\n",
        }.items():  # fmt: skip
            yield kind, other
        for read in (int, float):
            try:
                yield f"as {read.__name__}", read(value)
            except ValueError:
                continue
    elif isinstance(value, bool):
        yield from (("not", not value), ("as int", int(value)), ("as float", float(value)))
    elif isinstance(value, (int, float)):
        yield from (("as float", float(value)), ("as int", int(value)), ("one more", value + 1), ("negative", -value))
        yield from (("as bool", bool(value)), ("nearly", value + 1e-9))
    elif isinstance(value, list):
        yield from (("reversed", value[::-1]), ("shorter", value[:-1]), ("longer", value + value[:1]))
        yield from (("doubled", value * 2), ("first alone", value[0] if value else None))
        for number, item in enumerate(value[:4] if depth < 2 else ()):
            for kind, other in changed(item, depth + 1):
                yield f"[{number}] {kind}", [*value[:number], other, *value[number + 1 :]]
    elif isinstance(value, Mapping):
        yield "one key more", {**value, "another_key": 1}
        for key, item in value.items() if depth < 3 else ():
            yield f"without {key}", {name: one for name, one in value.items() if name != key}
            for kind, other in changed(item, depth + 1):
                yield f".{key} {kind}", {**value, key: other}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").strip())
    sys.exit(main(sys.argv[1]) > 0)
