"""What is decided: pure functions from grants and observed objects to plans and conditions. No I/O, no clock."""
