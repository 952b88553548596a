"""Networks and decoders that heads share."""
