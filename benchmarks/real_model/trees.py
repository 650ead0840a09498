"""Conversations as trees of tokens: what several share is read once, each goes on as a branch of its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from steerkit.chat import Tokenizer, as_tools, dialect_of, render
from steerkit.engine import tool_from_function

MULTIPLE = 32
"""Tokens of a pack are a multiple of this: few shapes, so that oneDNN keeps its kernels."""


class Read(NamedTuple):
    """One conversation as tokens."""

    ids: tuple[int, ...]
    wanted: tuple[int, ...]
    """Positions of the tokens that the model has to write, its stops included."""
    shared: int
    """Tokens up to the end of the developer's turn."""


class Tree(NamedTuple):
    """Conversations with the same beginning."""

    prefix: tuple[int, ...]
    branches: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    """Of each its tokens behind the prefix, and which of them are wanted."""

    @property
    def size(self) -> int:
        """Tokens."""
        return len(self.prefix) + sum(len(ids) for ids, _ in self.branches)


Pack: TypeAlias = Sequence[Tree]
"""Trees that are read at once."""


class Laid(NamedTuple):
    """A pack as tensors."""

    ids: Tensor
    """`(1, n)`."""
    positions: Tensor
    """`(1, n)`; those of a branch go on where the prefix ends."""
    mask: Tensor
    """`(1, 1, n, n)` bool, True where a token sees another."""
    wanted: Tensor
    """`(m,)` indices of the tokens to be written; each is predicted at the token before it."""


def read(row: Mapping[str, Any], tokenizer: Tokenizer) -> Read:
    """A conversation's tokens as `steerkit.chat.render` writes prompts and `<…>` tokens end replies.

    Raises:
        SteerkitError: it cannot be rendered.
        ValueError: a reply does not go on where its prompt ends.
    """
    tools = as_tools(row["tools"], from_function=tool_from_function)
    dialect = dialect_of(tokenizer)
    messages = row["messages"]
    ids: tuple[int, ...] = ()
    wanted: list[int] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = render(tokenizer, messages[:number], tools).ids
        complete = render(tokenizer, messages[: number + 1], tools).ids
        if complete[: len(prompt)] != prompt or prompt[: len(ids)] != ids:
            raise ValueError(f"messages[{number}] does not go on where its prompt ends")
        end = next(n for n in range(len(prompt), len(complete)) if complete[n] in dialect.stops)
        wanted += range(len(prompt), end + 1)
        ids = complete[: end + 1]
    has_developer = bool(tools) or messages[0]["role"] in ("developer", "system")
    shared = ids.index(dialect.names[dialect.frame.end]) + 2 if has_developer else 1
    return Read(ids, tuple(wanted), shared)


def trees_of(conversations: Sequence[Read], size: int, rng: random.Random) -> list[Tree]:
    """The conversations as trees of at most `size` tokens where they can be, in random order."""
    together: dict[tuple[int, ...], list[Read]] = {}
    for one in conversations:
        together.setdefault(one.ids[: one.shared], []).append(one)
    found = []
    for prefix, some in together.items():
        rng.shuffle(some)
        now: list[Read] = []
        for one in some:
            if now and len(prefix) + sum(len(o.ids) - len(prefix) for o in (*now, one)) > size:
                found.append(_tree(prefix, now))
                now = []
            now.append(one)
        found.append(_tree(prefix, now))
    rng.shuffle(found)
    return found


def packs(conversations: Sequence[Read], size: int, seed: int) -> Iterator[Pack]:
    """Packs of about `size` tokens without end: all conversations once, then all again in another order."""
    if not conversations:
        raise ValueError("no conversations to pack")
    epoch = 0
    while True:
        now: list[Tree] = []
        for tree in trees_of(conversations, size, random.Random(f"{seed} {epoch}")):
            if now and sum(t.size for t in now) + tree.size > size:
                yield now
                now = []
            now.append(tree)
        yield now
        epoch += 1


def laid_out(pack: Pack, device: torch.device | str = "cpu") -> Laid:
    """A pack as tensors: a token sees its tree's prefix and its own branch, up to itself."""
    ids: list[int] = []
    positions: list[int] = []
    tree_of: list[int] = []
    branch_of: list[int] = []
    wanted: list[int] = []
    for number, tree in enumerate(pack):
        shared = len(tree.prefix)
        ids += tree.prefix
        positions += range(shared)
        tree_of += [number] * shared
        branch_of += [0] * shared
        for branch, (tokens, targets) in enumerate(tree.branches, start=1):
            wanted += [len(ids) + target for target in targets]
            ids += tokens
            positions += range(shared, shared + len(tokens))
            tree_of += [number] * len(tokens)
            branch_of += [branch] * len(tokens)
    fill = -len(ids) % MULTIPLE
    ids, positions, branch_of = ids + [0] * fill, positions + [0] * fill, branch_of + [0] * fill
    tree_of += range(len(pack), len(pack) + fill)
    tree, branch, at = torch.tensor(tree_of), torch.tensor(branch_of), torch.arange(len(ids))
    mask = at[:, None] >= at[None]
    mask &= (tree[:, None] == tree[None]) & ((branch[None] == 0) | (branch[:, None] == branch[None]))
    laid = Laid(torch.tensor([ids]), torch.tensor([positions]), mask[None, None], torch.tensor(wanted))
    return Laid(*(part.to(device) for part in laid))


def _tree(prefix: tuple[int, ...], some: Sequence[Read]) -> Tree:
    cut = len(prefix)
    return Tree(prefix, tuple((one.ids[cut:], tuple(n - cut for n in one.wanted)) for one in some))
