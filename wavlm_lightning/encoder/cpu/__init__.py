"""Fast paths of the encoder on CPUs; each is tested against the plain PyTorch operation it replaces.

- `linears`: `F.linear` by oneDNN where asked for (`linear_timing` measures, `onednn` holds the private operators).
- `strided_front_end`: the convolutions of stride 2 as matrix products (`strided_products`).
- `spectral_convolution`: the positional convolution by Fourier transforms.
- `inference_prep` and `weight_cache`: values that depend on the weights alone, computed once.
- `folded_norm` and `chunks` bound the memory of the front-end, on every device.

No file here imports a model file. Tests: `tests/encoder/test_encoder_{products,linears,prepared,frontend}.py`.
"""
