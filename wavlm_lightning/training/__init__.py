"""What pre-training and tasks share: learning-rate schedules and FSDP2."""
