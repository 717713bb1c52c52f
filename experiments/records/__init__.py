"""What this project measured: its result records, and the sections of its pages that are written from them."""
