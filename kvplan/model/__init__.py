"""Models: layer groups, feed-forward groups and weights, read from Hugging Face configs."""

from kvplan.model.hf import from_hf_config
from kvplan.model.spec import Ffn, Kind, Layers, ModelSpec, Part, Quantization

__all__ = ["Ffn", "Kind", "Layers", "ModelSpec", "Part", "Quantization", "from_hf_config"]
