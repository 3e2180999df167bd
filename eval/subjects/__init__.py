"""What is evaluated: runs of this project and models of others, behind one interface."""
