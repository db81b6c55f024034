"""The checks and measurements on a CUDA device, in parts that each write what they find at once."""
