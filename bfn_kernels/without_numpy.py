"""Hides torch's warning that NumPy is not installed, since this package does not need NumPy. Some versions of torch
warn at their import, and others when they first read a number. An installed NumPy that does not load is still named."""

import warnings

warnings.filterwarnings("ignore", "Failed to initialize NumPy: No module named 'numpy'", UserWarning)
