"""One thread for every test: the models are small, and two processes share the machine's cores with others."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
