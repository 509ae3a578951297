"""The fast path: V = A T. Each bound leaf R_p V(leaf) is one row of a table T; a document is the sum of its rows.

Documents repeat their keys, and most of their leaves; a trie of paths finds a leaf's row in some 0.3 µs, and the sums
run as one `embedding_bag`. Rows are made when first met and forgotten, those used longest ago first, when the table
has reached its memory bound. Whole documents are never cached. Only for linear options (level_norm="none").
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from linmap.errors import DataError
from linmap.retrieve.mbat.codebook import LeastRecentlyUsed
from linmap.retrieve.mbat.encoding import Encoder, TooDeep, checked_key, depth_problem, plain, values_left
from linmap.retrieve.mbat.operators import SignedPermutation
from linmap.retrieve.mbat.paths import Place, Step, nfc

LONG_TEXT = 256  # characters; longer texts are looked up by their digest, so that the trie does not keep them
NODE_BYTES = 1024  # what a node of the trie takes, with its dictionaries


class Node(Place):
    """A place met before: the places below it, and the table rows of the leaves seen at it.

    `rows` holds strings and floats; `others` the rest under (type, value), for 1 == True in Python.
    """

    __slots__ = ("children", "others", "rows")

    def __init__(self, rules: Any, parent: Node | None = None, step: Step | None = None) -> None:
        super().__init__(rules, parent, step)
        self.parent: Any = parent  # a Node, but at the top
        self.children: dict[Step, Node] = {}
        self.rows: dict[str | float, int] = {}
        self.others: dict[Hashable, int] = {}


class BoundLeaves:
    """The table T of bound leaves, and the trie that finds their rows.

    Parameters
    ----------
    encoder
        The definition, used for every row that is new.
    """

    def __init__(self, encoder: Encoder) -> None:
        options = encoder.options
        self._encoder, self._options = encoder, options
        self.root = Node(encoder.rules)
        self._dtype = options.working_dtype
        row_bytes = options.dim * self._dtype.itemsize
        self.capacity = max(64, options.cache_bytes * 3 // 4 // row_bytes)
        self._max_nodes = max(64, options.cache_bytes // 8 // NODE_BYTES)
        # Memory is taken from the system page by page, when rows are first written.
        # One row more holds the document that is open when the others are summed.
        self._table = torch.empty(
            self.capacity + 1, options.dim, dtype=torch.from_numpy(np.empty(0, self._dtype)).dtype
        )
        self._rows = self._table.numpy()
        self._last_used = np.zeros(self.capacity + 1, np.int64)
        self._owners: list[tuple[dict, Hashable] | None] = []  # of the rows taken so far: where the trie has them
        self._free: list[int] = []
        self._path_operators: LeastRecentlyUsed[Node, SignedPermutation] = LeastRecentlyUsed(
            options.cache_bytes // 8 // (9 * options.dim)
        )
        self._composes = options.arrays != "both" and isinstance(encoder.array_operator(), SignedPermutation)
        self._n_nodes, self._clock = 1, 0
        self._indices: list[int] = []
        self._starts: list[int] = []
        self._carried: list[Tensor] = []
        self._in_flight: list[Future] = []
        self._has_atoms = options.key_presence != 0

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._owners) - len(self._free)

    # -- documents to rows -------------------------------------------------------------------------------------------

    def gather(self, documents: Iterable[Any], first: int = 0) -> Callable[[], Tensor]:
        """Find the rows of a batch of documents; the function that is returned sums them, in any thread.

        Errors are raised here, with the document's number counted from `first`.
        """
        self._indices, self._starts, self._carried = [], [], []
        if self._n_nodes > self._max_nodes:
            self._forget()
        for number, document in enumerate(documents, first):
            self._starts.append(len(self._indices))
            try:
                try:
                    self._flatten(document)
                except TooDeep as problem:
                    raise depth_problem(document, problem.place, self._options.max_depth) from None
            except (TypeError, DataError) as error:
                raise type(error)(f"document {number}, {error}") from None
        indices, starts, carried = np.array(self._indices, np.int64), np.array(self._starts, np.int64), self._carried
        self._mark_used(indices)
        return lambda: self._sum(indices, starts, carried)

    def keep_until_done(self, work: Future) -> None:
        """Rows are not forgotten before this sum, which runs in another thread, is done."""
        self._in_flight = [*(other for other in self._in_flight if not other.done()), work]

    def _flatten(self, document: Any) -> None:
        """Append the row numbers of all leaves. The inner loop decides the speed of the whole encoder."""
        push = self._indices.append
        stack: list[tuple[Node, dict | list]] = []
        has_atoms, left = self._has_atoms, self._options.max_values
        row = None if self.root.ignored else self._new_leaf(self.root, document, stack, has_atoms)
        if row is not None:
            push(row)
        while stack:
            node, container = stack.pop()
            left = values_left(left, container, self._options)
            find = node.children.get
            for step, item in container.items() if type(container) is dict else enumerate(container):
                child = find(step)
                if child is None:
                    child = self._child(node, step, container)
                    if child is None:  # ignored
                        continue
                kind = type(item)
                if kind is str or kind is float:
                    row = child.rows.get(item)
                elif (kind is dict or kind is list) and item:
                    stack.append((child, item))
                    if has_atoms and type(step) is str:
                        push(self._presence_row(child))
                    continue
                elif kind is int or kind is bool or item is None:
                    row = child.others.get((kind, item))
                else:
                    row = None
                if row is None:
                    row = self._new_leaf(child, item, stack, has_atoms)
                if row is not None:
                    push(row)

    def _child(self, node: Node, step: Step, container: dict | list) -> Node | None:
        """The place below that is met for the first time, or whose key is not in NFC; None if it is ignored."""
        if type(step) is not int or isinstance(container, dict):
            name = checked_key(step, node)
            if name != step:
                names = [nfc(key) for key in container if isinstance(key, str)]
                if len(set(names)) < len(names):
                    raise DataError(
                        f"at {node}: the key {step!r} comes twice once written in Unicode form NFC; rename one."
                    )
            if name in node.children:
                return node.children[name]
            step = name
        if node.depth >= self._options.max_depth:
            raise TooDeep(node)
        child = Node(self._encoder.rules, node, step)
        if child.ignored:
            return None
        if self._n_nodes <= self._max_nodes:
            node.children[step] = child
            self._n_nodes += 1
        return child

    # -- rows --------------------------------------------------------------------------------------------------------

    def _new_leaf(self, node: Node, item: Any, stack: list, has_atoms: bool) -> int | None:
        """The row of a leaf that the inner loop did not find; a container that it did not know goes on the stack."""
        item = plain(item, self._options.default, node)
        kind = type(item)
        if kind in (dict, list) and item:
            stack.append((node, item))
            return self._presence_row(node) if has_atoms and isinstance(node.step, str) else None
        rows: dict[Any, int] = node.others
        key: Hashable = (kind, None if kind in (dict, list) else item)
        if kind is float or (kind is str and len(item) <= LONG_TEXT):
            rows, key = node.rows, item
        elif kind is str:
            key = (str, hashlib.sha256(item.encode("utf-8", "surrogatepass")).digest())
        if key in rows:
            return rows[key]
        encoder = self._encoder
        x = encoder.leaf(item, node)
        bound = self._bind(node, x)
        if self._options.path_backoff:
            bound = bound + x * self._dtype.type(self._options.path_backoff)
        if has_atoms and isinstance(node.step, str):
            bound = bound + self._bind(node.parent, encoder.presence(node.step, node.parent))
        return self._store(bound, rows, key)

    def _presence_row(self, node: Node) -> int:
        row = node.others.get("has")
        if row is None:
            presence = self._encoder.presence(node.step, node.parent)
            row = self._store(self._bind(node.parent, presence), node.others, "has")
        return row

    def _store(self, bound: np.ndarray, rows: dict, key: Hashable) -> int:
        if not self._free and len(self._owners) < self.capacity:
            self._free.append(len(self._owners))
            self._owners.append(None)
        elif not self._free:
            self._flush()
            self._forget()
        row = self._free.pop()
        self._rows[row] = bound
        self._owners[row] = (rows, key)
        self._last_used[row] = self._clock
        rows[key] = row
        return row

    def _bind(self, node: Node, x: np.ndarray) -> np.ndarray:
        """R_p x, by the product of the path's operators where products have structure."""
        if not self._composes:
            return self._encoder.bind(node, x)
        return x if node.parent is None else self._path_operator(node).apply(x)

    def _path_operator(self, node: Node) -> SignedPermutation:
        """The product of the operators from the top down to `node`, each prefix kept."""
        chain: list[Any] = []  # of nodes
        for place in node.upwards():
            chain.append(place)
            if place in self._path_operators:  # pyright: ignore[reportOperatorIssue]
                break
        operator: Any = None
        for place in reversed(chain):
            above = operator
            operator = self._path_operators.get(place, lambda: self._extend(above, place.step))  # noqa: B023
        return operator

    def _extend(self, above: SignedPermutation | None, step: Step | None) -> SignedPermutation:
        operator: Any = self._encoder.key_operator(step) if isinstance(step, str) else self._encoder.array_operator()
        if isinstance(step, int) and self._options.arrays == "sequence":
            operator = operator.compose(self._encoder.sequence_operator(step + 1))
        return operator if above is None else above.compose(operator)

    # -- sums and memory ---------------------------------------------------------------------------------------------

    def _sum(self, indices: np.ndarray, starts: np.ndarray, carried: list[Tensor]) -> Tensor:
        sums = embedding_bag(torch.from_numpy(indices), self._table, torch.from_numpy(starts), mode="sum")
        for part in carried:
            sums[: len(part)] += part
        return sums

    def _flush(self) -> None:
        """Sum what the batch has gathered so far, so that its rows may be forgotten.

        The open document goes on from its sum as from a first row: floats are added in the order of its leaves, as
        they are without a flush, so that no vector depends on what was met before.
        """
        self._wait()
        indices = np.array(self._indices, np.int64)
        sums = self._sum(indices, np.array(self._starts, np.int64), [])
        self._mark_used(indices)
        self._rows[self.capacity] = sums[-1].numpy()
        sums[-1] = 0
        self._carried.append(sums)
        self._indices[:] = [self.capacity]
        self._starts[:] = [0] * len(self._starts)

    def _wait(self) -> None:
        """For the sums that other threads are still reading rows for."""
        for work in self._in_flight:
            work.exception()

    def _mark_used(self, indices: np.ndarray) -> None:
        self._clock += 1
        self._last_used[indices] = self._clock

    def _forget(self) -> None:
        """Free the half of the rows that were used longest ago, and the places that have none left."""
        self._wait()
        used = np.array([row for row, owner in enumerate(self._owners) if owner is not None], np.int64)
        oldest = used[np.argsort(self._last_used[used], kind="stable")[: (len(used) + 1) // 2]]
        for row in oldest.tolist():
            rows, key = self._owners[row]  # pyright: ignore[reportGeneralTypeIssues]
            del rows[key]
            self._owners[row] = None
            self._free.append(row)
        self._n_nodes = _prune(self.root)


@contextmanager
def serial_threads(n: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which PyTorch works serially: a pool that splits every sum again only gets in its own way."""
    configured = torch.get_num_threads()

    def work_serially() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # from here on the setting is this thread's own

    with ThreadPoolExecutor(n, initializer=work_serially) as pool:
        started = threading.Barrier(n)
        list(pool.map(lambda _: started.wait(), range(n)))
        torch.set_num_threads(configured)  # PyTorch gives the last setting to all threads that start later
        yield pool


def _prune(root: Node) -> int:
    """Take away the places that hold no rows, below and at them; returns how many are left."""
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(node.children.values())
    left = 0
    for node in reversed(order):  # containers after what they hold
        empty = [step for step, child in node.children.items() if not (child.children or child.rows or child.others)]
        for step in empty:
            del node.children[step]
        left += bool(node.children or node.rows or node.others)
    return left + 1
