"""The machine: its devices, what they compute, and the doctor that checks them."""
