from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.data import require_content
from linmap.data.arrays import open_rows, read_npz
from linmap.data.images import read_image
from linmap.errors import DataError

BLANKS = st.binary().map(lambda raw: bytes(b" \t\r\n\v\f"[byte % 6] for byte in raw))


@given(mark=st.sampled_from([b"", b"\xef\xbb\xbf"]), blanks=BLANKS, long=st.sampled_from([1, 2**16]))
def test_blanks_alone_are_refused_in_one_sentence(
    mark: bytes, blanks: bytes, long: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "blank.jsonl"
    path.write_bytes(mark + blanks * long)
    with pytest.raises(DataError) as refused:
        require_content(path)
    assert str(refused.value) == f"{path} is empty; there is nothing to read."


@given(blanks=BLANKS, byte=st.integers(0, 255).filter(lambda byte: byte not in b" \t\r\n\v\f"))
def test_one_byte_behind_blanks_is_content(blanks: bytes, byte: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "full.bin"
    path.write_bytes(blanks * 2**12 + bytes([byte]))
    require_content(path)


def test_what_is_no_file_is_left_to_its_reader(tmp_path: Path) -> None:
    require_content(tmp_path)
    require_content(tmp_path / "missing.csv")


@pytest.mark.parametrize("read", [read_npz, open_rows, read_image])
def test_a_folder_in_the_place_of_a_file_is_called_one(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; give a file\.$"):
        read(tmp_path)
