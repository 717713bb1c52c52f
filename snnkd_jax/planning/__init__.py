"""Planning of training runs by compiling them for accelerators that are not attached."""
