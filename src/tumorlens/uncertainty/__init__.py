"""How sure an answer is: calibration, out-of-distribution score, decision."""
