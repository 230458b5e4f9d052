"""Transfer learning: one frozen binary network, a small real head per task."""

from bnn.transfer.backbone import Backbone, Where, features, head_inputs, packed_bytes
from bnn.transfer.codes import PackedCodes, extract_codes
from bnn.transfer.comparison import Target, TransferResult, TransferRow, compare_transfer
from bnn.transfer.fine_tuning import fine_tune, fresh_network
from bnn.transfer.heads import Head, HeadConfig, quantised, train_head
from bnn.transfer.storage import load_backbone, load_head, save_backbone, save_head

__all__ = [
    "Backbone",
    "Head",
    "HeadConfig",
    "PackedCodes",
    "Target",
    "TransferResult",
    "TransferRow",
    "Where",
    "compare_transfer",
    "extract_codes",
    "features",
    "fine_tune",
    "fresh_network",
    "head_inputs",
    "load_backbone",
    "load_head",
    "packed_bytes",
    "quantised",
    "save_backbone",
    "save_head",
    "train_head",
]
