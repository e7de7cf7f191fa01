"""The blobs of a .caffemodel, read by Google's protobuf from the few fields of caffe.proto that carry them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.text_format import Parse

# As in src/caffe/proto/caffe.proto; `layers` holds the layers of files from before mid-2014.
_PROTO = """
name: "caffe.proto" package: "caffe" syntax: "proto2"
message_type { name: "BlobShape"
  field { name: "dim" number: 1 type: TYPE_INT64 label: LABEL_REPEATED } }
message_type { name: "BlobProto"
  field { name: "data" number: 5 type: TYPE_FLOAT label: LABEL_REPEATED }
  field { name: "double_data" number: 8 type: TYPE_DOUBLE label: LABEL_REPEATED }
  field { name: "shape" number: 7 type: TYPE_MESSAGE label: LABEL_OPTIONAL type_name: ".caffe.BlobShape" }
  field { name: "num" number: 1 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "channels" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "height" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field { name: "width" number: 4 type: TYPE_INT32 label: LABEL_OPTIONAL } }
message_type { name: "LayerParameter"
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "blobs" number: 7 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".caffe.BlobProto" } }
message_type { name: "V1LayerParameter"
  field { name: "name" number: 4 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "blobs" number: 6 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".caffe.BlobProto" } }
message_type { name: "NetParameter"
  field { name: "layer" number: 100 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".caffe.LayerParameter" }
  field { name: "layers" number: 2 type: TYPE_MESSAGE label: LABEL_REPEATED type_name: ".caffe.V1LayerParameter" } }
"""


def read_caffemodel(path: Path) -> dict[str, torch.Tensor]:
    """`<layer>.weight` and `<layer>.bias` of every layer that has them, float32, shaped as the file says.

    Old files shape all blobs with four numbers; leading ones of full connections and biases are taken away.

    Raises ValueError: the bytes are no such file.
    """
    net = _parse("NetParameter", path)
    found: dict[str, torch.Tensor] = {}
    for layer in (*net.layer, *net.layers):
        for part, blob in zip(("weight", "bias"), layer.blobs, strict=False):
            found[f"{layer.name}.{part}"] = _tensor(blob, least_dimensions=1 if part == "bias" else 2)
    return found


def read_mean(path: Path) -> torch.Tensor:
    """The image of a .binaryproto, float32 [3, H, W]. Raises ValueError where the bytes are no such file."""
    return _tensor(_parse("BlobProto", path), least_dimensions=3)


def _tensor(blob: Any, least_dimensions: int) -> torch.Tensor:
    shape = list(blob.shape.dim)
    if not blob.HasField("shape"):
        shape = [blob.num, blob.channels, blob.height, blob.width]
        while len(shape) > least_dimensions and shape[0] == 1:
            shape.pop(0)
    return torch.from_numpy(np.array(blob.data or blob.double_data, np.float32)).reshape(shape)


def _parse(kind: str, path: Path) -> Any:
    pool = DescriptorPool()
    pool.Add(Parse(_PROTO, FileDescriptorProto()))
    message = GetMessageClass(pool.FindMessageTypeByName(f"caffe.{kind}"))()
    try:
        message.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(error) from None
    return message
