"""Reading and writing encoder weights, without executing anything in a file.

`formats` recognises a checkpoint and calls one of `huggingface` (folders, read and written), `unilm` (also fairseq) and
`torchaudio`; `tensor_files` reads safetensors and PyTorch files, `sharded_files` the folders of FSDP2.

Tests: `tests/encoder/test_encoder_checkpoints.py`.
"""
