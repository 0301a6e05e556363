"""From images to embeddings: backbone, pooling, head, unit length.

model = nearfar.models.Embedder("resnet18", dim=128)
embeddings = model.encode(["a.jpg", "b.jpg"])
"""

from nearfar.models import pretrained
from nearfar.models.backbones import names
from nearfar.models.embedder import Embedder

load = Embedder.load

__all__ = ["Embedder", "load", "names", "pretrained"]
