import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Optional, Union, overload

_Path = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]

__version__: str

class Error(OSError):
    kind: str

class ReadError(Error):
    offset: int

class Format(NamedTuple):
    name: str
    summary: str
    suffixes: tuple[str, ...]

class Block(NamedTuple):
    offset: int
    length: int
    status: str

class Failure(NamedTuple):
    offset: int
    length: int
    kind: str
    reason: str

class Hash(NamedTuple):
    of: str
    algorithm: str
    hex: str

class BadRanges(Sequence[tuple[int, int]]):
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def from_offset(self, offset: int) -> Iterator[tuple[int, int]]: ...

class Blocks(Sequence[Block]):
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> list[Block]: ...
    def from_offset(self, offset: int) -> Iterator[Block]: ...

class Disk(io.RawIOBase):
    name: _Path
    mode: str
    @property
    def size(self) -> int: ...
    @property
    def sector_size(self) -> int: ...
    @property
    def format(self) -> str: ...
    @property
    def files(self) -> list[str]: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def bad(self) -> BadRanges: ...
    @property
    def blocks(self) -> Blocks: ...
    @property
    def info(self) -> dict[str, Any]: ...
    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def hashes(self) -> list[Hash]: ...
    def pread(self, offset: int, length: int) -> bytes: ...
    def read_partial(self, offset: int, length: int) -> tuple[bytes, list[Failure]]: ...
    def read(self, size: Optional[int] = ...) -> bytes: ...
    def readall(self) -> bytes: ...
    def readinto(self, buffer: Any) -> int: ...

def open(
    path: _Path,
    *,
    format: Optional[str] = ...,
    mapfile: Union[_Path, Literal[False], None] = ...,
    badblocks: Optional[_Path] = ...,
    block_size: Optional[int] = ...,
    sector_size: Optional[int] = ...,
    read_suspect: bool = ...,
    allow_parent: Union[_Path, Iterable[_Path]] = ...,
    snapshot: Optional[str] = ...,
    member: Optional[str] = ...,
    passphrase: Union[str, bytes, None] = ...,
    part: Optional[tuple[int, int]] = ...,
    cache: int = ...,
    remote_cache: Optional[tuple[_Path, int]] = ...,
) -> Disk: ...
def formats() -> list[Format]: ...
