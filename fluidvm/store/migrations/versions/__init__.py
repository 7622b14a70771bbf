"""One module a step, `NNNN_what.py`; never changed once released."""
