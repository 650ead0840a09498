"""Every way in which `generate` feeds tokens: the reply is steered from the same column on, or the way is refused."""

from __future__ import annotations

import copy
import io
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    StaticCache,
    StoppingCriteria,
    TextIteratorStreamer,
)

import steerkit
from steerkit.engine import box_folder, cache_name
from steerkit.errors import ModelError, SteeringError
from steerkit.policy import Policy
from steerkit.sae import load_set
from steerkit.testing import planted_policy
from tests.steer.conftest import hooks_on

FOLDER = box_folder("tiny")
TOKENIZER = AutoTokenizer.from_pretrained(FOLDER)
SAES = load_set(str(FOLDER) + "/saes")
PROMPT = "<bos><start_of_turn>user\nget the weather of Borsiton and play Plabird<end_of_turn>\n<start_of_turn>model\n"
INPUTS: Any = TOKENIZER(PROMPT, return_tensors="pt", add_special_tokens=False)
IDS, N = INPUTS.input_ids, INPUTS.input_ids.shape[1]
FEATURES = {"a": (3, 72), "b": (1, 10), "g": (0, 118)}
NEW = 12


def load() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


MODEL, OTHER = load(), load()
CACHE = cache_name(MODEL)


def policy(*, clamp: float = 6.0, **rule: Any) -> Policy:
    edit = {"a": {"clamp": 10 * clamp}, "b": {"clamp": clamp}}
    return planted_policy("p", FEATURES, steer=[{"name": "s", "where": "reply", "edit": edit, **rule}])


CLAMPED = policy()


def columns(recorder: steerkit.steer.Recorder) -> list[int]:  # type: ignore[name-defined]
    """Which columns any rule acted at."""
    opened = next(iter(recorder.opened().values()))
    return opened.any(-1)[0].nonzero().flatten().tolist()


def generated(given: Policy = CLAMPED, *, model: Any = MODEL, length: int | None = None, **how: Any) -> Any:
    """The reply's tokens, the columns that were steered, and the recorder's length."""
    inputs = {} if "inputs_embeds" in how or "inputs" in how or "input_ids" in how else INPUTS
    with steerkit.attach(model, SAES, given, prompt_length=length, tokenizer=TOKENIZER) as recorder:
        out = model.generate(**{**inputs, "max_new_tokens": NEW, "do_sample": False, **how})
    return out[0, -NEW:].tolist(), columns(recorder), recorder.length


def filled(tokens: int, model: Any = MODEL) -> DynamicCache:
    """A cache that has read the prompt's first tokens, without steering."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=IDS[:, :tokens], **{CACHE: cache})
    return cache


def kinds() -> dict[str, Callable[[], dict[str, Any]]]:
    """Ways to generate, each with its arguments."""
    return {
        "plain": dict,
        "prompt lookup": lambda: {"prompt_lookup_num_tokens": 3},
        "prompt lookup of many": lambda: {"prompt_lookup_num_tokens": 10, "max_matching_ngram_size": 1},
        "an assistant": lambda: {"assistant_model": OTHER},
        "itself as assistant": lambda: {"assistant_model": MODEL},
        "early exit": lambda: {"assistant_early_exit": 2},
        "chunks": lambda: {"prefill_chunk_size": 8},
        "chunks of one": lambda: {"prefill_chunk_size": 1},
        "chunks that leave one": lambda: {"prefill_chunk_size": N - 1},
        "one chunk": lambda: {"prefill_chunk_size": N},
        "no cache": lambda: {"use_cache": False},
        "a static cache": lambda: {"cache_implementation": "static"},
        "a static cache, chunks": lambda: {"cache_implementation": "static", "prefill_chunk_size": 8},
        "a cache of one's own": lambda: {CACHE: DynamicCache(config=MODEL.config)},
        "a static cache of one's own": lambda: {CACHE: StaticCache(config=MODEL.config, max_cache_len=64)},
        "embeddings": lambda: {
            "inputs_embeds": MODEL.get_input_embeddings()(IDS),
            "attention_mask": INPUTS.attention_mask,
        },
        "no mask": lambda: {"input_ids": IDS},
        "by position": lambda: {"inputs": IDS},
        "a reader": lambda: {"streamer": TextIteratorStreamer(TOKENIZER)},
        "scores": lambda: {"output_scores": True},
    }


def kinds_filled() -> dict[str, Callable[[], dict[str, Any]]]:
    """The same with part of the prompt in the cache, where no gate has read it."""
    return {
        "a filled cache": lambda: {CACHE: filled(24)},
        "a cache that lacks one": lambda: {CACHE: filled(N - 1)},
        "a filled cache, chunks": lambda: {CACHE: filled(10), "prefill_chunk_size": 4},
        "a filled cache, only the rest": lambda: {CACHE: filled(10), "input_ids": IDS[:, 10:], **MASK},
        "a filled cache, the rest in chunks": lambda: {
            CACHE: filled(10),
            "input_ids": IDS[:, 10:],
            "prefill_chunk_size": 7,
            **MASK,
        },
    }


MASK = {"attention_mask": INPUTS.attention_mask}
WAYS, FILLED = kinds(), kinds_filled()


@pytest.mark.parametrize("way", [*WAYS, *FILLED])
def test_the_reply_is_steered_from_its_first_token_on(way: str) -> None:
    """In every way the same text, other than without steering, and exactly the columns that made it are steered."""
    how = (WAYS.get(way) or FILLED[way])()
    tokens, steered, length = generated(**how)
    plain = MODEL.generate(**INPUTS, max_new_tokens=NEW, do_sample=False)[0, N:].tolist()
    assert tokens == generated()[0] != plain
    assert steered == list(range(N - 1, N + NEW - 1))
    assert length == N + NEW - 1
    assert hooks_on(MODEL) == 0
    assert "generate" not in MODEL.__dict__


@pytest.mark.parametrize("length", [N, 25])
@pytest.mark.parametrize("way", ["prompt lookup", "chunks", "a filled cache", "an assistant", "no cache"])
def test_the_prompts_length_can_be_said(way: str, length: int) -> None:
    """What is given holds, whatever way the prompt is fed."""
    _, steered, _ = generated(length=length, **(WAYS.get(way) or FILLED[way])())
    assert steered == list(range(length - 1, N + NEW - 1))[-len(steered) :]
    assert steered[0] == length - 1 or way == "a filled cache"


READS: dict[str, Any] = {"feature": "g", "above": 0.7}
GATES: dict[str, dict[str, Any]] = {
    "a gate": {"when": READS},
    "held": {"when": {**READS, "at": "reply"}, "for": "3 tokens"},
    "for the turn": {"when": {**READS, "at": "reply"}, "for": "turn"},
    "a latch": {"when": {**READS, "off_below": 0.1, "at": "reply"}},
    "the largest": {"when": {**READS, "max_over": 4, "at": "reply"}},
    "the mean": {"when": {"feature": "g", "above": 0.2, "mean_over": 3, "at": "any"}},
    "in the prompt": {"when": {**READS, "at": "user"}, "for": "turn"},
    "by the call": {"where": "call"},
    "by the call's name": {"where": "call.name", "when": {**READS, "at": "any"}, "for": "4 tokens"},
}
"""Rules whose places or gates must know of earlier tokens."""


@pytest.mark.parametrize("gate", GATES)
def test_what_gates_remember_is_taken_back_with_drafts(gate: str) -> None:
    """Drafts that were not taken leave nothing: the same columns and text as one token at a time, or in chunks."""
    given = policy(clamp=0.5, **GATES[gate])
    expected = generated(given, max_new_tokens=NEW)
    for way in ("prompt lookup", "prompt lookup of many", "an assistant", "early exit", "chunks", "no cache"):
        assert generated(given, **WAYS[way]()) == expected, way


def test_drafts_were_taken_back_above() -> None:
    """The control: passes overlap, so some drafts were not taken, and gates do not act everywhere."""
    starts: list[tuple[int, int]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        starts.append((kwargs[CACHE].get_seq_length(), kwargs["input_ids"].shape[1]))

    handle = MODEL.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        generated(policy(clamp=0.5, **GATES["held"]), **WAYS["prompt lookup of many"]())
    finally:
        handle.remove()
    assert any(start + width > after for (start, width), (after, _) in pairwise(starts))
    acted = {gate: len(generated(policy(clamp=0.5, **rule))[1]) for gate, rule in GATES.items()}
    assert len(set(acted.values())) > 3, acted


@pytest.mark.parametrize("sample", [{"num_beams": 3}, {"num_return_sequences": 3, "do_sample": True}])
def test_beams_and_samples_begin_at_the_same_column(sample: dict[str, Any]) -> None:
    """Each of them is steered from the prompt's last column on; a policy that remembers refuses them, however many
    rows it was attached for."""
    with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
        MODEL.generate(**INPUTS, **{"max_new_tokens": 4, "do_sample": False, **sample})
    opened = next(iter(recorder.opened().values())).any(-1)
    assert [row.nonzero().flatten()[0].item() for row in opened] == [N - 1] * 3
    held = policy(**GATES["held"])
    for rows in ([held], [held] * 3):
        with (
            pytest.raises(SteeringError, match=r"beams change places|attached for 3 requests"),
            steerkit.attach(MODEL, SAES, rows=rows),
        ):
            MODEL.generate(**INPUTS, **{"max_new_tokens": 4, "do_sample": False, **sample})


def second(given: Policy, **how: Any) -> tuple[int, list[int]]:
    """A second turn on the cache of the first: its prompt's columns, and those that were steered in it."""
    with steerkit.attach(MODEL, SAES, given, tokenizer=TOKENIZER) as recorder:
        first = MODEL.generate(**INPUTS, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True)
        more = torch.cat([first.sequences, IDS[:, 1:]], dim=1)
        MODEL.generate(more, max_new_tokens=5, do_sample=False, **{CACHE: first.cache, **how})
    return more.shape[1], columns(recorder)


@pytest.mark.parametrize("way", ["plain", "chunks"])
def test_a_second_turn_goes_on_in_the_cache_of_the_first(way: str) -> None:
    """Its new prompt is prompt, and its reply begins where that ends."""
    length, steered = second(CLAMPED, **WAYS[way]())
    assert steered == list(range(length - 1, length + 4))


def test_a_policy_that_remembers_refuses_a_cache_that_it_did_not_read() -> None:
    """On the first turn's cache, and on one that was filled before: gates would miss tokens, or know too much."""
    for gate in ("held", "by the call"):
        with pytest.raises(SteeringError, match=r"steer 's' remembers earlier tokens, but \d+ of them are in a cache"):
            second(policy(**GATES[gate]))
        with pytest.raises(SteeringError, match="remembers earlier tokens, but the tokens from 24 on came after 0"):
            generated(policy(**GATES[gate]), **{CACHE: filled(24)})


def test_a_cache_that_holds_all_of_the_prompt_is_refused() -> None:
    """transformers would feed the prompt a second time; with one token less it goes on."""
    with pytest.raises(SteeringError, match=f"the cache holds all {N} columns of the prompt"):
        generated(**{CACHE: filled(N)})


def test_drafts_on_a_filled_cache_are_refused() -> None:
    """transformers feeds the whole prompt again there, so that its text would not be the model's."""
    for ask in (
        lambda: second(CLAMPED, prompt_lookup_num_tokens=3),
        lambda: generated(assistant_model=OTHER, **{CACHE: filled(9)}),
    ):
        with pytest.raises(SteeringError, match=r"a cache of \d+ columns and asked for drafts"):
            ask()


def test_two_generations_under_one_attach_do_not_know_of_each_other() -> None:
    """Each has its own prompt."""
    with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
        for length in (N, 20, N):
            MODEL.generate(IDS[:, :length], max_new_tokens=4, do_sample=False)
            assert columns(recorder) == list(range(length - 1, length + 3))


def test_left_padding_and_right_padding() -> None:
    """A padded batch is steered in each row from its last token on, fed whole or in chunks; prompts that end in
    different columns cannot be fed in chunks."""
    ids = torch.cat([IDS, IDS.roll(5)], dim=0)
    for left, chunk in ((True, None), (True, 8), (False, None), (False, 8)):
        mask = torch.ones_like(ids)
        mask[1, slice(0, 5) if left else slice(N - 5, N)] = 0
        with ExitStack() as stack:
            if not left and chunk:
                stack.enter_context(pytest.raises(SteeringError, match="pad them on the left"))
            with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
                MODEL.generate(ids, attention_mask=mask, max_new_tokens=3, prefill_chunk_size=chunk)
            first = [row.nonzero()[0].item() for row in next(iter(recorder.opened().values())).any(-1)]
            assert first == [N - 1, N - 1 if left else N - 6]


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "guidance": (r"generate\(guidance_scale=1.5\): it runs the model a second time", lambda: {"guidance_scale": 1.5}),
    "paged": (r"generate\(cache_implementation='paged'\): it batches", lambda: {"cache_implementation": "paged"}),
    "token healing": (r"generate\(token_healing=True\)", lambda: {"token_healing": True, "tokenizer": TOKENIZER}),
}


@pytest.mark.parametrize("way", REFUSED)
def test_ways_that_steering_cannot_follow_are_refused_by_name(way: str) -> None:
    """Given by itself and in a configuration."""
    match, how = REFUSED[way]
    with pytest.raises(SteeringError, match=match):
        generated(**how())
    config = copy.deepcopy(MODEL.generation_config)
    config.update(**{key: value for key, value in how().items() if key != "tokenizer"}, max_new_tokens=4)
    with pytest.raises(SteeringError, match=match), steerkit.attach(MODEL, SAES, CLAMPED):
        MODEL.generate(**INPUTS, generation_config=config)


def test_continuous_batching_is_refused() -> None:
    """Before its thread starts, in both ways to ask for it."""
    with steerkit.attach(MODEL, SAES, CLAMPED):
        for ask in (lambda: MODEL.generate_batch([IDS[0].tolist()]), MODEL.init_continuous_batching):
            with pytest.raises(SteeringError, match="continuous batching"):
                ask()
        MODEL.generate(**INPUTS, max_new_tokens=1)
    assert "init_continuous_batching" not in MODEL.__dict__


def test_a_generate_that_is_not_seen_is_refused() -> None:
    """Looked up before, or that of the model around what was attached; with the prompt's length it is followed."""
    before = MODEL.generate
    for what, generate in ((MODEL, before), (MODEL.model, MODEL.generate)):
        with pytest.raises(SteeringError, match="this generate is not seen"), steerkit.attach(what, SAES, CLAMPED):
            generate(**INPUTS, max_new_tokens=2)
        with steerkit.attach(what, SAES, CLAMPED, prompt_length=N) as recorder:
            generate(**INPUTS, max_new_tokens=NEW, do_sample=False, prompt_lookup_num_tokens=5)
        assert columns(recorder)[0] == N - 1


def test_a_model_that_only_drafts_is_refused() -> None:
    """Steering what another model decides on would steer nothing."""
    with (
        pytest.raises(SteeringError, match="drafts for another"),
        steerkit.attach(OTHER, SAES, CLAMPED),
    ):
        MODEL.generate(**INPUTS, max_new_tokens=4, assistant_model=OTHER)


def test_a_custom_loop_that_generate_is_given_is_followed() -> None:
    """`custom_generate=` with a function, and a pass that has a cache of its own, which is refused."""

    def loop(model: Any, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
        for _ in range(NEW):
            out = model(input_ids=input_ids[:, given[CACHE].get_seq_length() :], **{CACHE: given[CACHE]})
            input_ids = torch.cat([input_ids, out.logits[:, -1:].argmax(-1)], dim=1)
        return input_ids

    def aside(model: Any, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
        model(input_ids=input_ids, **{CACHE: given[CACHE]})
        model(input_ids=input_ids, **{CACHE: DynamicCache(config=MODEL.config)})
        return input_ids

    assert generated(custom_generate=loop, use_cache=True) == generated()
    with pytest.raises(SteeringError, match="another pass of the model ran inside generate"):
        generated(custom_generate=aside, use_cache=True)


def feed(pieces: list[int], given: Policy = CLAMPED, length: int | None = None, **how: Any) -> list[int]:
    """A loop of one's own: passes of so many tokens over one cache."""
    with torch.no_grad(), steerkit.attach(MODEL, SAES, given, prompt_length=length) as recorder:
        cache, start = how.get("cache", DynamicCache(config=MODEL.config)), how.get("start", 0)
        for width in pieces:
            MODEL(input_ids=IDS[:, start : start + width], **{CACHE: cache})
            start += width
    return columns(recorder)


def test_loops_of_ones_own() -> None:
    """The first pass is the prompt, or its rest; several tokens after it are refused unless its length is said."""
    assert feed([20, 1, 1]) == [19, 20, 21]
    assert feed([6, 1], start=14, cache=filled(14)) == [19, 20]
    assert feed([6, 1, 3], start=14, cache=filled(14), length=18) == list(range(17, 24))
    assert feed([8, 8, 4, 1], length=20) == [19, 20]
    for pieces in ([8, 8, 4], [20, 1, 3]):
        with pytest.raises(SteeringError, match=r"asks where the prompt ends, but .* give prompt_length"):
            feed(pieces)
    everywhere = policy(where="any")
    assert feed([8, 8, 4], everywhere) == list(range(20))


def test_a_loop_without_a_cache_reads_the_same_sequence_again() -> None:
    """One token longer it goes on; another sequence is another prompt."""
    with torch.no_grad(), steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
        for ids, end, expected in ((IDS, 20, [19]), (IDS, 21, [19, 20]), (IDS.roll(3), 22, [21])):
            MODEL(input_ids=ids[:, :end], use_cache=False)
            assert columns(recorder) == expected


CONTEXT = MODEL.config.max_position_embeddings


@pytest.mark.parametrize("how", [{}, {"prefill_chunk_size": 512}, {"use_cache": False}])
def test_a_prompt_longer_than_the_context_is_refused(how: dict[str, Any]) -> None:
    """With both numbers; padding does not count, and what just fits runs."""
    ids = IDS.repeat(1, CONTEXT // N + 1)
    for tokens in (CONTEXT + 1, ids.shape[1]):
        expected = f"the prompt has {tokens:,} tokens, but the model's context is {CONTEXT:,}"
        with pytest.raises(ModelError, match=expected), steerkit.attach(MODEL, SAES, CLAMPED):
            MODEL.generate(ids[:, :tokens], max_new_tokens=2, **how)
    with pytest.raises(ModelError, match="the prompt has"), torch.no_grad(), steerkit.attach(MODEL, SAES, CLAMPED):
        MODEL(input_ids=ids)


def test_padding_is_not_counted_against_the_context() -> None:
    """A padded row of as many columns is no longer a prompt."""
    ids = IDS.repeat(1, CONTEXT // N + 1)
    mask = torch.ones_like(ids)
    mask[:, : ids.shape[1] - 40] = 0
    with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
        MODEL.generate(ids, attention_mask=mask, max_new_tokens=2)
    assert columns(recorder)[0] == ids.shape[1] - 1


def test_a_copy_inside_is_refused() -> None:
    """Copied or saved, whole or in part, a model would keep its hooks; outside both work."""
    for copied in (copy.deepcopy, lambda what: torch.save(what, io.BytesIO())):
        for what in (MODEL, MODEL.model, MODEL.model.layers[3].self_attn.o_proj, [MODEL]):
            with (
                pytest.raises(SteeringError, match="copied or saved while steering is attached"),
                steerkit.attach(MODEL, SAES, CLAMPED),
            ):
                copied(what)
    assert hooks_on(copy.deepcopy(MODEL)) == 0
    assert hooks_on(MODEL) == 0


def test_a_shallow_copy_does_not_outlive_steering_unseen() -> None:
    """It shares modules and hooks; the `generate` that it took along is refused afterwards."""
    with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
        shallow = copy.copy(MODEL)
        MODEL.generate(**INPUTS, max_new_tokens=1)
    assert hooks_on(shallow) == 0
    assert columns(recorder) == [N - 1]
    with pytest.raises(SteeringError, match="looked up in a `with` of `attach` that is over"):
        shallow.generate(**INPUTS, max_new_tokens=1)


class Pause(StoppingCriteria):
    """Stops a generation after some tokens until it may go on."""

    def __init__(self, after: int) -> None:
        self.after, self.reached, self.go_on = N + after, threading.Event(), threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """Wait, and stop nothing."""
        if input_ids.shape[1] == self.after:
            self.reached.set()
            assert self.go_on.wait(30)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Thread(threading.Thread):
    """A thread that keeps what it returned or raised."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call, self.got = run, None
        self.start()

    def run(self) -> None:
        """Keep what comes of it."""
        try:
            self.got = self._call()
        except BaseException as error:  # the test looks at it
            self.got = error


def test_leaving_from_inside_generate_stops_it() -> None:
    """In the same thread: at its next pass, with nothing left on the model."""
    stack = ExitStack()
    recorder = stack.enter_context(steerkit.attach(MODEL, SAES, CLAMPED))

    class Leaves(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
            with pytest.raises(SteeringError, match="was left while generate still ran"):
                stack.close()
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with pytest.raises(SteeringError, match="left while generate ran"):
        MODEL.generate(**INPUTS, max_new_tokens=NEW, stopping_criteria=[Leaves()])
    assert columns(recorder) == [N - 1]
    assert hooks_on(MODEL) == 0


def leave_early(pause: Pause, threads: list[Thread], error: Exception | None = None) -> None:
    """Leave the `with` while a thread generates, after three tokens."""
    try:
        with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
            threads.append(Thread(lambda: MODEL.generate(**INPUTS, max_new_tokens=NEW, stopping_criteria=[pause])))
            assert pause.reached.wait(30)
            threading.Timer(0.2, pause.go_on.set).start()
            if error is not None:
                raise error
    finally:
        threads[0].join(30)
        assert columns(recorder) == list(range(N - 1, N + 2))


def test_leaving_while_a_thread_generates_stops_it() -> None:
    """It is an error in both, or the body's own goes first; no token after it is made without steering."""
    for own, kind in ((None, SteeringError), (KeyError("body"), KeyError)):
        threads: list[Thread] = []
        with pytest.raises(kind, match="left while generate still ran" if own is None else "body"):
            leave_early(Pause(3), threads, own)
        assert isinstance(threads[0].got, SteeringError)
        assert hooks_on(MODEL) == 0
        MODEL.generate(**INPUTS, max_new_tokens=1)


def test_a_stream_that_is_read_to_its_end_is_no_error() -> None:
    """The thread may still be on its way out of `generate` when the last text has been read."""
    for _ in range(10):
        streamer = TextIteratorStreamer(TOKENIZER, skip_prompt=True)
        with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
            thread = Thread(lambda: MODEL.generate(**INPUTS, max_new_tokens=4, streamer=streamer))  # noqa: B023  # ended
            "".join(streamer)
        thread.join(30)
        assert isinstance(thread.got, torch.Tensor)
        assert columns(recorder) == list(range(N - 1, N + 3))


def test_a_thread_that_begins_too_late_is_refused() -> None:
    """Its `generate` was looked up inside."""
    with steerkit.attach(MODEL, SAES, CLAMPED):
        MODEL.generate(**INPUTS, max_new_tokens=1)
        late = MODEL.generate
    with pytest.raises(SteeringError, match="that is over; look it up again"):
        late(**INPUTS, max_new_tokens=1)


def test_two_threads_at_once_are_refused() -> None:
    """A second generation under one attach, a second attach, and a plain pass: each would be steered by the other."""
    pause = Pause(2)
    with steerkit.attach(MODEL, SAES, CLAMPED) as recorder:
        thread = Thread(lambda: MODEL.generate(**INPUTS, max_new_tokens=4, stopping_criteria=[pause]))
        assert pause.reached.wait(30)
        with pytest.raises(SteeringError, match="another thread generates under the same"):
            MODEL.generate(**INPUTS, max_new_tokens=1)
        with pytest.raises(SteeringError, match="two threads run the model at once"):
            MODEL(**INPUTS)

        def attached() -> None:
            with steerkit.attach(MODEL, SAES, CLAMPED):
                pass

        other = Thread(attached)
        other.join(30)
        assert "another thread has attached" in str(other.got)
        pause.go_on.set()
        thread.join(30)
    assert isinstance(thread.got, torch.Tensor)
    assert columns(recorder) == list(range(N - 1, N + 3))


def test_attachments_inside_each_other_all_see_generate() -> None:
    """Both know the prompt, whichever comes off first."""
    outer, inner = ExitStack(), ExitStack()
    first = outer.enter_context(steerkit.attach(MODEL, SAES, CLAMPED))
    second = inner.enter_context(steerkit.attach(MODEL, SAES, policy(clamp=-3.0)))
    MODEL.generate(**INPUTS, max_new_tokens=4, prompt_lookup_num_tokens=4)
    outer.close()
    MODEL.generate(**INPUTS, max_new_tokens=4, prefill_chunk_size=8)
    inner.close()
    assert columns(first)[0] == columns(second)[0] == N - 1
    assert "generate" not in MODEL.__dict__
    assert hooks_on(MODEL) == 0


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")  # older releases have no other
def test_gradient_checkpointing_is_refused() -> None:
    """Layers would run a second time for the gradients; without it gradients flow as before."""
    model = load().train()
    with steerkit.attach(model, SAES, CLAMPED):
        model(**INPUTS).logits.sum().backward()
    model.gradient_checkpointing_enable()
    with pytest.raises(SteeringError, match="gradient checkpointing"), steerkit.attach(model, SAES, CLAMPED):
        model(**INPUTS).logits.sum().backward()


def test_compiled_code_is_steered_or_named() -> None:
    """Compiled inside the `with` it is steered; what was compiled before runs past the hooks, which is said."""
    model = load()
    plain, model.forward = model.forward, torch.compile(model.forward, backend="eager")
    model.generate(**INPUTS, max_new_tokens=4)
    with pytest.raises(SteeringError, match="compiled before"):
        generated(model=model, max_new_tokens=4)
    torch.compiler.reset()
    for way in ("plain", "prompt lookup"):
        model.forward = torch.compile(plain, backend="eager")
        assert generated(model=model, **WAYS[way]())[1] == list(range(N - 1, N + NEW - 1))


def test_packed_sequences_are_refused() -> None:
    """Several prompts in one row are not one prompt."""
    ends = torch.tensor([0, 10, N], dtype=torch.int32)
    with pytest.raises(SteeringError, match="packed into one row"), steerkit.attach(MODEL, SAES, CLAMPED):
        MODEL(input_ids=IDS, cu_seq_lens_q=ends, cu_seq_lens_k=ends, max_length_q=21, max_length_k=21)
