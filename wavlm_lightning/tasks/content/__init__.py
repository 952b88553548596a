"""What is said: phoneme recognition, speech recognition, keyword spotting, query by example."""
