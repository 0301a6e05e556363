"""Cross-batch memory: embeddings of past steps as further candidates."""

from nearfar.memory.cross_batch import CrossBatchMemory
from nearfar.memory.recalled import Recalled

__all__ = ["CrossBatchMemory", "Recalled"]
