"""Whether dictionaries, tensors and types of objects are as they were, told by words of memory that change with them.

To look at some thousand objects takes a millisecond, most of it for reading their memory; to look at a word of each, a
hundredth. A dictionary of CPython has a version that every write changes (PEP 509, up to Python 3.11), an object names
its type and its table, a tensor its storage, sizes and place there, and a storage its memory. Where these words stand
is found in objects made for that; where it is not, as in later Pythons, nothing is told, and whoever asks must look at
the objects themselves.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from linmap.compress.flatquant.native import choice

SIZE = 8  # bytes of a word
TYPE, VERSION = 1, 3  # words of an object, and of a dictionary
LOOKED_AT = range(2, 8)  # words of a tensor, in Python and beneath, and of a storage
FORM = range(2, 26)  # words of a tensor, its sizes and strides among them
BEFORE = range(-4, 0)  # words before an object


class Words:
    """What stands in the words that tell of types and tables of modules, of what tables hold, and of what tensors are.

    Whoever has them must hold the objects.
    """

    def __init__(
        self, modules: Iterable[nn.Module], tables: Iterable[dict[Any, Any]], tensors: Iterable[Tensor]
    ) -> None:
        found, at = places(), array("Q")
        if found is not None:
            for module in modules:
                at.extend((id(module) + SIZE * TYPE, id(module) + SIZE * found.table))
            at.extend(id(table) + SIZE * VERSION for table in tables)
            for tensor in tensors:
                storage: int = tensor.untyped_storage()._cdata  # looked at first: what it was may be no more
                at.append(id(tensor) + SIZE * found.tensor)
                at.extend(tensor._cdata + SIZE * i for i in range(found.storage, found.offset + 1))
                at.append(storage + SIZE * found.memory)
        self.places, self.values = at, array("Q", map(word, at))

    def hold(self) -> bool:
        """Whether nothing has changed; False, too, where nothing is told."""
        count = len(self.places)
        if not count:
            return False
        return bool(_unchanged(choice.library())(self.places.buffer_info()[0], self.values.buffer_info()[0], count))


@cache
def _unchanged(library: ctypes.CDLL) -> Any:
    """The comparison, with Python's lock held: no other thread changes the objects meanwhile."""
    kind = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    return kind(("linmap_unchanged", library))


class Places(NamedTuple):
    """Numbers of words: of a tensor of Python the one that names what is beneath; of that the first, which names the
    storage, and the last, the place there, with sizes, strides and type between them; of a storage the one that names
    its memory; of a module the one that names its table."""

    tensor: int
    storage: int
    offset: int
    memory: int
    table: int


@cache
def places() -> Places | None:
    """Where they stand in this PyTorch; None, too, for a Python whose dictionaries have no version."""
    if sys.implementation.name != "cpython" or sys.version_info >= (3, 12) or ctypes.sizeof(ctypes.c_void_p) != SIZE:
        return None
    tensor, module = torch.zeros(20011).as_strided((7, 11), (1009, 17), 5003), nn.Identity()
    kept = tensor.untyped_storage()
    found = (
        _found(id(tensor), tensor._cdata, LOOKED_AT),
        _found(tensor._cdata, kept._cdata, LOOKED_AT),
        _found(tensor._cdata, int(tensor.storage_offset()), FORM),
        _found(kept._cdata, kept.data_ptr(), LOOKED_AT),
        _found(id(module), id(vars(module)), BEFORE),
    )
    if None in found or not _versions_tell():
        return None
    places = Places(*cast("tuple[int, ...]", found))
    between = {word(tensor._cdata + SIZE * i) for i in range(places.storage, places.offset)}
    return places if between >= {*tensor.shape, *tensor.stride()} else None


def word(place: int) -> int:
    """What stands at an address."""
    return ctypes.c_uint64.from_address(place).value


def _found(start: int, value: int, among: range) -> int | None:
    return next((i for i in among if word(start + SIZE * i) == value), None)


def _versions_tell() -> bool:
    """Whether each write to a dictionary changes its word, and nothing else does."""
    table: dict[str, Any] = {"a": 1}
    place = id(table) + SIZE * VERSION
    seen = [word(place)]
    for write in (lambda: table.update(a=2), lambda: table.update(b=3), lambda: table.pop("a"), table.clear):
        table.get("b")
        if word(place) != seen[-1]:
            return False
        write()
        seen.append(word(place))
    return len(set(seen)) == len(seen)
