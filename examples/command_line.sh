#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Measure without writing code: a file of tracks, a Hugging Face model on a text, an image model on a folder.
set -euo pipefail

python -m geodesic_fast measure tracks.npy               # or .npz, .safetensors, .pt
python -m geodesic_fast measure gpt2 --text book.txt     # a name on the Hugging Face hub, or a local folder
python -m geodesic_fast measure vit --images photos      # or timm:NAME, torchvision:NAME
