"""What is meant: intent classification, slot filling."""
