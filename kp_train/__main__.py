"""`python -m kp_train`, which is also what `torchrun -m kp_train` starts in each process."""

from kp_train.cli import main

main()
