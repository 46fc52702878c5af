"""Models: layer groups, feed-forward groups and weights, read from Hugging Face configs."""

from kvplan.model.hf import Explained, explain, from_hf_config
from kvplan.model.spec import Ffn, Kind, Layers, ModelSpec, Part, Quantization

__all__ = ["Explained", "Ffn", "Kind", "Layers", "ModelSpec", "Part", "Quantization", "explain", "from_hf_config"]
