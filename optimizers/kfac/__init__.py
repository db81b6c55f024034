"""Natural gradients with Kronecker factors: their parts."""
