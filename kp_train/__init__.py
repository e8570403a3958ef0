"""kp_train: distill a student from a panel or a purified dataset, and tell how good it is."""
