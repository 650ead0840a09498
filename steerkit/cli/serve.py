"""`steerkit serve`: OpenAI's API on a steered, guarded and recorded model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerkit.cli.audit.options import StoreOption
from steerkit.cli.options import (
    Device,
    Dtype,
    Generates,
    Graphs,
    Model,
    Policies,
    Prepack,
    Saes,
    VllmSettings,
    generated_by,
    how_to_run,
)
from steerkit.report import say

if TYPE_CHECKING:
    from steerkit.server import Key

Base = Annotated[
    list[Path] | None, typer.Option(metavar="POLICY", help="Policy of every request, whatever it chooses.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(metavar="POLICY", help="Policy that requests may choose; 'none' lets them choose no policy."),
]
Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Another than this machine needs keys.")]
Port = Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="The model's name in requests.")]
ApiKey = Annotated[
    str | None, typer.Option(metavar="KEY", envvar="STEERKIT_API_KEY", help="Key that requests must bring.")
]
KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSON file of keys, hashed, each with policies and limits.")
]
AllowHost = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Name under which the server may be addressed.")
]
AllowOrigin = Annotated[list[str] | None, typer.Option(metavar="ORIGIN", help="Origin of web pages that may call it.")]
BatchSize = Annotated[int, typer.Option(min=1, metavar="COUNT", help="Requests generated together.")]
Queue = Annotated[int, typer.Option(min=1, metavar="COUNT", help="Requests that may wait.")]
ApprovalSeconds = Annotated[
    float, typer.Option(min=1, metavar="SECONDS", help="How long a held call waits for a decision.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1, metavar="COUNT", help="Longest reply where a request does not say.")]


def serve_command(
    model: Model = "tiny",
    saes: Saes = None,
    policy: Policies = None,
    base: Base = None,
    allow: Allow = None,
    store: StoreOption = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Name = None,
    api_key: ApiKey = None,
    keys: KeyFile = None,
    allow_host: AllowHost = None,
    allow_origin: AllowOrigin = None,
    batch_size: BatchSize = 16,
    queue: Queue = 64,
    approval_seconds: ApprovalSeconds = 3600.0,
    max_new_tokens: MaxNewTokens = 1024,
    device: Device = None,
    dtype: Dtype = None,
    prepack: Prepack = None,
    graphs: Graphs = "auto",
    engine: Generates = "transformers",
    vllm: VllmSettings = None,
) -> None:
    """Serve the model to OpenAI's clients: steered, guarded and recorded, with policies by request."""
    from steerkit.agent import load
    from steerkit.runtime import read_policies
    from steerkit.server import Limits, Names, Options, Service, serve

    options = Options(
        host=host,
        port=port,
        keys=_keys(api_key, keys),
        allowed_hosts=tuple(allow_host or ()),
        allowed_origins=tuple(allow_origin or ()),
        batch_size=batch_size,
        most_waiting=queue,
        approval_seconds=approval_seconds,
        limits=Limits(default_new_tokens=max_new_tokens, new_tokens=max(max_new_tokens, Limits.new_tokens)),
    )
    default, under = read_policies(policy or ()), read_policies(base or ())
    names = Names.of(name or Path(model).name, default, allow or (), under)
    how = {**how_to_run(device, dtype, prepack, graphs), "engine": generated_by(engine, vllm or ())}
    service = Service(options, names, lambda: load(model, saes, default, base=under, audit=store, **how))
    told = f"{names.model} on {{}}/v1, its records on {{}}/ui (Ctrl-C ends it)"
    serve(service, listening=lambda url: say(told.format(url, url)), ui=partial(_pages, approval_seconds))


def _keys(api_key: str | None, file: Path | None) -> tuple[Key, ...]:
    """The keys of both options. Raises SettingError."""
    from steerkit.errors import SettingError
    from steerkit.server import Key, hashed, read_keys

    if api_key == "":
        raise SettingError("--api-key: got an empty text, expected a key")
    return (*(read_keys(file) if file else ()), *([Key(name="api-key", digest=hashed(api_key))] if api_key else ()))


def _pages(seconds: float, path: Path, ending: Callable[[], bool]) -> Any:
    """The viewer of the server's store; whoever's key may decide over the API may decide there."""
    from steerkit.viewer import Deciding, Person, make_viewer

    def person(scope: Any) -> Person:
        key = scope["steerkit.visit"].key
        return Person(key.approves, key.name, bool(key.name))

    return make_viewer(path, hosts=None, deciding=Deciding(seconds, person), ending=ending)
