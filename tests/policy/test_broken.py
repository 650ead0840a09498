"""Three hundred broken files: each of their mistakes is named with its line and path, and nothing else is raised."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from steerkit.errors import PolicyError
from steerkit.policy import loads
from tests.cli.test_commands import steerkit
from tests.policy.broken import FEATURE, PROBE, RULE, STEER, TOP, TRACE, draft, spoil, written

SEEDS = range(300)


def problems_of(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        loads(text, "p.yaml")
    return caught.value.problems


def test_every_injected_mistake_is_named() -> None:
    """One to five mistakes in each of 300 generated files; the file without them loads."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        one = draft(seed)
        assert loads(written(one.parts)[0]).name == "generated"
        seen.update(spoil(one, 1 + seed % 5))
        text, lines = written(one.parts)
        problems = problems_of(text)
        for path, says in one.mistakes:
            named = [line for line in problems if line.startswith(f"p.yaml:{lines[path]} {path}: ") and says in line]
            assert named, (seed, path, says, problems, text)
    assert len(seen) == sum(map(len, (FEATURE, PROBE, STEER, RULE, TRACE, TOP)))  # no kind was left out


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('"enforce"', '"enforce', None, "not YAML: found unexpected end of stream"),
        ("top_k: 4", "top_k: [4", None, "not YAML: "),
        ("mode:", "\tmode:", "mode:", "not YAML: found character"),
        ("mode:", " mode:", "mode:", "not YAML: "),
        ("mode:", "mode: x:", "mode:", "not YAML: mapping values are not allowed here"),
        ("mode:", "mode: \x01", "mode:", "not YAML: the character '\\x01' may not stand in it"),
        ("mode:", "mode: *other #", "mode:", "not YAML: found undefined alias"),
        ("mode:", "--- #", "--- #", "not YAML: but found another document"),
        ("mode:", "? [a]\n: 1\nmode:", "? [a]", "?: got a key that is no text"),
    ],
)
def test_bad_yaml_is_one_line_that_says_where(old: str, new: str, line: str | None, says: str) -> None:
    """Where reading has to stop, the line at which it did is named, or the one at which the open piece began."""
    text, _ = written(draft(0).parts)
    broken = text.replace(old, new, 1)
    assert broken != text
    (problem,) = problems_of(broken)
    assert says in problem
    if line is None:
        began = next(n for n, one in enumerate(broken.splitlines(), 1) if new in one)
        assert f"begun in line {began})" in problem
    else:
        number = next(n for n, one in enumerate(broken.splitlines(), 1) if line in one)
        assert problem.startswith(f"p.yaml:{number} ")


def test_the_command_line_names_every_mistake_and_fails(tmp_path: Path) -> None:
    """Five broken files and a right one in one call: a line for each mistake, no traceback, exit status 1."""
    files, expected = [], []
    for seed in range(5, 10):
        one = draft(seed)
        spoil(one, 1 + seed % 5)
        text, lines = written(one.parts)
        files.append(tmp_path / f"{seed}.yaml")
        files[-1].write_text(text)
        expected += [(f"error: {files[-1]}:{lines[path]} {path}: ", says) for path, says in one.mistakes]
    files.append(tmp_path / "right.yaml")
    files[-1].write_text(written(draft(5).parts)[0])
    done = steerkit("policy", "check", *files, home=tmp_path, status=1)
    errors = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    for start, says in expected:
        assert any(line.startswith(start) and says in line for line in errors), (start, says, errors)
    assert done.stdout == f"ok: {files[-1]}\n"
