"""Training text that every machine has: the source of Python's standard library, as bytes."""

import sysconfig
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset


class StandardLibrary(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `seq_len` bytes; sample i is (tokens, targets), the targets one byte later."""

    def __init__(self, seq_len: int) -> None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
        self.bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.seq_len = seq_len

    def __len__(self) -> int:
        return (len(self.bytes) - 1) // self.seq_len

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        begin = index * self.seq_len
        window = self.bytes[begin : begin + self.seq_len + 1].long()
        return window[:-1], window[1:]
