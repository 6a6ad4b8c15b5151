# SPDX-License-Identifier: MIT
"""`python -m geodesic_fast measure`: a tracks file, a Hugging Face model with text, an image model with
images."""
