"""The figures of the README, one file each, beside the files that draw them."""
