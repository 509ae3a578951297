"""FlatQuant's layers on a CPU in C++: `codes.h` and `lanes.h` are what is computed, `linear.cpp` a layer.

`build` compiles the sources with the machine's compiler and keeps the library, `choice` says which kernels run, `layer`
calls them. Without a compiler all runs as operations of PyTorch.
"""
