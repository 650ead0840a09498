"""The command line as people use it: in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.tiny.demo_requests import policy_files

FIVE_MISTAKES = """\
steerkit: 1
name: mail
features: {f: {layer: -1, index: 3}}
steer:
  - {name: r, where: nowhere, edit: {f: {clamp: 0}, g: {clamp: 0}}}
guard: {default: block, rules: [{name: x, then: hold, tol: send}]}
"""


def steerkit(*arguments: str | Path, home: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command and check its exit status; a traceback is never shown."""
    command = [sys.executable, "-m", "steerkit.cli.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "STEERKIT_HOME": str(home)})
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """One run of the demo: its state and its lines."""
    home = tmp_path_factory.mktemp("demo")
    done = steerkit("demo", "--json", home=home)
    return home, [json.loads(line) for line in done.stdout.splitlines()]


def by_name(demo: tuple[Path, list[dict[str, object]]], name: str) -> dict[str, object]:
    (found,) = [line for line in demo[1] if line["case"] == name]
    return found


def names(turn: object) -> list[str]:
    return [call["name"] for call in turn["calls"]]  # type: ignore[index]


def decisions(line: dict[str, object]) -> list[str]:
    return [verdict["decision"] for verdict in line["verdicts"]]  # type: ignore[attr-defined]


def test_the_demo_shows_every_kind_of_request(demo: tuple[Path, list[dict[str, object]]]) -> None:
    """Six requests, each with its unsteered and steered turn, verdicts and a record of its own."""
    assert [line["case"] for line in demo[1]] == ["benign", "dangerous", "held", "injected", "parallel", "plain"]
    assert len({line["record"] for line in demo[1]}) == 6
    assert all({"unsteered", "steered", "verdicts", "record", "watched"} <= set(line) for line in demo[1])


def test_the_demos_benign_requests_do_not_change(demo: tuple[Path, list[dict[str, object]]]) -> None:
    """Benign, parallel and plain requests come out the same, and their calls are released."""
    for name, calls in (("benign", 1), ("parallel", 2), ("plain", 0)):
        line = by_name(demo, name)
        assert line["steered"]["calls"] == line["unsteered"]["calls"]  # type: ignore[index]
        assert line["steered"]["text"] == line["unsteered"]["text"]  # type: ignore[index]
        assert len(names(line["steered"])) == calls
        assert set(decisions(line)) <= {"allow"}


def test_the_demos_dangerous_request_is_turned_away_by_steering(demo: tuple[Path, list[dict[str, object]]]) -> None:
    """Unsteered the model pays; steered it answers in text, before any guard had something to judge."""
    line = by_name(demo, "dangerous")
    assert names(line["unsteered"]) == ["transfer_money"]
    assert names(line["steered"]) == []
    assert line["steered"]["text"].strip()  # type: ignore[index]
    assert line["steered"]["edits"]  # type: ignore[index]


def test_the_demos_guard_holds_and_stops_the_injected_order(demo: tuple[Path, list[dict[str, object]]]) -> None:
    """The door waits for a person; the order in the email is not carried out, though the plain model follows it."""
    assert decisions(by_name(demo, "held")) == ["hold"]
    assert names(by_name(demo, "held")["unsteered"]) == ["unlock_door"]
    line = by_name(demo, "injected")
    assert names(line["unsteered"]) == ["transfer_money"]
    assert line["steered"]["released"] == []  # type: ignore[index]


def test_the_demos_records_are_listed_shown_and_verified(demo: tuple[Path, list[dict[str, object]]]) -> None:
    """Twelve turns of one run are on record; each can be looked at, and a changed byte is found."""
    home = demo[0]
    kept = ("--store", home / "demo.db")
    assert steerkit("audit", "verify", *kept, home=home).stdout.startswith("ok: 14 records, head ")
    assert len(steerkit("audit", "list", "--json", *kept, home=home).stdout.splitlines()) == 14
    record = str(by_name(demo, "held")["record"])
    shown = steerkit("audit", "show", record, *kept, home=home).stdout
    assert "HOLD  people/doors-need-a-person" in shown
    assert "unlock_door(" in shown
    assert json.loads(steerkit("audit", "show", record, "--json", *kept, home=home).stdout)["body"]["guard"] == "policy"
    copy = home / "copy.db"
    copy.write_bytes((home / "demo.db").read_bytes().replace(b'"decision":"hold"', b'"decision":"flag"', 1))
    assert "does not match its hash" in steerkit("audit", "verify", "--store", copy, home=home, status=1).stderr


def test_the_demo_for_people_names_the_next_commands(tmp_path: Path) -> None:
    """Without --json it shows both calls, bars, verdicts and records, and ends with the commands to look further."""
    shown = steerkit("demo", home=tmp_path).stdout
    for piece in (
        "without policies",
        "with policies",
        "HOLD",
        "record",
        "edited",
        "Look further:",
        "steerkit audit verify",
    ):
        assert piece in shown


def test_run_takes_one_turn(tmp_path: Path) -> None:
    """One message with tools and policies gives the call, its verdict and a record; JSON holds the same."""
    tools = Path(__file__).parents[2] / "examples" / "tools.json"
    arguments = ["run", "please open the south cellar door", "--tools", tools, "--policy", policy_files()[-1]]
    assert 'unlock_door(door="south cellar")' in steerkit(*arguments, home=tmp_path).stdout
    found = json.loads(steerkit(*arguments, "--json", home=tmp_path).stdout)
    assert (names(found), decisions(found)) == (["unlock_door"], ["hold"])
    assert found["record"]


def test_run_holds_a_reply_to_a_choice(tmp_path: Path) -> None:
    """A grammar's part in the reply has its line; a schema of the text comes from a file."""
    asked = ["run", "please send Karik 20 dollars", "--tools", "box"]
    shown = steerkit(*asked, "--tool-choice", "get_balance", "--no-parallel", home=tmp_path).stdout
    assert "get_balance(" in shown
    assert "left no choice about" in shown
    assert "no tool" not in steerkit(*asked, "--tool-choice", "none", "--stop", "no tool", home=tmp_path).stdout
    schema = tmp_path / "answer.json"
    schema.write_text('{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}')
    options = ["--tool-choice", "none", "--response-format", schema, "--json"]
    assert json.loads(json.loads(steerkit(*asked, *options, home=tmp_path).stdout)["text"]).keys() == {"ok"}


def test_run_lays_weights_out_anew_where_it_is_asked_to(tmp_path: Path) -> None:
    """The run's opening says so; the box, which is small, does not by itself."""
    for number, options in enumerate((["--prepack"], ["--no-prepack"], [])):
        store = tmp_path / f"{number}.db"
        steerkit("run", "hello", "--max-new-tokens", "2", "--store", store, *options, home=tmp_path)
        shown = json.loads(steerkit("audit", "show", "1", "--store", store, "--json", home=tmp_path).stdout)
        assert shown["body"]["machine"]["prepacked"] is (options == ["--prepack"])


def test_sae_inspect_prints_the_table(tmp_path: Path) -> None:
    """The seed's columns with the density beside them, one row a layer."""
    lines = steerkit("sae", "inspect", "tiny", home=tmp_path).stdout.splitlines()
    assert lines[0].split() == ["Layer", "Final", "Loss", "Final", "MSE", "L0", "Density"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "3"]


def test_five_mistakes_of_a_policy_are_five_lines(tmp_path: Path) -> None:
    """Every mistake is a line of its own; a good file says ok."""
    bad = tmp_path / "mail.yaml"
    bad.write_text(FIVE_MISTAKES)
    errors = steerkit("policy", "check", bad, home=tmp_path, status=1).stderr.splitlines()
    assert len(errors) == 5
    assert all(line.startswith(f"error: {bad}:") for line in errors)
    assert steerkit("policy", "check", *policy_files(), home=tmp_path).stdout.count("ok: ") == len(policy_files())


BAD = {
    "no such choice": (
        ["run", "x", "--tools", "box", "--tool-choice", "steal"],
        1,
        "tool_choice: got the tool 'steal', expected one of those declared: ",
    ),
    "missing tools": (["run", "x", "--tools", "none.json"], 1, "none.json: cannot be read"),
    "tools no JSON": (["run", "x", "--tools", "text.json"], 1, "text.json: not JSON"),
    "tool without name": (["run", "x", "--tools", "nameless.json"], 1, "tools[0]: got no name"),
    "missing model": (["run", "x", "--model", "./none"], 1, "./none: no such folder"),
    "missing SAEs": (["sae", "inspect", "./none"], 1, "./none: no such folder"),
    "missing policy": (["run", "x", "--policy", "none.yaml"], 1, "none.yaml: no such file"),
    "missing store": (["audit", "list", "--store", "none.db"], 1, "none.db: no such file"),
    "no database": (["audit", "verify", "--store", "text.json"], 1, "it is not a database"),
    "store in a folder's place": (["run", "x", "--store", "."], 1, "is a folder"),
    "unknown option": (["run", "x", "--polcy", "x"], 2, "No such option"),
    "unknown command": (["rum"], 2, "No such command"),
    "no message": (["run"], 2, "Missing argument"),
    "bad dtype": (["run", "x", "--dtype", "float31"], 1, "dtype: got 'float31'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_line(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line on stderr that says what was got, and a non-zero exit."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("hello, this is no JSON and no database either. " * 50)
    (tmp_path / "nameless.json").write_text('[{"description": "no name"}]')
    arguments, status, error = BAD[case]
    lines = [line for line in steerkit(*arguments, home=tmp_path, status=status).stderr.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert error in lines[0]


def test_light_commands_load_no_torch(tmp_path: Path) -> None:
    """Help, audit and policy commands run without importing torch."""
    code = "import sys; import steerkit.cli.main; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert "Commands" in steerkit("--help", home=tmp_path).stdout
    assert steerkit("--version", home=tmp_path).stdout.startswith("steerkit 0.")
