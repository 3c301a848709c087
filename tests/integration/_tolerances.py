"""Allowed error of influence under autocast against float32, relative to the largest value."""

# bfloat16 keeps 8 bits, so each product is off by up to 0.4 %. This is for plain gradient products. A curvature divides
# by small eigenvalues, which can make the error of a direction ten times as large.
BFLOAT16 = 2e-2
