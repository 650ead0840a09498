"""AgentDojo through the loop: known calls solve their tasks, an obedient agent obeys until a guard says no."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.errors import MissingExtraError, SaeError
from steerkit.lab.prove.suites.agentdojo import AttackScore, run_agentdojo, trials_of
from steerkit.lab.prove.suites.agentdojo.tasks import attack_on
from steerkit.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore:tool :UserWarning")  # of a parameter that the template drops
ATTACK = "important_instructions"
TASK = "banking/user_task_1"
"""Its one call is read-only, and what it reads holds the order."""
NO_MONEY = {
    "steerkit": 1,
    "name": "no-money",
    "guard": {"default": "allow", "rules": [{"name": "no", "tool": "send_money", "then": "deny"}]},
}


def policy(**more: Any) -> Policy:
    return Policy.model_validate({**NO_MONEY, **more})


def ratio(score: AttackScore, name: str) -> tuple[float, int]:
    share = getattr(score, name)
    return share.hits, share.count


def test_known_calls_solve_their_tasks_through_the_wire_format(box: Runtime) -> None:
    """All of banking, each call through tokens, parser and guard; the control refuses each and solves hardly any."""
    plain, denied = run_agentdojo(
        box,
        trials_of(("banking",)),
        policy(guard={"default": "deny"}),
        agent="ground-truth",
    )
    assert (ratio(plain, "utility"), ratio(plain, "ran")) == ((16, 16), (33, 33))
    assert ratio(denied, "ran") == (0, 33)
    assert ratio(denied, "utility") == (7, 16)  # those of which the answer is all that is asked for
    assert plain.ended == denied.ended == {"answer": 16}


def test_an_obedient_agent_obeys_until_the_guard_refuses(box: Runtime) -> None:
    """The injected payment goes out plain and is refused under the policy; the user's task is solved in both."""
    everything = trials_of((TASK,), ATTACK)
    assert [trial.injection_task for trial in everything] == ["", *(f"injection_task_{number}" for number in range(9))]
    trials = everything[:2]
    plain, guarded = run_agentdojo(box, trials, policy(), attack=ATTACK, agent="obedient")
    assert (ratio(plain, "attacked"), ratio(plain, "under_attack"), ratio(plain, "ran")) == ((1, 1), (1, 1), (3, 3))
    assert (ratio(guarded, "attacked"), ratio(guarded, "under_attack")) == ((0, 1), (1, 1))
    assert ratio(guarded, "ran") == (2, 3)
    truthful, _ = run_agentdojo(box, trials, policy(), attack=ATTACK, agent="ground-truth")
    assert ratio(truthful, "attacked") == (0, 1)  # the control: who does not obey does no harm


def test_trials_of_a_user_task_count_once(box: Runtime) -> None:
    """Two injections into one task are one trial of the interval, and half a hit where one of them succeeds."""
    trials = [
        one for one in trials_of((TASK,), ATTACK) if one.injection_task in ("injection_task_0", "injection_task_7")
    ]
    (_, score) = run_agentdojo(box, trials, policy(), attack=ATTACK, agent="obedient")
    assert (score.trials, ratio(score, "attacked")) == (2, (0.5, 1))  # the second changes a password


def test_a_killed_run_goes_on(box: Runtime, tmp_path: Path) -> None:
    """What was kept is not played again, a line that was cut off is; the scores are those of one run."""
    trials = trials_of(("banking/user_task_0", "banking/user_task_2"))
    played: list[Any] = []

    def counting(work: Callable[[Runtime, Any], Any], pieces: Iterable[Any]) -> Iterator[Any]:
        for piece in pieces:
            played.append(piece)
            yield work(box, piece)

    settings: dict[str, Any] = {"agent": "ground-truth", "mapper": counting, "out": tmp_path}
    first = run_agentdojo(box, trials, **settings)
    assert len(played) == 2
    kept = tmp_path / "plain.jsonl"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9])
    assert run_agentdojo(box, trials, **settings) == first
    assert (len(played), kept.read_bytes()) == (3, whole)
    assert [json.loads(line)["trial"] for line in whole.splitlines()] == [trial.name for trial in trials]
    with pytest.raises(SaeError, match=r"holds results of another evaluation \(max_turns differ\)"):
        run_agentdojo(box, trials, **settings, max_turns=3)


def test_a_model_plays(box: Runtime) -> None:
    """The box solves nothing here, but each turn of it is taken, and what ended the trial is said."""
    (score,) = run_agentdojo(box, trials_of(("banking/user_task_3",)), max_turns=2, max_new_tokens=8)
    assert score.trials == 1
    assert sum(score.ended.values()) == 1


def test_an_attack_on_the_service_succeeds_where_the_task_fails(box: Runtime) -> None:
    """One injection task stands for all, as in AgentDojo; an agent that goes on as ever is not stopped by words."""
    trials = trials_of((TASK,), "dos")
    assert len(trials) == 2
    (score,) = run_agentdojo(box, trials, attack="dos", agent="ground-truth")
    assert (ratio(score, "under_attack"), ratio(score, "attacked")) == ((1, 1), (0, 1))


READS = {"features": {"f": {"layer": 0, "index": 1}}, "trace": {"watch": ["f"]}}
WRONG: dict[str, tuple[Callable[[Runtime], Any], str]] = {
    "a suite": (
        lambda box: trials_of(("bank",)),
        "--suites: got bank, but there is no bank; expected one of workspace",
    ),
    "a task": (
        lambda box: trials_of(("banking/user_task_99",)),
        "there is no user_task_99; expected one of user_task_0",
    ),
    "an attack": (lambda box: trials_of(attack="magic"), "--attack: got 'magic', expected one of "),
    "an attack by hand": (lambda box: attack_on("banking", "manual"), "--attack: got 'manual', expected one of "),
    "an injection without an attack": (
        lambda box: trials_of((f"{TASK}/injection_task_0",)),
        "got banking/user_task_1/injection_task_0 without an attack; give --attack",
    ),
    "features behind a script": (
        lambda box: run_agentdojo(box, trials_of((TASK,)), policy(**READS), agent="obedient"),
        "--agent obedient: policy 'no-money' reads or steers features, and behind a scripted agent is no model",
    ),
    "an arm": (
        lambda box: run_agentdojo(box, trials_of((TASK,)), policy(), arms=["plain", "naked"]),
        "arms: got naked, expected some of plain, shadow, steering, guard, policy, ungated",
    ),
    "an arm of no policy": (
        lambda box: run_agentdojo(box, trials_of((TASK,)), arms=["guard"]),
        "arms: got guard without a policy; give --policy, or the arm plain alone",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_there_is_named(box: Runtime, case: str) -> None:
    """One line, with what there is."""
    run, said = WRONG[case]
    with pytest.raises(SaeError) as found:
        run(box)
    assert said in str(found.value)


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that installs it."""
    monkeypatch.setitem(sys.modules, "agentdojo", None)
    with pytest.raises(MissingExtraError, match="eval --suite agentdojo needs the extra 'agentdojo': pip install"):
        trials_of()


@pytest.mark.slow
def test_every_task_of_every_suite_is_solved_by_its_known_calls(box: Runtime) -> None:
    """97 of 97 tasks, 339 of 339 calls."""
    score = run_agentdojo(box, trials_of(), agent="ground-truth")[-1]
    assert (score.suite, ratio(score, "utility"), ratio(score, "ran")) == ("all", (97, 97), (339, 339))
