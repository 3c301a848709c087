"""Tests on a CUDA device. Many reuse tests of other folders, with the accelerator exchanged."""
