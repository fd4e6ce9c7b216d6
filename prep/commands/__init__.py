"""What the commands of `pcnet-prep` read besides their flags."""
