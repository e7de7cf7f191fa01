"""The forms in which other programs keep a net: safetensors, a plain torch module, ONNX, Caffe's layout and torchvision's."""
