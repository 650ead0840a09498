"""Everything that a request may not be: each is an error in OpenAI's form that names its field."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import openai
import pytest

from steerkit.errors import SettingError
from steerkit.server import Key, Options, hashed, read_keys
from steerkit.server.chat_request import REFUSED
from tests.server.serving import BALANCE, TOOLS, Served, serving

CHAT = "/v1/chat/completions"
GOOD = {"model": "tiny", "messages": BALANCE}
SEEN = {"n": 2, "logprobs": True, "top_logprobs": 3, "presence_penalty": 0.5, "frequency_penalty": 0.5}
WRONG: list[tuple[str, Any, str]] = [
    ("frequency", 1, "frequency"),
    ("temperature", "hot", "temperature"),
    ("temperature", -1, "temperature"),
    ("top_p", 0, "top_p"),
    ("max_tokens", 0, "max_tokens"),
    ("max_completion_tokens", 10**9, "max_completion_tokens"),
    ("stream_options", {"include_usage": True}, "stream_options"),
    ("stream_options", {"include_obfuscation": True}, "stream_options.include_obfuscation"),
    ("tool_choice", "required", "tool_choice"),
    ("tool_choice", {"type": "function", "function": {"name": "get_balance"}}, "tool_choice"),
    ("tools", [{"type": "custom", "custom": {}}], "tools[0].type"),
    ("tools", [{"type": "function", "function": {"name": "f", "parametres": {}}}], "tools[0].function.parametres"),
    ("tools", [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}], "tools"),
    ("tools", [{"type": "function", "function": {"name": f"f{n}"}} for n in range(257)], "tools"),
    ("messages", [], "messages"),
    ("messages", [{"role": "robot", "content": "x"}], "messages[0].role"),
    ("messages", [{"role": "user", "content": "x", "name": "ann"}], "messages[0].name"),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0]"),
    ("messages", [{"role": "tool", "content": "x", "tool_call_id": "nobody"}], "messages"),
    ("messages", [{"role": "user", "content": "x"}] * 2001, "messages"),
    ("model", "tinny", "model"),
    ("model", "tiny:nothing", "model"),
    ("steerkit", {"policy": "orders"}, "steerkit.policy"),
    ("steerkit", {"polcy": "none"}, "steerkit.polcy"),
    ("metadata", {"request_id": "mine"}, "metadata"),
    ("metadata", {"deep": {"a": 1}}, "metadata"),
]


@pytest.mark.parametrize(("field", "value", "param"), WRONG)
def test_a_wrong_field_is_named(served: Served, field: str, value: Any, param: str) -> None:
    """Status 400 (404 of a model), and `param`; openai's client has a class for it."""
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        served.client().post(CHAT.removeprefix("/v1"), body={**GOOD, field: value}, cast_to=object)
    assert caught.value.param == param
    assert isinstance(caught.value, openai.NotFoundError) is (field == "model")


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_served_is_refused_and_its_neutral_value_is_not(served: Served, field: str) -> None:
    """Every field of the table, so that none is dropped in silence."""
    wrong = served.post(CHAT, {**GOOD, field: SEEN.get(field, {"some": "thing"})})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, field)
    assert served.post(CHAT, {**GOOD, "max_tokens": 1, field: REFUSED[field].neutral[-1]}).status_code == 200


def test_bodies_are_bounded(served: Served) -> None:
    """Size, depth, type, and what JSON is not; afterwards the server serves on."""
    url, json = f"{served.url}{CHAT}", {"content-type": "application/json"}
    for content, headers, status in (
        (b"x" * (5 << 20), json, 413),
        (b"[" * 100_000, json, 400),
        (b'{"a":' * 100 + b"1" + b"}" * 100, json, 400),
        (b'{"a": 1, "a": 2}', json, 400),
        (b'{"a": NaN}', json, 400),
        (b"[]", json, 400),
        (b"\xff\xfe", json, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
    ):
        found = served.http.post(url, content=content, headers=headers)
        assert (found.status_code, set(found.json()["error"])) == (status, {"message", "type", "param", "code"})
    with socket.create_connection(served.url.removeprefix("http://").split(":")) as slow:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{{"
        )
        slow.sendall(head.encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    assert served.post(CHAT, {**GOOD, "max_tokens": 1}).status_code == 200


def test_other_names_and_pages_are_not_let_in(served: Served) -> None:
    """A page whose name was bound to this address, or that calls from another origin, gets nothing."""
    port = served.url.rpartition(":")[2]
    assert served.get("/v1/models", headers={"host": f"evil.example:{port}"}).status_code == 403
    assert served.get("/v1/models", headers={"origin": "http://evil.example"}).status_code == 403
    found = served.get("/v1/models", headers={"host": f"localhost:{port}", "origin": f"http://localhost:{port}"})
    assert found.status_code == 200
    assert found.headers["x-frame-options"] == "DENY"
    assert len(found.headers["x-request-id"]) == 26


def test_unknown_paths_are_told(served: Served) -> None:
    """404 and 405 in OpenAI's form, with the paths there are."""
    assert served.post("/v1/embeddings", {}).json()["error"]["code"] == "not_found"
    assert served.get(CHAT).status_code == 405


def test_models_are_listed_with_their_policies(served: Served) -> None:
    """Each may be retrieved, and asked for."""
    names = [one.id for one in served.client().models.list()]
    assert names[:3] == ["tiny", "tiny:payments", "tiny:people"]
    assert "tiny:none" in names
    assert served.client().models.retrieve("tiny:people").id == "tiny:people"


def test_a_base_policy_cannot_be_left(tmp_path: Path) -> None:
    """Whatever a request chooses, the base judges its calls too."""
    with serving(tmp_path, base=["people"], allowed=["payments", "none"]) as served:
        ask = {"messages": [{"role": "user", "content": "please open the south cellar door"}], "tools": TOOLS}
        for model in ("tiny", "tiny:none", "tiny:payments", "tiny:people"):
            reply = served.post(CHAT, {"model": model, **ask}).json()
            assert reply.get("steerkit", reply)["status"] == "held"
        assert [one.id for one in served.client().models.list()] == ["tiny", "tiny:payments", "tiny:none"]


def test_keys_let_in_and_bound(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a key 401; each with its own policies and limits; neither key nor text is in a log or a record."""
    file = tmp_path / "keys.json"
    file.write_text(
        f'{{"keys": [{{"name": "ann", "sha256": "{hashed("secret-ann")}", "policies": ["people"], "per_minute": 3}},'
        f'{{"name": "ops", "sha256": "{hashed("secret-ops")}", "approves": true, "reads_all": true}}]}}'
    )
    caplog.set_level("INFO", "steerkit.server")
    with serving(tmp_path, ["payments"], ["people", "none"], keys=tuple(read_keys(file))) as served:
        with pytest.raises(openai.AuthenticationError):
            served.client("wrong").models.list()
        assert served.get("/health").status_code == 200
        ann = served.client("secret-ann")
        assert [one.id for one in ann.models.list()] == ["tiny", "tiny:people"]
        with pytest.raises(openai.NotFoundError):
            ann.chat.completions.create(model="tiny:none", messages=BALANCE)  # type: ignore[arg-type]
        ann.chat.completions.create(model="tiny", messages=BALANCE, max_tokens=1)  # type: ignore[arg-type]
        with pytest.raises(openai.RateLimitError) as caught:
            ann.models.list()
        assert int(caught.value.response.headers["retry-after"]) > 30
        assert len(list(served.client("secret-ops").models.list())) == 4
        (record,) = [one for one in served.store.records() if b'"turn"' in one.body and one.content["kind"] == "turn"]
        assert record.content["metadata"]["api_key"] == "ann"
    said = [str(getattr(one, "said", "")) + one.getMessage() for one in caplog.records]
    assert any("'key': 'ann'" in line for line in said)
    assert not any("secret" in line or "travel 38" in line for line in said)


def test_an_open_door_needs_keys(tmp_path: Path) -> None:
    """Another host than this machine without keys is refused; files of keys are checked."""
    with pytest.raises(SettingError, match="without keys"):
        Options(host="0.0.0.0")
    assert Options(host="0.0.0.0", keys=(Key(name="a", digest=hashed("b")),)).hosts is None
    file = tmp_path / "keys.json"
    for text, said in (
        ("[]", "expected"),
        ('{"keys": [{"name": "a", "key": "open"}]}', "sha256"),
        (f'{{"keys": [{",".join([f"""{{"name": "a", "sha256": "{hashed("b")}"}}"""] * 2)}]}}', "twice"),
    ):
        file.write_text(text)
        with pytest.raises(SettingError, match=said):
            read_keys(file)
