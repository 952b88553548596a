"""`wavlm export`: encoders and heads to Hugging Face folders, ONNX and torch.export."""
