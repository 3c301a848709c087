"""How near to float32 influence must come under autocast: relative error against the largest value."""

# bfloat16 keeps 8 bits, so each product is off by up to 0.4 %. This is for plain gradient products: a curvature divides
# by small eigenvalues, and a direction in which that error shows can weigh ten times as much.
BFLOAT16 = 2e-2
