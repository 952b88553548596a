"""`wavlm fit`, `validate` and `test`: LightningCLI with run folders."""
