"""`kubectl vmaccess`: what a person does with grants, with that person's own kubeconfig and rights."""
