"""Teachers: what they are asked, how they are reached, how their answers are read."""
