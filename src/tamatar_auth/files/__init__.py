"""Files on disk. Every part of the program may use this package; it imports none of them."""
