# SPDX-License-Identifier: MIT
"""The border to the compiled engine: what it is handed, how its kernels become operations of torch.

`load` alone imports `geodesic_fast._C` and knows where it works; `handing` makes addresses of tensors,
`operation` is what every operation shares, `torch_internals` holds every private name of torch. The other
files are one family of kernels each: allocate, call, backward.
"""
