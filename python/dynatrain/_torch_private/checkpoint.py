"""Private API of torch around files of a distributed checkpoint."""

from __future__ import annotations

from typing import Any

from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.storage import WriteResult

from dynatrain._torch_private.present import check_has

check_has(((filesystem, "_StorageInfo"), (filesystem, "_StoragePrefix")))


def prefix_of(rank: int) -> Any:
    """How names of files begin that a rank writes, as a plan has it."""
    return filesystem._StoragePrefix(f"__{rank}_")


def place_of(result: WriteResult) -> tuple[str, int, int]:
    """File, first byte and length of what was written."""
    info: Any = result.storage_data
    return info.relative_path, info.offset, info.length


def written_at(index: MetadataIndex, place: tuple[str, int, int]) -> WriteResult:
    """What a writer says of an entry in this place."""
    return WriteResult(index, place[2], filesystem._StorageInfo(*place))
